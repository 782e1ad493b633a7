"""What the person who imports a graph says of it, and what the graph shows by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from models.arrays import AnyArray
from models.artifact.graphs.limits import dtype_of, fed_inputs
from models.artifact.graphs.rewrite import hidden_states
from models.errors import BadArtifact
from models.nets.signature import Control, OutputKind

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

LIKENESS = 0.5  # of the names of a state before and after the call; below it, no pair is proposed
# Operators that pass numbers on as they are: on the way from an input to the table that it chooses from.
PASSING = frozenset(("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Flatten"))


@dataclass(frozen=True)
class Choices:
    """What a graph cannot say of itself; all by the graph's own names of tensors.

    Attributes
    ----------
    states
        Output by input: what a call leaves for the next.
    initials
        [*shape] by state: what a session starts from, instead of zeros.
    all_states
        No other states exist: what looks like one is an ordinary input, or starts anew with every call unless
        it is exposed.
    expose
        Turn the hidden states of LSTM, GRU and RNN nodes into inputs and outputs.
    free_batch
        Treat an axis of size 1 as the batch, where the graph declares no free one.
    batch_axes, shapes
        The batch axis, and the shape of one step of one session, where they cannot be found out.
    constants, controls
        Inputs that are always the same, or that the server fills.
    context
        By input, how many samples before the step's own it wants.
    ranges
        Least and greatest value by input; the size of an embedding is found out.
    names, kinds
        What clients call a tensor; what the numbers of an output are.
    ignore
        Outputs that are not served.
    feedback
        Output by input: how a forecast goes on.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    initials: Mapping[str, AnyArray] = field(default_factory=dict)
    all_states: bool = False
    expose: bool = False
    free_batch: bool = False
    batch_axes: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, AnyArray] = field(default_factory=dict)
    controls: Mapping[str, Control] = field(default_factory=dict)
    context: Mapping[str, int] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, OutputKind] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    feedback: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """An input or output as the graph declares it; a free axis is its name, or "?"."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None

    def __str__(self) -> str:
        dims = "[...]" if self.dims is None else f"[{', '.join(map(str, self.dims))}]"
        return f"{self.dtype} {dims}"


def tensor(value: ValueInfoProto) -> Tensor:
    """What the graph declares of a tensor."""
    declared = value.type.tensor_type
    dims = None
    if declared.HasField("shape"):
        dims = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in declared.shape.dim
        )
    return Tensor(value.name, dtype_of(value), dims)


def table(model: ModelProto, choices: Choices) -> list[tuple[str, str, str, str]]:
    """Role, name, what the graph declares, and what is said of it: a row for every input and output."""
    proposed = propose_states(model, choices)
    before = {**proposed, **choices.states}
    after = {out: name for name, out in before.items()}
    rows = []
    for value in map(tensor, fed_inputs(model.graph)):
        role, remark = "input", _remark(value.name, choices)
        if value.name in choices.constants:
            role, remark = "constant", str(choices.constants[value.name].tolist())
        elif value.name in choices.controls:
            role, remark = "control", choices.controls[value.name].kind
        elif value.name in before:
            role, remark = "state", f"from {before[value.name]}" + _question(value.name, proposed)
        rows.append((role, value.name, str(value), remark))
    for value in map(tensor, model.graph.output):
        role, remark = "output", choices.kinds.get(value.name, "")
        if value.name in choices.ignore:
            role, remark = "ignored", ""
        elif value.name in after:
            role, remark = "state", f"to {after[value.name]}" + _question(after[value.name], proposed)
        rows.append((role, value.name, str(value), remark))
    if choices.all_states and not choices.expose:
        return rows
    remark = "becomes a state" if choices.expose else "starts anew with every call"
    rows += [("inside", node.name or node.output[0], node.op_type, remark) for node in hidden_states(model)]
    return rows


def propose_states(model: ModelProto, choices: Choices) -> dict[str, str]:
    """Pairs of inputs and outputs that may be states: of one type and rank, with similar names.

    A guess by names: it is shown, and never taken by itself.
    """
    if choices.all_states:
        return {}
    fixed = {*choices.states, *choices.constants, *choices.controls, *choices.shapes, *choices.context}
    others = [value for value in map(tensor, fed_inputs(model.graph)) if value.name not in fixed]
    inputs = [value for value in others if _may_be_state(value)]
    used = {*choices.states.values(), *choices.ignore, *choices.kinds}
    outputs = [value for value in map(tensor, model.graph.output) if value.name not in used]
    # An observation and an answer must remain.
    observed = len(others) > len(inputs) or choices.shapes or choices.context
    room = min(len(inputs) - (not observed), len(outputs) - (not choices.kinds))
    # Names that say nothing are paired in the order of the graph: sorting is stable.
    likely = sorted(
        ((_likeness(a, b), a.name, b.name) for a in inputs for b in outputs if _may_pair(a, b)),
        key=lambda pair: -pair[0],
    )
    pairs: dict[str, str] = {}
    for likeness, before, after in likely:
        if likeness >= LIKENESS and len(pairs) < room and before not in pairs and after not in pairs.values():
            pairs[before] = after
    return {value.name: pairs[value.name] for value in inputs if value.name in pairs}


def check_choices(model: ModelProto, choices: Choices) -> None:
    """Refuse what names no tensor of the graph, and a graph whose states nobody has named.

    Raises
    ------
    BadArtifact
        With the options that would name them.
    """
    inputs = {value.name for value in fed_inputs(model.graph)}
    outputs = {value.name for value in model.graph.output}
    fed = (
        *(choices.states, choices.initials, choices.batch_axes, choices.shapes, choices.constants),
        *(choices.controls, choices.context, choices.ranges, choices.feedback),
    )
    for name in (name for names in fed for name in names):
        if name not in inputs:
            raise BadArtifact(f"the graph has no input {name[:80]!r}; its inputs are {_listed(inputs)}")
    for name in choices.names:
        if name not in inputs | outputs:
            raise BadArtifact(f"the graph has no input or output {name[:80]!r} to give a name to")
    for name in (*choices.states.values(), *choices.ignore, *choices.kinds, *choices.feedback.values()):
        if name not in outputs:
            raise BadArtifact(f"the graph has no output {name[:80]!r}; its outputs are {_listed(outputs)}")
    if choices.all_states:
        return
    proposed = propose_states(model, choices)
    if proposed:
        options = " ".join(f"--state {before}={after}" for before, after in proposed.items())
        raise BadArtifact(
            f"the graph may have states, by names and sizes: add {options}, "
            "or --no-more-states if it has none"
        )
    hidden = hidden_states(model)
    if hidden and not choices.expose:
        raise BadArtifact(
            f"the state of node {hidden[0].name or hidden[0].output[0]!r} stays inside the graph: add "
            "--expose-state, or --no-more-states if every call is to start anew"
        )


def text_choices(model: ModelProto, choices: Choices, logits: str, pieces: int) -> Choices:
    """The choices for a model of text, too: what its output is, and which tokens its only input takes."""
    fixed = {*choices.states, *choices.constants, *choices.controls}
    inputs = [value.name for value in fed_inputs(model.graph) if value.name not in fixed]
    known = {**id_ranges(model), **choices.ranges}
    tokens = {name: (0, pieces - 1) for name in inputs if name not in known and len(inputs) == 1}
    return replace(choices, kinds={**choices.kinds, logits: "logits"}, ranges={**choices.ranges, **tokens})


def id_ranges(model: ModelProto) -> dict[str, tuple[int, int]]:
    """The least and the greatest number of inputs that choose a row of a weight, such as tokens."""
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    origin = {
        value.name: value.name
        for value in fed_inputs(model.graph)
        if dtype_of(value) in ("int32", "int64", "uint8")
    }
    found: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        if node.op_type in PASSING and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type == "Gather" and axis == 0 and node.input[1] in origin and node.input[0] in sizes:
            name, size = origin[node.input[1]], sizes[node.input[0]]
            found[name] = (0, min(size - 1, found.get(name, (0, size))[1]))
    return found


def _remark(name: str, choices: Choices) -> str:
    parts = []
    if name in choices.context:
        parts.append(f"with {choices.context[name]} samples before")
    if name in choices.ranges:
        parts.append(f"from {choices.ranges[name][0]:g} to {choices.ranges[name][1]:g}")
    return ", ".join(parts)


def _question(name: str, proposed: Mapping[str, str]) -> str:
    return " ?" if name in proposed else ""


def _may_be_state(value: Tensor) -> bool:
    # A state has a batch and no time: at most one axis that may have any size.
    return value.dims is None or sum(isinstance(size, str) for size in value.dims) <= 1


def _may_pair(before: Tensor, after: Tensor) -> bool:
    if before.dtype != after.dtype:
        return False
    if before.dims is None or after.dims is None:
        return True
    sizes = zip(before.dims, after.dims, strict=False)
    return len(before.dims) == len(after.dims) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in sizes
    )


def _likeness(a: Tensor, b: Tensor) -> float:
    """Of the names, from 0 to 1; more where the sizes are the same, and the same are free."""
    names = SequenceMatcher(None, a.name.lower(), b.name.lower()).ratio()
    sizes = [
        None if value.dims is None else [size if isinstance(size, int) else None for size in value.dims]
        for value in (a, b)
    ]
    return names + (LIKENESS if sizes[0] is not None and sizes[0] == sizes[1] else 0)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))[:200]
