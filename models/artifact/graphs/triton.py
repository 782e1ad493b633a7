"""Reads what Triton's config.pbtxt says of a stateful model.

The states, control inputs and shapes of `sequence_batching` become choices of the import; what concerns
Triton's own scheduling, such as instance groups, is skipped.

Source: Triton Inference Server, "Stateful Models" and "Model Configuration" of its user guide.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.arrays import AnyArray
from models.artifact.folder import read_bounded
from models.artifact.graphs.choices import Choices
from models.artifact.graphs.text_format import Message, parse_text
from models.errors import BadArtifact
from models.nets.signature import MAX_STATE_BYTES, Control, ControlKind, Dtype

T = TypeVar("T")

MAX_CONFIG_BYTES = 2**20
NUMBERS = (int, float, bool)
PAIRS: dict[str, Dtype] = {
    "int32_false_true": "int32",
    "fp32_false_true": "float32",
    "bool_false_true": "bool",
}
TYPES: dict[str, Dtype] = {
    "TYPE_FP32": "float32",
    "TYPE_FP16": "float16",
    "TYPE_INT64": "int64",
    "TYPE_INT32": "int32",
    "TYPE_UINT8": "uint8",
    "TYPE_BOOL": "bool",
}
CONTROLS: dict[str, ControlKind] = {
    "CONTROL_SEQUENCE_START": "start",
    "CONTROL_SEQUENCE_READY": "ready",
    "CONTROL_SEQUENCE_END": "end",
}


def read_triton(path: Path, choices: Choices) -> Choices:
    """Add what a config.pbtxt says to the choices; what was chosen otherwise is kept.

    Raises
    ------
    BadArtifact
        The message names the file, and the state or the control input.
    """
    try:
        return _with_config(_parse(path), path.parent, choices)
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from error


def _with_config(config: Message, folder: Path, choices: Choices) -> Choices:
    batched = _one(config, "max_batch_size", int, 0) > 0
    sequence = _one(config, "sequence_batching", dict, {})
    tensors = _messages(config, "input")
    described = {_name(state, "input_name"): state for state in _messages(sequence, "state")}
    entries = _messages(sequence, "control_input")
    shapes = {name: _dims(state) for name, state in described.items()}
    shapes |= {_name(tensor, "name"): _dims(tensor) for tensor in tensors if "reshape" not in tensor}
    # Without max_batch_size the dims have the batch among them; -1 is any size: the graph decides.
    known = {name: shape for name, shape in shapes.items() if batched and shape and min(shape) > 0}
    named = (*described, *(_name(tensor, "name") for tensor in tensors))
    found = ((name, _initial(name, state, folder)) for name, state in described.items())
    initials = {name: value for name, value in found if value is not None}
    return replace(
        choices,
        states={name: _name(state, "output_name") for name, state in described.items()} | {**choices.states},
        initials={**initials, **choices.initials},
        all_states=True,
        shapes={**known, **choices.shapes},
        batch_axes={**(dict.fromkeys(named, 0) if batched else {}), **choices.batch_axes},
        controls={_name(entry, "name"): _control(entry) for entry in entries} | {**choices.controls},
    )


def _control(entry: Message) -> Control:
    name = _name(entry, "name")
    controls = _messages(entry, "control")
    if len(controls) != 1:
        raise BadArtifact(f"control input {name[:80]!r} has {len(controls)} controls, not 1")
    kind = _one(controls[0], "kind", str, "")
    if kind not in CONTROLS:
        raise BadArtifact(f"control input {name[:80]!r} is {kind[:80]}, which no network is given here")
    found = [(dtype, controls[0][field]) for field, dtype in PAIRS.items() if field in controls[0]]
    if len(found) != 1 or len(found[0][1]) != 2 or not all(type(v) in NUMBERS for v in found[0][1]):
        raise BadArtifact(f"control input {name[:80]!r} needs one pair of values, for false and true")
    dtype, (off, on) = found[0]
    return Control(name, CONTROLS[kind], dtype, (1,), 0, float(off), float(on))


def _initial(name: str, state: Message, folder: Path) -> AnyArray | None:
    """What sessions start from, or None for zeros."""
    where = f"state {name[:80]!r}"
    described = _messages(state, "initial_state")
    if not described or "zero_data" in described[0]:
        return None
    kind = _one(described[0], "data_type", str, "")
    if kind not in TYPES:
        raise BadArtifact(f"{where}: its initial state is {kind[:80]!r}; {', '.join(TYPES)} are read")
    file = _one(described[0], "data_file", str, "")
    if not file or Path(file).name != file:
        raise BadArtifact(f"{where}: its initial state needs a data_file in the folder initial_state")
    path = folder / "initial_state" / file
    dtype, shape = np.dtype(TYPES[kind]), _dims(described[0])
    expected = prod(shape) * dtype.itemsize
    if min(shape, default=1) < 1 or expected > MAX_STATE_BYTES:
        raise BadArtifact(f"{where}: its initial state has the dims {list(shape)!s:.80}")
    try:
        data = read_bounded(path, expected)
    except BadArtifact as error:
        raise BadArtifact(f"{where}: {error}") from error
    if len(data) != expected:
        raise BadArtifact(f"{where}: {path} does not have the {expected} bytes of {dtype} {list(shape)}")
    return np.frombuffer(data, dtype).reshape(shape)


def _parse(path: Path) -> Message:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise BadArtifact(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadArtifact("is not text") from error
    if len(data) > MAX_CONFIG_BYTES:
        raise BadArtifact(f"is larger than {MAX_CONFIG_BYTES} bytes")
    return parse_text(text)


def _messages(message: Message, name: str) -> list[Message]:
    values = message.get(name, [])
    if not all(isinstance(value, dict) for value in values):
        raise BadArtifact(f"{name} is not a message")
    return values


def _dims(message: Message) -> tuple[int, ...]:
    dims = message.get("dims", [])
    if not all(type(size) is int for size in dims):
        raise BadArtifact(f"the dims {dims!s:.80} are not whole numbers")
    return tuple(dims)


def _name(message: Message, field: str) -> str:
    name = _one(message, field, str, "")
    if not name:
        raise BadArtifact(f"a {field} is missing")
    return name


def _one(message: Message, field: str, kind: type[T], default: T) -> T:
    """The value of a field that is not repeated."""
    value = message.get(field, [default])[-1]
    if type(value) is not kind:
        raise BadArtifact(f"{field} is {str(value)[:80]!r}")
    return value
