"""Make an artifact of a model of text: tokens -> embedding -> recurrent layers -> logits of the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.arrays import Floats
from models.artifact.artifact import Artifact
from models.data.scaling import Column, Scaling
from models.nets.architecture import Architecture

TOKEN = "token"


def text_artifact(
    name: str,
    vocabulary: Sequence[str],
    weights: Mapping[str, Floats],
    architecture: Architecture,
    metrics: Mapping[str, Any] | None = None,
) -> Artifact:
    """The artifact of these weights.

    Parameters
    ----------
    vocabulary : the text that each token stands for
    weights : under the names of `RecurrentNetwork`'s state_dict, float32
    architecture : with an embedding

    Raises
    ------
    BadArtifact : anything does not fit together
    """
    recurrent = [
        weight for key, weight in weights.items() if key.startswith(f"{architecture.cell}.weight_hh")
    ]
    nothing, alike = np.zeros(len(vocabulary)), np.ones(len(vocabulary))
    return Artifact(
        name=name,
        inputs=(Column(TOKEN),),
        targets=tuple(vocabulary),
        hidden_size=recurrent[0].shape[1] if recurrent else 0,
        num_layers=len(recurrent),
        scaling=Scaling(np.zeros(1), np.ones(1)),
        target_scaling=Scaling(nothing, alike),
        weights=weights,
        architecture=architecture,
        vocabulary=tuple(vocabulary),
        metrics=metrics or {},
    )
