"""A training on disk. A resumed training gives the same result as one that was never interrupted."""

import os
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch

from models.errors import BadCheckpoint

FORMAT = "carryover-training"
FORMAT_VERSION = 1


class Resumable(Protocol):
    """A training of a table or of a text, between two epochs or rounds."""

    @property
    def recipe_fields(self) -> dict[str, Any]:
        """Of the recipe, JSON values."""

    @property
    def data_digest(self) -> str:
        """SHA-256 (hex) over all that is learned from."""

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, as plain values and tensors."""

    def restore(self, state: dict[str, Any]) -> None:
        """Return to `state`, which was taken under the same recipe and data."""


def save_checkpoint(training: Resumable, path: Path) -> None:
    """Write the present state. An earlier file is replaced atomically, or kept on an error."""
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


def load_checkpoint(training: Resumable, path: Path) -> None:
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


def _labels(training: Resumable) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": training.recipe_fields,
        "data": training.data_digest,
    }
