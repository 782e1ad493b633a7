"""The state that each stream should have, computed in float64 beside the server."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.reference import HIDDEN, TOLERANCE, Reference

LONGEST = 60

Carry = tuple[torch.Tensor, torch.Tensor]


class WrongAnswer(AssertionError):
    """The server gave a wrong answer."""


@dataclass
class Stream:
    """One session, and the state that its answers are compared with."""

    name: str
    tenant: str
    carry: Carry
    position: int = 0
    epoch: str | None = None
    phase: float = 0.0
    last: float | None = None


class Checker:
    """Draws the observations of streams, and compares what the server answers with its own computation."""

    def __init__(self, weights: Path, draw: random.Random, counts: Counter[str]) -> None:
        self.lstm, self.fc = Reference(load_file(weights)).modules()
        self.draw = draw
        self.counts = counts
        self.worst = 0.0

    def zero_carry(self) -> Carry:
        nothing = torch.zeros(1, 1, HIDDEN, dtype=torch.float64)
        return nothing, nothing

    def draw_observations(self, stream: Stream) -> np.ndarray[Any, np.dtype[np.float64]]:
        count = self.draw.choice((1, 1, 1, 2, 5, self.draw.randint(1, LONGEST)))
        rows: np.ndarray[Any, np.dtype[np.float64]] = np.sin(stream.phase + 0.1 * np.arange(count))
        rows = rows.astype(np.float32).astype(np.float64)
        stream.phase += 0.1 * count
        return rows

    def reference(self, rows: np.ndarray[Any, Any], carry: Carry) -> tuple[np.ndarray[Any, Any], Carry]:
        with torch.no_grad():
            outputs, carry = self.lstm(torch.from_numpy(rows).view(1, -1, 1), carry)
            return self.fc(outputs).view(-1).numpy(), carry

    def compare(
        self, stream: Stream, rows: np.ndarray[Any, Any], predictions: list[float], position: int
    ) -> None:
        expected, stream.carry = self.reference(rows, stream.carry)
        stream.position += len(rows)
        stream.last = float(expected[-1])
        if position != stream.position:
            raise WrongAnswer(f"{stream.name} was answered position {position}, but is at {stream.position}")
        self.check_predictions(predictions, expected, stream)
        self.counts["predictions"] += len(rows)

    def check_predictions(self, predictions: Any, expected: Any, stream: Stream) -> None:
        off = float(np.abs(np.asarray(predictions) - np.asarray(expected)).max())
        self.worst = max(self.worst, off)
        if not off <= TOLERANCE:
            raise WrongAnswer(f"{stream.name} at {stream.position}: the error of a prediction is {off}")
