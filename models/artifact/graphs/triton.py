"""Reads what Triton's config.pbtxt says of a stateful model.

The states, control inputs and shapes of `sequence_batching` become choices of the import; what concerns
Triton's own scheduling, such as instance groups, is skipped. The format is protobuf's text format; only the
fields that are used are described here.

Source: Triton Inference Server, "Stateful Models" and "Model Configuration" of its user guide.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import AnyArray
from models.artifact.graphs.choices import Choices
from models.errors import BadArtifact
from models.nets.signature import MAX_STATE_BYTES, Control, ControlKind, Dtype

MAX_CONFIG_BYTES = 2**20
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
# Message -> field -> its type; "*" stands before a repeated field's type. The numbers do not matter in text.
SCHEMA: dict[str, dict[str, str]] = {
    "Config": {
        "name": "string",
        "max_batch_size": "int32",
        "input": "*Tensor",
        "output": "*Tensor",
        "sequence_batching": "Sequence",
    },
    "Tensor": {"name": "string", "dims": "*int64", "reshape": "Reshape"},
    "Reshape": {"shape": "*int64"},
    "Sequence": {"control_input": "*ControlInput", "state": "*State"},
    "ControlInput": {"name": "string", "control": "*Control"},
    "Control": {
        "kind": "Kind",
        "int32_false_true": "*int32",
        "fp32_false_true": "*float",
        "bool_false_true": "*bool",
        "data_type": "Type",
    },
    "State": {
        "input_name": "string",
        "output_name": "string",
        "data_type": "Type",
        "dims": "*int64",
        "initial_state": "*Initial",
    },
    "Initial": {
        "name": "string",
        "data_type": "Type",
        "dims": "*int64",
        "zero_data": "bool",
        "data_file": "string",
    },
}
ENUMS = {
    "Kind": (*CONTROLS, "CONTROL_SEQUENCE_CORRID"),
    "Type": (
        *("TYPE_INVALID", *TYPES, "TYPE_FP64", "TYPE_BF16", "TYPE_STRING", "TYPE_INT8", "TYPE_INT16"),
        *("TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64"),
    ),
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


def _with_config(config: Any, folder: Path, choices: Choices) -> Choices:
    batched = config.max_batch_size > 0
    sequence = config.sequence_batching
    states = {state.input_name: state.output_name for state in sequence.state}
    controls = {entry.name: _control(entry) for entry in sequence.control_input}
    shapes = {state.input_name: tuple(state.dims) for state in sequence.state}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in config.input if not tensor.HasField("reshape")}
    # Without max_batch_size the dims have the batch among them; -1 is any size: the graph decides.
    known = {name: shape for name, shape in shapes.items() if batched and shape and min(shape) > 0}
    axes = dict.fromkeys((*states, *(tensor.name for tensor in config.input)), 0) if batched else {}
    initials = {
        state.input_name: _initial(state, folder)
        for state in sequence.state
        if state.initial_state and not state.initial_state[0].zero_data
    }
    return replace(
        choices,
        states={**states, **choices.states},
        initials={**initials, **choices.initials},
        all_states=True,
        shapes={**known, **choices.shapes},
        batch_axes={**axes, **choices.batch_axes},
        controls={**controls, **choices.controls},
    )


def _control(entry: Any) -> Control:
    if len(entry.control) != 1:
        raise BadArtifact(f"control input {entry.name[:80]!r} has {len(entry.control)} controls, not 1")
    (control,) = entry.control
    kind = ENUMS["Kind"][control.kind]
    if kind not in CONTROLS:
        raise BadArtifact(f"control input {entry.name[:80]!r} is {kind}, which no network is given here")
    pairs: dict[Dtype, list[Any]] = {
        "int32": list(control.int32_false_true),
        "float32": list(control.fp32_false_true),
        "bool": list(control.bool_false_true),
    }
    found = [(dtype, values) for dtype, values in pairs.items() if values]
    if len(found) != 1 or len(found[0][1]) != 2:
        raise BadArtifact(f"control input {entry.name[:80]!r} needs one pair of values, for false and true")
    dtype, (off, on) = found[0]
    return Control(entry.name, CONTROLS[kind], dtype, (1,), 0, float(off), float(on))


def _initial(state: Any, folder: Path) -> AnyArray:
    where = f"state {state.input_name[:80]!r}"
    (initial,) = state.initial_state[:1]
    name = ENUMS["Type"][initial.data_type]
    if name not in TYPES:
        raise BadArtifact(f"{where}: its initial state is {name}; {', '.join(TYPES)} are read")
    if not initial.data_file or Path(initial.data_file).name != initial.data_file:
        raise BadArtifact(f"{where}: its initial state needs a data_file in the folder initial_state")
    path = folder / "initial_state" / initial.data_file
    dtype, shape = np.dtype(TYPES[name]), tuple(initial.dims)
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if min(shape, default=1) < 1 or expected > MAX_STATE_BYTES:
        raise BadArtifact(f"{where}: its initial state has the dims {list(shape)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadArtifact(f"{where}: {path} cannot be read: {error.strerror}") from error
    if len(data) != expected:
        raise BadArtifact(f"{where}: {path} has {len(data)} bytes, {list(shape)} of {dtype} are {expected}")
    return np.frombuffer(data, dtype).reshape(shape)


def _parse(path: Path) -> Any:
    from google.protobuf import text_format

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
    try:
        return text_format.Parse(text, _message()(), allow_unknown_field=True)
    except (text_format.ParseError, RecursionError) as error:
        raise BadArtifact(f"is not a model configuration: {error}") from error


def _message() -> Any:
    """The class of `Config`, from `SCHEMA`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="triton", syntax="proto2")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    field_type = descriptor_pb2.FieldDescriptorProto
    for name, members in SCHEMA.items():
        message = file.message_type.add(name=name)
        for number, (member, kind) in enumerate(members.items(), start=1):
            label = field_type.LABEL_REPEATED if kind.startswith("*") else field_type.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            entry = message.field.add(name=member, number=number, label=label)
            if kind in SCHEMA or kind in ENUMS:
                entry.type = field_type.TYPE_MESSAGE if kind in SCHEMA else field_type.TYPE_ENUM
                entry.type_name = f".triton.{kind}"
            else:
                entry.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.Config"))
