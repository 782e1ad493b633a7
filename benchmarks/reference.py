"""The weights that every measured server runs, and the one-pass computation that judges their answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.streams import Array
from models.artifact.files import Artifact, save
from models.data.scaling import Column, Scaling

HIDDEN = 64
TOLERANCE = 1e-4
"""Absolute; float32 against float64 over some ten thousand steps stays well inside, a lost step does not."""


@dataclass(frozen=True)
class Reference:
    """One LSTM(1, 64) + Linear in float64, run over a whole stream in one pass.

    Parameters
    ----------
    weights
        A ``state_dict`` with the names ``lstm.*`` and ``fc.*``.
    """

    weights: dict[str, Tensor]

    def predictions(self, stream: Array) -> Array:
        """Predict what follows each observation of a stream [steps] from a fresh carry: [steps]."""
        lstm, fc = self.modules()
        with torch.no_grad():
            outputs = fc(lstm(torch.from_numpy(stream).view(1, -1, 1))[0])
        answer: Array = outputs.view(-1).numpy()
        return answer

    def modules(self) -> tuple[nn.LSTM, nn.Linear]:
        """The network itself, in float64, to run a stream in parts."""
        lstm = nn.LSTM(1, HIDDEN, batch_first=True, dtype=torch.float64)
        fc = nn.Linear(HIDDEN, 1, dtype=torch.float64)
        lstm.load_state_dict(_part(self.weights, "lstm."))
        fc.load_state_dict(_part(self.weights, "fc."))
        return lstm, fc


def write_seeded_weights(path: Path, seed: int = 0) -> None:
    """Write the random LSTM(1, 64) + Linear of one seed as safetensors, with PyTorch's own initialisation."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        modules = nn.ModuleDict({"lstm": nn.LSTM(1, HIDDEN, batch_first=True), "fc": nn.Linear(HIDDEN, 1)})
    save_file(modules.state_dict(), path)


def write_artifact(weights: Path, folder: Path, name: str = "bench") -> None:
    """Write the same weights as an artifact that Carryover serves, with a scaling that changes nothing."""
    identity = Scaling(np.zeros(1), np.ones(1))
    arrays = {name: tensor.numpy() for name, tensor in load_file(weights).items()}
    artifact = Artifact(name, (Column("value"),), ("value",), HIDDEN, 1, identity, identity, arrays)
    save(artifact, folder)


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor.double()
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }
