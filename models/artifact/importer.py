"""Make an artifact of a network that was trained elsewhere."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.arrays import Floats
from models.artifact.artifact import MAX_WEIGHT_BYTES, PredictionMode, check_bounds
from models.artifact.files import Artifact, Column, Scaling
from models.errors import BadArtifact
from models.nets.lstm import weight_shapes

WRAPPERS = ("model_state_dict", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")
HINT = "save the weights with torch.save(model.state_dict(), path)"


def import_checkpoint(
    path: Path,
    name: str,
    *,
    columns: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    targets: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    predicts: PredictionMode = "level",
) -> Artifact:
    """Turn the `state_dict` of a class with `self.lstm` and `self.fc` into an artifact.

    Parameters
    ----------
    path
        What `torch.save(model.state_dict(), path)` wrote. It is read with `weights_only=True`, so that no
        code in it runs. The shape is that of the weights.
    columns, units, targets
        Names of inputs and outputs. Without names the inputs are `value`, or `x0, x1, ...`. If there are as
        many outputs as inputs, they are taken for the next values of the inputs; otherwise they are `y0, y1,
        ...`.
    mean, std
        The scaling that the network was trained with, one number for each input; by default none. Outputs
        that are not inputs are not scaled.

    Raises
    ------
    BadArtifact
        The message names the file and what does not fit.
    """
    try:
        weights = _weights(_state_dict(path))
        inputs = _columns(weights["lstm.weight_ih_l0"].shape[1], columns, units or {})
        names = _targets(weights["fc.weight"].shape[0], [column.name for column in inputs], targets)
        zeros, ones = [0.0] * len(inputs), [1.0] * len(inputs)
        scaling = Scaling(np.array(zeros if mean is None else mean), np.array(ones if std is None else std))
        return Artifact(
            name=name,
            inputs=inputs,
            targets=names,
            hidden_size=weights["fc.weight"].shape[1],
            num_layers=sum(key.startswith("lstm.weight_ih_l") for key in weights),
            scaling=scaling,
            target_scaling=_target_scaling(scaling, inputs, names),
            weights=weights,
            predicts=predicts,
        )
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from error


def _state_dict(path: Path) -> dict[str, Any]:
    _check_size(path)
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BadArtifact(
            f"holds more than weights; it was not loaded, because loading would run its code; {HINT}"
        ) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise BadArtifact(f"is damaged or not a checkpoint: {reason}") from error
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise BadArtifact(f"is not a state_dict; {HINT}")
    return _unprefixed(loaded)


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise BadArtifact("is not a file")
    size = path.stat().st_size
    if zipfile.is_zipfile(path):  # a small archive may unpack to a large one
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    if size > 2 * MAX_WEIGHT_BYTES:
        raise BadArtifact(f"holds {size} bytes, more than a network may have")


def _unprefixed(state: dict[str, Any]) -> dict[str, Any]:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _weights(state: dict[str, Any]) -> dict[str, Floats]:
    # Check shapes first: a tensor of stride zero is small in the file, but may be huge when copied.
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise BadArtifact(f"{key[:80]} is not a dense tensor of floats")
    shapes = _expected(state)
    for name in sorted(set(shapes) ^ set(state)):
        raise BadArtifact(f"{'lacks' if name in shapes else 'has an unexpected'} {name[:80]}")
    for key, shape in shapes.items():
        if tuple(state[key].shape) != shape:
            raise BadArtifact(f"{key} has shape {list(state[key].shape)}, expected {list(shape)}")
    return {key: value.detach().to(torch.float32).numpy().copy() for key, value in state.items()}


def _expected(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    for key in ("lstm.weight_ih_l0", "fc.weight"):
        if key not in state or state[key].ndim != 2:
            raise BadArtifact(
                f"lacks a matrix {key}: the class must have an nn.LSTM lstm and an nn.Linear fc"
            )
    output_size, hidden_size = state["fc.weight"].shape
    input_size = state["lstm.weight_ih_l0"].shape[1]
    layers = sum(key.startswith("lstm.weight_ih_l") and not key.endswith("_reverse") for key in state)
    check_bounds(hidden_size, layers, input_size, output_size)
    return weight_shapes(input_size, hidden_size, layers, output_size)


def _columns(count: int, names: Sequence[str] | None, units: Mapping[str, str]) -> tuple[Column, ...]:
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


def _target_scaling(scaling: Scaling, inputs: Sequence[Column], targets: Sequence[str]) -> Scaling:
    numbers = zip(scaling.mean, scaling.std, strict=True)
    known = dict(zip((column.name for column in inputs), numbers, strict=False))
    pairs = np.array([known.get(target, (0.0, 1.0)) for target in targets])
    return Scaling(pairs[:, 0], pairs[:, 1])
