"""A training on disk, to be gone on with: same recipe, same data, same result as without the interruption."""

import hashlib
import os
import pickle
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch

from models.data.dataset import Dataset
from models.errors import BadCheckpoint
from models.training.training import Training

FORMAT = "carryover-training"
FORMAT_VERSION = 1


def save_checkpoint(training: Training, path: Path) -> None:
    """Write the state after the last epoch; the file before is replaced in one step or stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            torch.save(_labels(training) | {"state": training.state()}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def load_checkpoint(training: Training, path: Path) -> None:
    """Bring a training to where the checkpoint was taken.

    Raises
    ------
    BadCheckpoint
        If it is no checkpoint, or another recipe's, or of other data; the training is as it was.
    """
    try:
        told: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(f"{path} holds more than a training, and is not run to find out what") from error
    except Exception as error:
        raise BadCheckpoint(f"{path} is damaged or no checkpoint; remove it to start anew") from error
    if not isinstance(told, dict):
        raise BadCheckpoint(f"{path} is no checkpoint")
    for label, value in _labels(training).items():
        if told.get(label) != value:
            raise BadCheckpoint(
                f"{path} is of another {label}; remove it to start anew, or go on as it was begun"
            )
    training.restore(told["state"])


def _labels(training: Training) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": training.recipe.told(),
        "data": _digest(training.dataset),
    }


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256(repr((dataset.names, dataset.targets, astuple(dataset.split))).encode())
    for values in (dataset.observations, dataset.truth):
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
