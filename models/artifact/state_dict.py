"""Read the `state_dict` of a network that was trained elsewhere, under the names of `StatefulLSTM`."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.arrays import Floats
from models.artifact.artifact import MAX_WEIGHT_BYTES, check_bounds
from models.errors import BadArtifact
from models.nets.lstm import weight_shapes

WRAPPERS = ("model_state_dict", "state_dict", "model")
ADDED = frozenset(("module", "_orig_mod"))  # parts of names that DataParallel and torch.compile add
MODULES = ("lstm", "fc")
HINT = "save the weights with torch.save(model.state_dict(), path)"


def read_state_dict(path: Path, names: Mapping[str, str]) -> dict[str, Floats]:
    """The weights in a checkpoint; biases that the modules do not have are zeros.

    Parameters
    ----------
    path
        Read with `weights_only=True`, so that no code in it runs.
    names
        What the class calls `lstm` and `fc`, such as {"lstm": "encoder.rnn"}; by default these names.

    Raises
    ------
    BadArtifact
        The file is not a state_dict, or not that of an LSTM and a linear layer.
    """
    state = _rename(_load(path), names)
    # Check shapes first: a tensor of stride zero is small in the file, but may be huge when copied.
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise BadArtifact(f"{key[:80]} is not a dense tensor of floats")
    shapes = _expected_shapes(state)
    state = _with_biases(state, shapes)
    for name in sorted(set(shapes) ^ set(state)):
        raise BadArtifact(f"{'lacks' if name in shapes else 'has an unexpected'} {name[:80]}")
    for key, shape in shapes.items():
        if tuple(state[key].shape) != shape:
            raise BadArtifact(f"{key} has shape {list(state[key].shape)}, expected {list(shape)}")
    return {key: value.detach().to(torch.float32).numpy().copy() for key, value in state.items()}


def _load(path: Path) -> dict[str, Any]:
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
    return loaded


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise BadArtifact("is not a file")
    size = path.stat().st_size
    if zipfile.is_zipfile(path):  # a small archive may unpack to a large one
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    if size > 2 * MAX_WEIGHT_BYTES:
        raise BadArtifact(f"holds {size} bytes, more than a network may have")


def _rename(state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Each `NAME.weight...` of the class as `lstm.weight...` or `fc.weight...`."""
    for module in names:
        if module not in MODULES:
            raise BadArtifact(f"there is no module {module!r} to name; there are {', '.join(MODULES)}")
    plain = [(_without_added(key), value) for key, value in state.items()]
    wanted = {names.get(module, module): module for module in MODULES}
    if len(wanted) < len(MODULES):
        raise BadArtifact(f"lstm and fc are both named {next(iter(wanted))!r}")
    outer = _outer_name([key for key, _ in plain], wanted)
    renamed: dict[str, Any] = {}
    for key, value in plain:
        module, _, weight = key.removeprefix(outer).rpartition(".")
        own = f"{wanted[module]}.{weight}" if module in wanted else key.removeprefix(outer)
        if own in renamed:
            raise BadArtifact(f"has two weights for {own[:80]}")
        renamed[own] = value
    _check_modules(renamed, names)
    return renamed


def _without_added(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in ADDED)


def _outer_name(keys: list[str], wanted: Mapping[str, str]) -> str:
    """The name, with its dot, of a module around both, such as the `self.model` of a Lightning module."""
    outer = ""
    while keys:
        first = keys[0].removeprefix(outer).partition(".")[0]
        deeper = f"{outer}{first}."
        if any(f"{name}.".startswith(f"{first}.") for name in wanted):
            break
        if not all(key.startswith(deeper) for key in keys):
            break
        outer = deeper
    return outer


def _check_modules(state: Mapping[str, Any], names: Mapping[str, str]) -> None:
    for module, key in zip(MODULES, ("lstm.weight_ih_l0", "fc.weight"), strict=True):
        if key in state and getattr(state[key], "ndim", 2) == 2:
            continue
        found = sorted({name.rpartition(".")[0] or name for name in state})
        listed = ", ".join(name[:40] for name in found[:8]) or "nothing"
        called = f" as {names[module]!r}" if module in names else ""
        raise BadArtifact(
            f"lacks a matrix {key}{called}: the class must have one nn.LSTM and one nn.Linear; "
            f"it has {listed}. If they have other names, give them: --names lstm=NAME,fc=NAME"
        )


def _expected_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    output_size, hidden_size = state["fc.weight"].shape
    input_size = state["lstm.weight_ih_l0"].shape[1]
    layers = sum(key.startswith("lstm.weight_ih_l") and not key.endswith("_reverse") for key in state)
    check_bounds(hidden_size, layers, input_size, output_size)
    return weight_shapes(input_size, hidden_size, layers, output_size)


def _with_biases(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros for the biases of a module that was made with `bias=False`, which then has none at all."""
    whole = dict(state)
    for module in MODULES:
        biases = [name for name in shapes if name.startswith(f"{module}.bias")]
        if not any(name.startswith(f"{module}.bias") for name in state):
            whole |= {name: torch.zeros(shapes[name]) for name in biases}
    return whole
