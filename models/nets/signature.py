"""What goes into an ONNX graph and comes out of it: which tensor is an input, a state, a constant, an output.

    observations ->  inputs    -+          +-> outputs -> predictions
                     controls  -+          |
                     constants -+-> graph -+
    carry        ->  states    -+          +-> states  -> carry

Shapes are those of one session and one step: a tensor of the graph has a batch axis beside them, and, where
the graph takes any number of steps, a time axis. Every value is checked when it is made.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite, prod
from typing import Any, Literal, get_args

import numpy as np

from models.arrays import AnyArray
from models.errors import BadArtifact

Dtype = Literal["float32", "float16", "int64", "int32", "uint8", "bool"]
OutputKind = Literal["number", "probability", "logits"]
ControlKind = Literal["start", "ready", "end"]
WireType = Literal["s16", "u8", "i32"]
Emits = Literal["each", "last"]

MAX_PORTS = 64
MAX_NAME = 256
MAX_RANK = 8
MAX_STEP_BYTES = 2**20
MAX_STATE_BYTES = 2**26
MAX_CONSTANT_BYTES = 2**20


@dataclass(frozen=True)
class Port:
    """An input or an output.

    Attributes
    ----------
    name
        What clients call it.
    tensor
        What the graph calls it.
    dtype
        The tensor's type.
    shape
        Of one step of one session: without batch axis, time axis and context; () is a single number.
    batch_axis
        Which axis of the tensor is the batch.
    context
        Inputs only: how many samples before the step's own the graph wants in front of them, which the carry
        keeps. Without a time axis they lie along the last axis of `shape`, with one along the time axis.
    columns
        Names of the numbers of a step, or None.
    range
        Inputs only: the least and the greatest value allowed, or None.
    wire, scale
        Inputs only: the type of the numbers in binary audio frames, and by what they are multiplied.
    kind
        Outputs only: what the numbers are.
    unit
        For people to read.
    """

    name: str
    tensor: str
    dtype: Dtype = "float32"
    shape: tuple[int, ...] = ()
    batch_axis: int = 0
    context: int = 0
    columns: tuple[str, ...] | None = None
    range: tuple[float, float] | None = None
    wire: WireType | None = None
    scale: float = 1.0
    kind: OutputKind = "number"
    unit: str | None = None

    def __post_init__(self) -> None:
        _check_text(self.name, "a name")
        where = repr(self.name[:80])
        _check_tensor(where, self.tensor, self.dtype, self.shape)
        _check_axis(f"{where}: batch_axis", self.batch_axis, MAX_RANK)
        if self.size * self.type.itemsize > MAX_STEP_BYTES:
            raise BadArtifact(f"{where} has more than {MAX_STEP_BYTES} bytes a step")
        if type(self.context) is not int or not 0 <= self.context * self.type.itemsize <= MAX_STEP_BYTES:
            raise BadArtifact(f"{where}: context must be a whole number of samples, at least 0")
        if self.columns is not None and len(self.columns) != self.size:
            raise BadArtifact(f"{where} names {len(self.columns)} columns, a step has {self.size} numbers")
        for column in self.columns or ():
            _check_text(column, f"{where}: a column name")
        _check_range(where, self.range)
        _check_choice(f"{where}: wire", self.wire, (None, *get_args(WireType)))
        _check_choice(f"{where}: kind", self.kind, get_args(OutputKind))
        if not _is_number(self.scale) or self.scale == 0:
            raise BadArtifact(f"{where}: scale must be a number other than 0")
        if self.unit is not None:
            _check_text(self.unit, f"{where}: the unit")

    @property
    def size(self) -> int:
        """How many numbers a step of one session has."""
        return prod(self.shape)

    @property
    def type(self) -> np.dtype[Any]:
        """The numpy type of the tensor."""
        return np.dtype(self.dtype)


@dataclass(frozen=True)
class Control:
    """An input that the server fills, as Triton's sequence batcher does.

    Attributes
    ----------
    kind
        "start" is on for a session's first step and the first after a reset, "ready" always, "end" never.
    off, on
        The numbers written.
    """

    tensor: str
    kind: ControlKind
    dtype: Dtype = "float32"
    shape: tuple[int, ...] = (1,)
    batch_axis: int = 0
    off: float = 0
    on: float = 1

    def __post_init__(self) -> None:
        where = f"control {str(self.tensor)[:80]!r}"
        _check_tensor(where, self.tensor, self.dtype, self.shape)
        _check_axis(f"{where}: batch_axis", self.batch_axis, len(self.shape) + 1)
        _check_choice(f"{where}: kind", self.kind, get_args(ControlKind))
        for number in (self.off, self.on):
            _as_tensor(where, number, self.dtype)


@dataclass(frozen=True, eq=False)
class Constant:
    """An input that is the same for every session and step.

    Attributes
    ----------
    value
        The whole tensor; without the batch axis where there is one.
    batch_axis
        Along which axis the value is repeated for each session, or None.
    """

    tensor: str
    value: AnyArray
    batch_axis: int | None = None

    def __post_init__(self) -> None:
        where = f"constant {self.tensor[:80]!r}"
        _check_text(self.tensor, where)
        _check_choice(f"{where}: dtype", str(self.value.dtype), get_args(Dtype))
        if self.value.nbytes > MAX_CONSTANT_BYTES:
            raise BadArtifact(f"{where} has more than {MAX_CONSTANT_BYTES} bytes")
        if self.batch_axis is not None:
            _check_axis(f"{where}: batch_axis", self.batch_axis, self.value.ndim + 1)
        object.__setattr__(self, "value", _read_only(self.value))


@dataclass(frozen=True, eq=False)
class State:
    """A tensor that a step leaves for the next: part of a session's carry.

    Attributes
    ----------
    tensor, next_tensor
        The graph's input, and the output that holds its value after the call.
    initial
        [*shape], of `dtype`: what a new session starts with, and what a reset writes.
    """

    tensor: str
    next_tensor: str
    initial: AnyArray
    batch_axis: int = 0

    def __post_init__(self) -> None:
        where = f"state {str(self.tensor)[:80]!r}"
        _check_tensor(where, self.tensor, self.dtype, self.shape)
        _check_axis(f"{where}: batch_axis", self.batch_axis, len(self.shape) + 1)
        _check_text(self.next_tensor, f"{where}: out")
        if self.initial.nbytes > MAX_STATE_BYTES:
            raise BadArtifact(f"{where} has more than {MAX_STATE_BYTES} bytes")
        if self.initial.dtype.kind == "f" and not np.isfinite(self.initial).all():
            raise BadArtifact(f"{where}: its initial value is not finite")
        object.__setattr__(self, "initial", _read_only(self.initial))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one session: without the batch axis."""
        return self.initial.shape

    @property
    def dtype(self) -> str:
        """The tensor's type."""
        return str(self.initial.dtype)


