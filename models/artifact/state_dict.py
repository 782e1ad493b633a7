"""Read the `state_dict` of a network that was trained elsewhere, under the names of `RecurrentNetwork`.

A file has weights and the names of their modules, and nothing of `forward`. The kind of cells follows from
the shapes. What lies between the modules of a head does not, so the caller says it.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.arrays import Floats
from models.artifact.artifact import MAX_WEIGHT_BYTES, check_bounds
from models.errors import BadArtifact
from models.nets.architecture import ACTIVATIONS, CELLS, GATES, Architecture, Embedding, HeadLayer

WRAPPERS = ("model_state_dict", "state_dict", "model")
ADDED = frozenset(("module", "_orig_mod"))  # parts of names that DataParallel and torch.compile add
ROLES = (*CELLS, "fc", "embedding")
Modules = dict[str, dict[str, Tensor]]  # module -> weight -> tensor
HINT = "save the weights with torch.save(model.state_dict(), path)"


def read_state_dict(
    path: Path, names: Mapping[str, str], head: Sequence[str] = ()
) -> tuple[dict[str, Floats], Architecture]:
    """The weights in a checkpoint, and the network that they are of; biases that modules lack are zeros.

    Parameters
    ----------
    path
        Read with `weights_only=True`, so that no code in it runs.
    names
        What the class calls its recurrent module (`lstm`, `gru` or `rnn`, which mean the same), `fc` and
        `embedding`, such as {"lstm": "encoder.rnn"}; by default these names.
    head
        What `forward` computes of the hidden state, in order: names of linear layers and layer norms, and
        activations between them. The last is the readout. By default `fc` alone.

    Raises
    ------
    BadArtifact
        The file is not a state_dict, or not that of such a network.
    """
    for role in names:
        if role not in ROLES:
            raise BadArtifact(f"there is no module {role!r} to name; there are {', '.join(ROLES)}")
    named = [*names.values(), *(layer for layer in head if layer not in ACTIVATIONS)]
    for name in named:
        if named.count(name) > 1:
            raise BadArtifact(f"two modules are both named {name[:80]!r}")
    modules = _modules(_load(path), names, head)
    recurrent = _find_recurrent(modules, names)
    chain = _find_head(modules, names, head)
    embedding = names.get("embedding", "embedding")
    architecture = _architecture(modules, recurrent, chain, modules.get(embedding))
    roles = {recurrent: architecture.cell, embedding: "embedding", chain[-1]: "fc"}
    roles |= {name: f"head.{place}" for place, name in enumerate(chain[:-1]) if name in modules}
    state = {
        f"{roles.get(module, module)}.{weight}": value
        for module, weights in modules.items()
        for weight, value in weights.items()
    }
    shapes = _expected_shapes(state, architecture)
    state = _with_biases(state, shapes)
    for name in sorted(set(shapes) ^ set(state)):
        raise BadArtifact(f"{'lacks' if name in shapes else 'has an unexpected'} {name[:80]}")
    for key, shape in shapes.items():
        if tuple(state[key].shape) != shape:
            raise BadArtifact(f"{key} has shape {list(state[key].shape)}, expected {list(shape)}")
    weights = {key: value.detach().to(torch.float32).numpy().copy() for key, value in state.items()}
    return weights, architecture


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


def _modules(state: Mapping[str, Any], names: Mapping[str, str], head: Sequence[str]) -> Modules:
    """The tensors by module, without the names of modules around all of them."""
    plain = [(_without_added(key), value) for key, value in state.items()]
    wanted = {*CELLS, "fc", "embedding", *names.values(), *head}
    outer = _outer_name([key for key, _ in plain], wanted)
    modules: Modules = {}
    for key, value in plain:
        # Check shapes before copying: a tensor of stride zero is small in the file, but its copy may be huge.
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            raise BadArtifact(f"{key[:80]} is not a dense tensor of floats")
        module, _, weight = key.removeprefix(outer).rpartition(".")
        weights = modules.setdefault(module, {})
        if weight in weights:
            raise BadArtifact(f"has two weights for {key[:80]}")
        weights[weight] = value
    return modules


def _without_added(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in ADDED)


def _outer_name(keys: list[str], wanted: set[str]) -> str:
    """The name, with its dot, of a module around all, such as the `self.model` of a Lightning module."""
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


def _find_recurrent(modules: Modules, names: Mapping[str, str]) -> str:
    """The name of the recurrent module."""
    named = [names[cell] for cell in CELLS if cell in names] or CELLS
    for name in named:
        if all(_is_matrix(modules, name, f"weight_{part}_l0") for part in ("ih", "hh")):
            return name
    raise _missing(modules, "lstm.weight_ih_l0", named[0] if named is not CELLS else None)


def _find_head(modules: Modules, names: Mapping[str, str], head: Sequence[str]) -> list[str]:
    """Names of modules and activations, the readout last."""
    if head:
        for name in head:
            if name not in ACTIVATIONS and name not in modules:
                raise _missing(modules, f"{name}.weight", None)
        if not _is_matrix(modules, head[-1], "weight"):
            raise BadArtifact(f"the head must end with a linear layer, and {head[-1][:80]!r} is none")
        return list(head)
    name = names.get("fc", "fc")
    if not _is_matrix(modules, name, "weight"):
        parts = [part for part in modules if part.startswith(f"{name}.")]
        if len(parts) > 1:
            raise BadArtifact(
                f"{name} has several layers, and the file does not say what lies between them; give them in "
                f"the order of your forward, such as --head {',relu,'.join(parts)}"
            )
        raise _missing(modules, "fc.weight", names.get("fc"))
    return [name]


def _is_matrix(modules: Modules, module: str, weight: str) -> bool:
    found = modules.get(module, {}).get(weight)
    return found is not None and found.ndim == 2


def _missing(modules: Modules, weight: str, name: str | None) -> BadArtifact:
    found = ", ".join(module[:40] for module in sorted(modules)[:8]) or "nothing"
    called = f" as {name!r}" if name else ""
    return BadArtifact(
        f"lacks a matrix {weight}{called}: the class must have one nn.LSTM, nn.GRU or nn.RNN and one "
        f"nn.Linear; it has {found}. If they have other names, give them: "
        "--names lstm=NAME,fc=NAME"
    )


def _architecture(
    modules: Modules, recurrent: str, chain: list[str], embedding: Mapping[str, Tensor] | None
) -> Architecture:
    rows, hidden_size = (
        len(modules[recurrent]["weight_ih_l0"]),
        modules[recurrent]["weight_hh_l0"].shape[1],
    )
    gates = rows / max(hidden_size, 1)
    cell = next((cell for cell in CELLS if GATES[cell] == gates), None)
    if cell is None:
        raise BadArtifact(
            f"{recurrent}.weight_ih_l0 has {rows} rows for {hidden_size} hidden units; expected are 4 of an "
            "LSTM, 3 of a GRU or 1 of a plain RNN for each"
        )
    layers: list[HeadLayer] = []
    for name in chain[:-1]:
        if name not in modules:
            layers.append(name)  # type: ignore[arg-type]  # an activation
        elif _is_matrix(modules, name, "weight"):
            layers.append(len(modules[name]["weight"]))
        else:
            layers.append("layer_norm")
    table = None if embedding is None else embedding.get("weight")
    if table is not None and table.ndim != 2:
        raise BadArtifact(f"the embedding has {table.ndim} dimensions, expected 2")
    return Architecture(cell, tuple(layers), None if table is None else Embedding(*table.shape))


def _expected_shapes(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, tuple[int, ...]]:
    first = f"{architecture.cell}.weight_ih_l"
    input_size = 1 if architecture.embedding else state[f"{first}0"].shape[1]
    hidden_size = state[f"{architecture.cell}.weight_hh_l0"].shape[1]
    layers = sum(key.startswith(first) and not key.endswith("_reverse") for key in state)
    size = (input_size, hidden_size, layers, state["fc.weight"].shape[0])
    check_bounds(architecture, *size)
    return architecture.weight_shapes(*size)


def _with_biases(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Zeros for the biases of a module that was made with `bias=False`, which then has none at all."""
    whole = dict(state)
    for name, shape in shapes.items():
        module, _, weight = name.rpartition(".")
        if weight.startswith("bias") and not any(key.startswith(f"{module}.bias") for key in state):
            whole[name] = torch.zeros(shape)
    return whole
