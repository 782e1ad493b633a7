"""A training on disk. A resumed training gives the same result as one that was never interrupted."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from models.errors import BadCheckpoint
from models.training.rounds import RoundTraining

FORMAT = "carryover-training"
FORMAT_VERSION = 1


def save_checkpoint(training: RoundTraining[Any], path: Path) -> None:
    """Write the present state. An earlier file is replaced atomically, or kept on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(_identity(training) | {"state": training.state()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(training: RoundTraining[Any], path: Path) -> None:
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
    for name, value in _identity(training).items():
        if checkpoint.get(name) != value:
            raise BadCheckpoint(
                f"{path} is of another {name}; remove it to start again, or resume with the same {name}"
            )
    training.restore(checkpoint["state"])


def _identity(training: RoundTraining[Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": training.recipe.as_dict(),
        "data": training.data_digest,
    }
