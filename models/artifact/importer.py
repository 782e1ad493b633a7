"""Make an artifact of a network that was trained elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from models.arrays import Floats
from models.artifact.artifact import PredictionMode
from models.artifact.files import Artifact, Column, Scaling
from models.artifact.state_dict import read_state_dict
from models.errors import BadArtifact
from models.nets.architecture import Architecture


@dataclass(frozen=True)
class CheckpointColumns:
    """What a checkpoint does not say of the network's inputs and outputs.

    Attributes
    ----------
    inputs, units, targets
        Names of inputs and outputs, and units by input. Without names the inputs are `value`, or `x0, x1,
        ...`. If there are as many outputs as inputs, they are taken for the next values of the inputs;
        otherwise they are `y0, y1, ...`.
    mean, std
        The scaling that the network was trained with, one number for each input; by default none. Outputs
        that are not inputs are not scaled.
    """

    inputs: Sequence[str] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    targets: Sequence[str] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def import_checkpoint(
    path: Path,
    name: str,
    columns: CheckpointColumns | None = None,
    *,
    predicts: PredictionMode = "level",
    modules: Mapping[str, str] | None = None,
    head: Sequence[str] = (),
) -> Artifact:
    """Turn the `state_dict` of a class with an `nn.LSTM`, `nn.GRU` or `nn.RNN` and a head into an artifact.

    What the class does in its `forward` is not in the file: the artifact computes the head of the recurrent
    layers' output, and nothing else. `models.evaluation.verify` compares the two.

    Parameters
    ----------
    path
        What `torch.save(model.state_dict(), path)` wrote. It is read with `weights_only=True`: no code in it
        runs. The shape is that of the weights.
    predicts
        What the last layer outputs: the next value, or its change.
    modules, head
        What the class calls its modules, and what its head computes; see `read_state_dict`.

    Raises
    ------
    BadArtifact
        The message names the file and what does not fit.
    """
    columns = columns or CheckpointColumns()
    try:
        weights, architecture = read_state_dict(path, modules or {}, head)
        layers = sum(key.startswith(f"{architecture.cell}.weight_ih_l") for key in weights)
        inputs, names = _columns(weights, architecture, columns)
        scaling = _scaling(len(inputs), columns)
        return Artifact(
            name=name,
            inputs=inputs,
            targets=names,
            hidden_size=weights[f"{architecture.cell}.weight_hh_l0"].shape[1],
            num_layers=layers,
            scaling=scaling,
            target_scaling=_target_scaling(scaling, inputs, names),
            weights=weights,
            predicts=predicts,
            architecture=architecture,
        )
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from error


def _columns(
    weights: Mapping[str, Floats], architecture: Architecture, columns: CheckpointColumns
) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    """The inputs, and the names of the targets."""
    outputs = len(weights["fc.bias"])
    if architecture.embedding is not None:
        inputs = _inputs(1, replace(columns, inputs=columns.inputs or ["token"]))
        return inputs, _targets(outputs, [], columns.targets)
    inputs = _inputs(weights[f"{architecture.cell}.weight_ih_l0"].shape[1], columns)
    return inputs, _targets(outputs, [column.name for column in inputs], columns.targets)


def _inputs(count: int, columns: CheckpointColumns) -> tuple[Column, ...]:
    names, units = columns.inputs, columns.units
    names = names or (["value"] if count == 1 else [f"x{i}" for i in range(count)])
    if len(names) != count:
        raise BadArtifact(f"has {count} inputs, not {len(names)}")
    for name in units:
        if name not in names:
            raise BadArtifact(f"has no input {name!r} to give a unit to; its inputs are {', '.join(names)}")
    return tuple(Column(name, units.get(name)) for name in names)


def _targets(count: int, columns: list[str], names: Sequence[str] | None) -> tuple[str, ...]:
    names = names or (columns if count == len(columns) else [f"y{i}" for i in range(count)])
    if len(names) != count:
        raise BadArtifact(f"has {count} outputs, not {len(names)}")
    return tuple(names)


def _scaling(count: int, columns: CheckpointColumns) -> Scaling:
    mean = [0.0] * count if columns.mean is None else columns.mean
    std = [1.0] * count if columns.std is None else columns.std
    return Scaling(np.array(mean), np.array(std))


def _target_scaling(scaling: Scaling, inputs: Sequence[Column], targets: Sequence[str]) -> Scaling:
    numbers = zip(scaling.mean, scaling.std, strict=True)
    known = dict(zip((column.name for column in inputs), numbers, strict=False))
    pairs = np.array([known.get(target, (0.0, 1.0)) for target in targets])
    return Scaling(pairs[:, 0], pairs[:, 1])