@dataclass(frozen=True)
class Steps:
    """How a call of the graph relates to steps.

    Attributes
    ----------
    axis
        The time axis of inputs and, if `emits` is "each", of outputs. None: a call is one step.
    per_call
        1, or None: any number.
    emits
        "each": an output for every step. "last": for the last step only, so that a call takes one step.
    """

    axis: int | None = None
    per_call: int | None = 1
    emits: Emits = "each"

    def __post_init__(self) -> None:
        _check_choice("steps: emits", self.emits, get_args(Emits))
        _check_choice("steps: per_call", self.per_call, (None, 1))
        if self.axis is None:
            if self.per_call is None:
                raise BadArtifact("steps: any number of steps a call needs a time axis")
        else:
            _check_axis("steps: axis", self.axis, MAX_RANK)

    @property
    def any_number(self) -> bool:
        """Whether one call may take several steps and answer each."""
        return self.per_call is None and self.emits == "each"


@dataclass(frozen=True, eq=False)
class Signature:
    """All inputs and outputs of a graph.

    Raises
    ------
    BadArtifact
        If two use one tensor, a name is given twice, or an axis does not fit.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...]
    constants: tuple[Constant, ...] = ()
    controls: tuple[Control, ...] = ()
    steps: Steps = field(default_factory=Steps)

    def __post_init__(self) -> None:
        for what, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not 1 <= len(ports) <= MAX_PORTS:
                raise BadArtifact(f"{what}: there must be 1 to {MAX_PORTS}, not {len(ports)}")
            _check_distinct(f"{what}: the name", (port.name for port in ports))
            if sum(port.size * port.type.itemsize for port in ports) > MAX_STEP_BYTES:
                raise BadArtifact(f"{what} have more than {MAX_STEP_BYTES} bytes a step together")
        if sum(state.initial.nbytes for state in self.states) > MAX_STATE_BYTES:
            raise BadArtifact(f"the states have more than {MAX_STATE_BYTES} bytes together")
        _check_distinct("the graph's input", self.fed_tensors)
        _check_distinct("the graph's output", (port.tensor for port in self.outputs))
        _check_distinct("the graph's output", (state.next_tensor for state in self.states))
        _check_axes(self)
        if self.steps.any_number and any(control.kind == "start" for control in self.controls):
            raise BadArtifact("a graph with a START input takes one step a call: per_call is 1")

    @property
    def fed_tensors(self) -> tuple[str, ...]:
        """The graph's inputs: inputs, states, controls, constants."""
        return tuple(
            value.tensor
            for group in (self.inputs, self.states, self.controls, self.constants)
            for value in group
        )

    @property
    def fetched_tensors(self) -> tuple[str, ...]:
        """The graph's outputs that a call computes; a tensor may be an output and a state at once."""
        names = [*(port.tensor for port in self.outputs), *(state.next_tensor for state in self.states)]
        return tuple(dict.fromkeys(names))

    @property
    def input_size(self) -> int:
        """How many numbers an observation has: those of all inputs, in order."""
        return sum(port.size for port in self.inputs)

    @property
    def output_size(self) -> int:
        """How many numbers a prediction has: those of all outputs, in order."""
        return sum(port.size for port in self.outputs)


