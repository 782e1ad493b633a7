"""Models of text with fixed random weights."""

from __future__ import annotations

import numpy as np

from models.artifact.artifact import Artifact
from models.artifact.text import text_artifact
from models.nets.architecture import Architecture, Embedding

LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def text_model(
    name: str = "letters", pieces: str = LETTERS, hidden: int = 24, cell: str = "lstm"
) -> Artifact:
    """One token a letter. The weights are large enough that what was read long ago still shows."""
    architecture = Architecture(cell, embedding=Embedding(len(pieces), 8))  # type: ignore[arg-type]
    rng = np.random.default_rng(len(pieces))
    shapes = architecture.weight_shapes(1, hidden, 1, len(pieces))
    weights = {
        key: rng.normal(0, 1.5 / np.sqrt(shape[-1]), shape).astype(np.float32)
        for key, shape in shapes.items()
    }
    return text_artifact(name, tuple(pieces), weights, architecture)
