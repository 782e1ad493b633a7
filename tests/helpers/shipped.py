"""Graphs that ship inside packages on PyPI, and how the Silero package runs its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

SILERO = "silero_vad/data/silero_vad.onnx"
FRAME, CONTEXT = 512, 64  # samples at 16 kHz


def found(path: str) -> Path:
    """A package's file, by its path in the folder that `make .venv/.test` fills, or in site-packages."""
    unpacked = Path(sys.prefix) / "shipped-graphs"
    for folder in (os.environ.get("CARRYOVER_SHIPPED_GRAPHS"), unpacked, *sys.path):
        if folder and (Path(folder) / path).is_file():
            return Path(folder) / path
    pytest.skip(f"{path} is not here: make could not bring the packages of tests/shipped-graphs.txt")


def silero(session: onnxruntime.InferenceSession, frames: np.ndarray) -> np.ndarray:
    """[frames, 1], the probabilities of speech in [frames, 512], one call a frame, as the package does it."""
    context, state = np.zeros((1, CONTEXT), np.float32), np.zeros((2, 1, 128), np.float32)
    given = {value.name for value in session.get_inputs()}
    answers = []
    for frame in frames:
        feeds = {"input": np.concatenate([context, frame[None]], axis=1), "state": state}
        feeds |= {"sr": np.array(16000)} if "sr" in given else {}
        answer, state = session.run(["output", "stateN"], feeds)
        context = frame[None, -CONTEXT:]
        answers.append(answer[0])
    return np.array(answers)
