"""A training on disk. A resumed training gives the same result as one that was never interrupted."""

import hashlib
import os
import pickle
from collections.abc import Sequence
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
    """Write the state after the last epoch. An earlier file is replaced atomically, or kept on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(_labels(training) | {"state": training.state()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(training: Training, path: Path) -> None:
    """Restore a training from its checkpoint.

    Raises
    ------
    BadCheckpoint
        The file is not a checkpoint, or one of another recipe or of other data. The training is unchanged.
    """
    try:
        checkpoint: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadCheckpoint(
            f"{path} holds more than a training; it was not loaded, because loading would run its code"
        ) from error
    except Exception as error:
        raise BadCheckpoint(f"{path} is damaged or not a checkpoint; remove it to start again") from error
    if not isinstance(checkpoint, dict):
        raise BadCheckpoint(f"{path} is not a checkpoint")
    for label, value in _labels(training).items():
        if checkpoint.get(label) != value:
            raise BadCheckpoint(
                f"{path} is of another {label}; remove it to start again, or resume with the same {label}"
            )
    training.restore(checkpoint["state"])


def _labels(training: Training) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": training.recipe.as_dict(),
        "data": _digest(training.datasets),
    }


def _digest(datasets: Sequence[Dataset]) -> str:
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(repr((dataset.names, dataset.targets, astuple(dataset.split))).encode())
        for values in (dataset.observations, dataset.truth):
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()