@dataclass(frozen=True)
class Feedback:
    """How a forecast makes the next observation of a prediction.

    Attributes
    ----------
    observations
        For every input the output that becomes its next value.
    """

    observations: Mapping[str, str]


def check_feedback(feedback: Feedback, signature: Signature) -> None:
    """Refuse a feedback that leaves an input without a value.

    Raises
    ------
    BadArtifact
    """
    outputs = {port.name: port for port in signature.outputs}
    for port in signature.inputs:
        source = outputs.get(feedback.observations.get(port.name, ""))
        if source is None:
            raise BadArtifact(f"feedback: input {port.name!r} needs the name of an output")
        if source.size != port.size:
            raise BadArtifact(
                f"feedback: output {source.name!r} has {source.size} numbers, "
                f"input {port.name!r} takes {port.size}"
            )
    for name in feedback.observations:
        if name not in {port.name for port in signature.inputs}:
            raise BadArtifact(f"feedback: there is no input {name[:80]!r}")


def tensor_of(where: str, value: Any, dtype: str) -> AnyArray:
    """A number or nested lists of numbers as a tensor.

    Raises
    ------
    BadArtifact
        If a number does not fit into the type, or the lists are ragged.
    """
    _check_choice(f"{where}: dtype", dtype, get_args(Dtype))
    return _as_tensor(where, value, dtype)


def _as_tensor(where: str, value: Any, dtype: str) -> AnyArray:
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf":
            raise BadArtifact(f"{where}: {str(value)[:40]!r} is not a number")
        with np.errstate(all="ignore"):
            made = given.astype(dtype)
    except (ValueError, OverflowError, TypeError) as error:
        if isinstance(error, BadArtifact):
            raise
        raise BadArtifact(f"{where}: {str(value)[:40]!r} is not a tensor of numbers") from error
    exact = given.dtype.kind in "biu" or np.dtype(dtype).kind in "biu"
    if (exact and np.dtype(dtype).kind in "biu" and not (made == given).all()) or not np.isfinite(made).all():
        raise BadArtifact(f"{where}: {str(value)[:40]} does not fit into {dtype}")
    return made


def _read_only(array: AnyArray) -> AnyArray:
    array = np.array(array, order="C")
    array.flags.writeable = False
    return array


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise BadArtifact(f"{what} must be text of 1 to {MAX_NAME} characters")


def _check_tensor(where: str, tensor: Any, dtype: Any, shape: Any) -> None:
    _check_text(tensor, f"{where}: the tensor's name")
    _check_choice(f"{where}: dtype", dtype, get_args(Dtype))
    if len(shape) > MAX_RANK - 2 or not all(type(size) is int and 1 <= size <= 2**31 for size in shape):
        raise BadArtifact(
            f"{where}: the shape {list(shape)!s:.80} must be at most {MAX_RANK - 2} sizes above 0"
        )


def _check_axis(what: str, axis: Any, rank: int) -> None:
    if type(axis) is not int or not 0 <= axis < rank:
        raise BadArtifact(f"{what} must be a whole number from 0 to {rank - 1}, not {str(axis)[:40]}")


def _check_choice(what: str, value: Any, allowed: Iterable[Any]) -> None:
    allowed = tuple(allowed)
    if not any(type(value) is type(choice) and value == choice for choice in allowed):
        raise BadArtifact(f"{what} must be one of {', '.join(map(str, allowed))}, not {str(value)[:40]!r}")


def _check_range(where: str, bounds: Any) -> None:
    if bounds is not None and not (
        len(bounds) == 2 and all(_is_number(bound) for bound in bounds) and bounds[0] <= bounds[1]
    ):
        raise BadArtifact(f"{where}: range must be the least and the greatest value")


def _check_distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadArtifact(f"{what} {name[:80]!r} is used twice")
        seen.add(name)


def _check_axes(signature: Signature) -> None:
    axis, emits = signature.steps.axis, signature.steps.emits
    for ports, has_time in ((signature.inputs, axis is not None), (signature.outputs, emits == "each")):
        for port in ports:
            time = axis if has_time else None
            rank = len(port.shape) + 1 + (time is not None)
            if port.batch_axis >= rank:
                raise BadArtifact(f"{port.name!r}: batch_axis {port.batch_axis} of a tensor with {rank} axes")
            if time is not None and (time >= rank or time == port.batch_axis):
                raise BadArtifact(f"{port.name!r}: axis {time} of its {rank} axes cannot be the time")
            if port.context and axis is None and not port.shape:
                raise BadArtifact(f"{port.name!r} has a context, but no axis for it")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and isfinite(value)
