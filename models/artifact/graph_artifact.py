"""An ONNX graph with what its tensors mean: version 3 of the artifact.

    GraphArtifact  -> model.json            what goes in, what comes out, what is carried
                      graph.onnx            as its author wrote it, or as the import rewired it
                      initial.safetensors   initial states that are no single number

The fingerprint covers everything that decides a prediction. The model's name, units, metrics and what the
import measured are not part of it and may be edited by hand.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, TypeVar

import numpy as np
import safetensors.numpy

from models.arrays import AnyArray
from models.artifact.graph_text import GraphText, describe_text, parse_text
from models.artifact.learning import Learning
from models.artifact.names import check_name
from models.data.scaling import Scaling
from models.errors import BadArtifact
from models.generation.vocabulary import TextOutput
from models.net import Execution, Net
from models.nets.graph import GraphNet
from models.nets.numbers import column_names
from models.nets.samples import SampleNet, Samples
from models.nets.signature import (
    MAX_STATE_BYTES,
    Constant,
    Control,
    Feedback,
    Port,
    Signature,
    State,
    Steps,
    check_feedback,
    tensor_of,
)
from models.nets.speech import SpeechEvents

__all__ = [
    "Feedback",
    "GraphArtifact",
    "GraphText",
    "Port",
    "Samples",
    "Signature",
    "SpeechEvents",
    "State",
    "Steps",
    "build",
    "contents",
]

T = TypeVar("T")

GRAPH_VERSION = 3
MAX_GRAPH_BYTES = 2**30
MAX_OPSET = 1000
NOT_IN_FINGERPRINT = ("name", "metrics", "probed", "fingerprint")
DEFAULTS: dict[str, Any] = {"controls": [], "feedback": None, "sampling": None, "scaling": None}
# Written only for a model over samples, or of text, so that the fingerprints of others stay the same.
SAMPLE_DEFAULTS: dict[str, Any] = {"unit": None, "rate": None, "events": None}
TEXT_DEFAULTS: dict[str, Any] = {"vocabulary": None}
REQUIRED = frozenset(
    (
        *("format", "version", "name", "net", "graph_sha256", "opset", "inputs", "constants", "state"),
        *("outputs", "steps", "probed", "metrics", "fingerprint"),
    )
)
EVENT_DEFAULTS = {name: value for name, value in asdict(SpeechEvents("")).items() if name != "output"}
PORT_DEFAULTS = {"batch_axis": 0, "unit": None, "columns": None}
INPUT_DEFAULTS = PORT_DEFAULTS | {"context": 0, "range": None, "wire": None, "scale": 1.0}
OUTPUT_DEFAULTS = PORT_DEFAULTS | {"kind": "number"}
PORT_FIELDS = ("name", "tensor", "dtype", "shape")


@dataclass(frozen=True, eq=False)
class GraphArtifact:
    """A network that is an ONNX graph.

    Attributes
    ----------
    graph
        The bytes of graph.onnx; `models.artifact.graph_file` checks what is in them.
    opset
        The version of ONNX's operators that the graph uses.
    signature
        What its tensors mean.
    feedback
        How a forecast feeds itself, or None: then the model has no forecast.
    samples
        Of a model whose observations are single samples, which become the graph's frames; else None.
    writing
        Of a model of text, how its next token is drawn; else None.
    probed
        What the import measured: JSON values.
    metrics
        What its author measured: JSON values.

    Raises
    ------
    BadArtifact
        If anything does not fit together.
    """

    name: str
    graph: bytes
    opset: int
    signature: Signature
    feedback: Feedback | None = None
    samples: Samples | None = None
    writing: GraphText | None = None
    probed: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= len(self.graph) <= MAX_GRAPH_BYTES:
            raise BadArtifact(f"the graph has {len(self.graph)} bytes; 1 to {MAX_GRAPH_BYTES} are allowed")
        if type(self.opset) is not int or not 1 <= self.opset <= MAX_OPSET:
            raise BadArtifact(
                f"opset must be a whole number from 1 to {MAX_OPSET}, not {str(self.opset)[:40]}"
            )
        if self.feedback is not None:
            check_feedback(self.feedback, self.signature)
        if self.samples is not None:
            self.samples.check(self.signature)
            if self.feedback is not None:
                raise BadArtifact("a model over samples cannot feed outputs back")
        if self.writing is not None:
            self.writing.check(self.signature)
            if self.feedback is not None or self.samples is not None:
                raise BadArtifact("a model of text has no other feedback and no samples: a token is drawn")

    @cached_property
    def inputs(self) -> tuple[Port, ...]:
        """What an observation consists of, in order."""
        ports = self.signature.inputs
        if self.samples is None:
            return ports
        return tuple(replace(port, shape=(), context=0, columns=None) for port in ports)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What a prediction consists of, in order."""
        return self.signature.outputs

    @property
    def input_ports(self) -> tuple[Port, ...]:
        """The inputs, under the name that all artifacts have for them."""
        return self.inputs

    @property
    def output_ports(self) -> tuple[Port, ...]:
        """The outputs, under the name that all artifacts have for them."""
        return self.signature.outputs

    @property
    def has_time_axis(self) -> bool:
        """Whether the graph's tensors have an axis for the steps, or a frame is made of single samples."""
        return self.signature.steps.axis is not None or self.samples is not None

    @property
    def states(self) -> tuple[State, ...]:
        """What a step leaves for the next."""
        return self.signature.states

    @property
    def controls(self) -> tuple[Control, ...]:
        """The inputs that the server fills."""
        return self.signature.controls

    listed_inputs, listed_outputs = input_ports, output_ports

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """What each number of an observation is called."""
        return column_names(self.inputs)

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """What each number of a prediction is called."""
        return column_names(self.outputs)

    @cached_property
    def predicted_by(self) -> tuple[int | None, ...]:
        """For each number of an observation the number of a prediction that is fed back, or None."""
        if self.feedback is None:
            return (None,) * sum(port.size for port in self.inputs)
        stops = accumulate(port.size for port in self.outputs)
        starts = {port.name: stop - port.size for port, stop in zip(self.outputs, stops, strict=True)}
        sources = [starts[self.feedback.observations[port.name]] for port in self.inputs]
        return tuple(
            source + i for port, source in zip(self.inputs, sources, strict=True) for i in range(port.size)
        )

    @property
    def fed_back(self) -> dict[str, str]:
        """By input the output that becomes its next value in a forecast."""
        return {} if self.feedback is None else dict(self.feedback.observations)

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the inputs that a forecast has no values for: all, or none."""
        return () if self.feedback is not None else tuple(port.name for port in self.inputs)

    # A graph takes numbers as they are, and its sessions learn nothing.
    scaling: ClassVar[Scaling | None] = None
    target_scaling: ClassVar[Scaling | None] = None
    fleet: ClassVar[None] = None
    learning: ClassVar[Learning] = Learning()
    future: ClassVar[tuple[str, ...]] = ()
    time_features: ClassVar[tuple[str, ...]] = ()
    interval_seconds: ClassVar[float | None] = None
    time_input_count: ClassVar[int] = 0
    hidden_size: ClassVar[int | None] = None
    num_layers: ClassVar[int | None] = None
    architecture: ClassVar[None] = None
    predicts: ClassVar[str | None] = None

    @cached_property
    def text(self) -> TextOutput | None:
        """How the next token is drawn from a prediction; None for a model that is none of text."""
        return None if self.writing is None else self.writing.output(self.signature)

    def net(self, execution: Execution) -> Net:
        """The network, ready to serve.

        Raises
        ------
        BadArtifact
            If onnxruntime cannot load it, or is not installed.
        """
        graph = GraphNet(self.graph, self.signature, execution.device, execution.run_seconds)
        return graph if self.samples is None else SampleNet(graph, self.signature, self.samples)

    @cached_property
    def graph_sha256(self) -> str:
        """SHA-256 (hex) of the graph's bytes."""
        return hashlib.sha256(self.graph).hexdigest()

    @cached_property
    def initial_tensors(self) -> dict[str, AnyArray]:
        """Initial states that are no single number, by tensor: what initial.safetensors holds."""
        return {
            state.tensor: state.initial for state in self.signature.states if not _is_uniform(state.initial)
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides a prediction; a carry belongs to one fingerprint."""
        decides = {key: value for key, value in self._document().items() if key not in NOT_IN_FINGERPRINT}
        for port in (*decides["inputs"], *decides["outputs"]):
            del port["unit"]
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
        for name, tensor in sorted(self.initial_tensors.items()):
            digest.update(name.encode() + tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def _document(self) -> dict[str, Any]:
        signature = self.signature
        return {
            "format": "carryover-artifact",
            "version": GRAPH_VERSION,
            "name": self.name,
            "net": "onnx",
            "graph_sha256": self.graph_sha256,
            "opset": self.opset,
            "inputs": [_describe_port(port, INPUT_DEFAULTS) for port in signature.inputs],
            "constants": {constant.tensor: _describe_constant(constant) for constant in signature.constants},
            "controls": [_describe_control(control) for control in signature.controls],
            "state": [_describe_state(state) for state in signature.states],
            "outputs": [_describe_port(port, OUTPUT_DEFAULTS) for port in signature.outputs],
            "steps": {
                "axis": signature.steps.axis,
                "per_call": signature.steps.per_call,
                "emits": signature.steps.emits,
            },
            "feedback": None if self.feedback is None else {"observations": dict(self.feedback.observations)},
            "sampling": None,
            "scaling": None,
            **({} if self.samples is None else _describe_samples(self.samples)),
            **({} if self.writing is None else describe_text(self.writing, signature)),
            "probed": dict(self.probed),
            "metrics": dict(self.metrics),
        }


def contents(artifact: GraphArtifact) -> dict[str, bytes]:
    """Files by name, in the order of writing: model.json, which makes the folder an artifact, is the last."""
    files = {"graph.onnx": artifact.graph}
    if artifact.initial_tensors:
        files["initial.safetensors"] = safetensors.numpy.save(artifact.initial_tensors)
    document = artifact._document() | {"fingerprint": artifact.fingerprint}
    return files | {"model.json": f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode()}


def build(
    description: dict[str, Any], graph: Callable[[], bytes], initial: Callable[[], dict[str, AnyArray]]
) -> GraphArtifact:
    """Check a document of model.json and make the artifact of it.

    Parameters
    ----------
    description
        The parsed JSON.
    graph, initial
        Read graph.onnx and initial.safetensors; called only when the document is well-formed, the second only
        when it needs it.

    Raises
    ------
    BadArtifact
        The message names the place in the document, such as `inputs[0].shape`.
    """
    description = _filled(description, "model.json", REQUIRED, DEFAULTS | SAMPLE_DEFAULTS | TEXT_DEFAULTS)
    for key in ("sampling", "scaling"):
        if description[key] is not None:
            raise BadArtifact(f"{key} must be null for a graph; other values belong to a newer program")
    if description["net"] != "onnx":
        raise BadArtifact(f"net must be 'onnx', not {str(description['net'])[:40]!r}")
    for key in ("probed", "metrics"):
        _mapping(description[key], key)
    signature = Signature(
        inputs=_each(description, "inputs", lambda entry, at: _port(entry, at, INPUT_DEFAULTS)),
        outputs=_each(description, "outputs", lambda entry, at: _port(entry, at, OUTPUT_DEFAULTS)),
        constants=tuple(
            _constant(name, entry) for name, entry in _mapping(description["constants"], "constants").items()
        ),
        controls=_each(description, "controls", _control),
        states=_states(description, initial),
        steps=Steps(**_filled(description["steps"], "steps", frozenset(("axis", "per_call", "emits")), {})),
    )
    feedback, vocabulary = description["feedback"], description["vocabulary"]
    writing = None if vocabulary is None else parse_text(feedback, vocabulary, signature)
    artifact = GraphArtifact(
        name=_text(description["name"], "name"),
        graph=graph(),
        opset=description["opset"],
        signature=signature,
        feedback=None if writing else _feedback(feedback),
        samples=_samples(description),
        writing=writing,
        probed=description["probed"],
        metrics=description["metrics"],
    )
    if artifact.graph_sha256 != description["graph_sha256"]:
        raise BadArtifact("graph.onnx is not the file of this model.json: its SHA-256 differs")
    return artifact


def _describe_port(port: Port, defaults: Mapping[str, Any]) -> dict[str, Any]:
    entry = {key: getattr(port, key) for key in (*PORT_FIELDS, *defaults)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _describe_constant(constant: Constant) -> dict[str, Any]:
    return {
        "dtype": str(constant.value.dtype),
        "value": constant.value.tolist(),
        "batch_axis": constant.batch_axis,
    }


def _describe_control(control: Control) -> dict[str, Any]:
    return {
        "tensor": control.tensor,
        "kind": control.kind,
        "dtype": control.dtype,
        "shape": list(control.shape),
        "batch_axis": control.batch_axis,
        "off": control.off,
        "on": control.on,
    }


def _describe_state(state: State) -> dict[str, Any]:
    uniform = _is_uniform(state.initial)
    return {
        "in": state.tensor,
        "out": state.next_tensor,
        "dtype": state.dtype,
        "shape": list(state.shape),
        "batch_axis": state.batch_axis,
        "initial": state.initial.flat[0].item() if uniform else {"tensor": state.tensor},
    }


def _is_uniform(array: AnyArray) -> bool:
    # By bits: -0.0 and 0.0 are different initial values.
    return array.size > 0 and array.tobytes() == array.flat[0].tobytes() * array.size


def _port(entry: Any, at: str, defaults: Mapping[str, Any]) -> Port:
    fields = _filled(entry, at, frozenset(PORT_FIELDS), defaults)
    for key in ("shape", "columns", "range"):
        if fields.get(key) is not None:
            fields[key] = tuple(_list(fields[key], f"{at}.{key}"))
    return _placed(at, lambda: Port(**fields))


def _constant(name: str, entry: Any) -> Constant:
    at = f"constants.{name[:80]}"
    fields = _filled(entry, at, frozenset(("dtype", "value")), {"batch_axis": None})
    return Constant(name, tensor_of(at, fields["value"], fields["dtype"]), fields["batch_axis"])


def _control(entry: Any, at: str) -> Control:
    required = frozenset(("tensor", "kind", "dtype", "shape"))
    fields = _filled(entry, at, required, {"batch_axis": 0, "off": 0, "on": 1})
    fields["shape"] = tuple(_list(fields["shape"], f"{at}.shape"))
    return _placed(at, lambda: Control(**fields))


def _states(description: Mapping[str, Any], initial: Callable[[], dict[str, AnyArray]]) -> tuple[State, ...]:
    entries = _each(description, "state", _state_fields)
    # Before any of it is allocated.
    if sum(float(np.prod(entry["shape"], dtype=float)) for entry in entries) > MAX_STATE_BYTES:
        raise BadArtifact(f"the states have more than {MAX_STATE_BYTES} bytes together")
    learnt = [entry for entry in entries if isinstance(entry["initial"], dict)]
    tensors = initial() if learnt else {}
    for name in sorted(set(tensors) - {entry["initial"]["tensor"] for entry in learnt}):
        raise BadArtifact(f"initial.safetensors has a tensor {name[:80]!r} that no state uses")
    return tuple(_state(entry, f"state[{i}]", tensors) for i, entry in enumerate(entries))


def _state_fields(entry: Any, at: str) -> dict[str, Any]:
    required = frozenset(("in", "out", "dtype", "shape", "initial"))
    fields = _filled(entry, at, required, {"batch_axis": 0})
    _text(fields["in"], f"{at}.in")
    fields["shape"] = tuple(_list(fields["shape"], f"{at}.shape"))
    if not all(type(size) is int and size > 0 for size in fields["shape"]):
        raise BadArtifact(f"{at}.shape must be whole numbers above 0")
    if isinstance(fields["initial"], dict):
        place = _filled(fields["initial"], f"{at}.initial", frozenset(("tensor",)), {})
        _text(place["tensor"], f"{at}.initial.tensor")
    return fields


def _state(entry: Mapping[str, Any], at: str, tensors: Mapping[str, AnyArray]) -> State:
    shape, dtype, initial = entry["shape"], entry["dtype"], entry["initial"]
    if isinstance(initial, dict):
        name = initial["tensor"]
        if name not in tensors:
            raise BadArtifact(f"{at}.initial: initial.safetensors has no tensor {name[:80]!r}")
        value = tensors[name]
        if str(value.dtype) != dtype or value.shape != shape:
            raise BadArtifact(
                f"{at}.initial: the tensor {name[:80]!r} is {value.dtype} {list(value.shape)}, "
                f"not {str(dtype)[:40]} {list(shape)}"
            )
    else:
        value = np.broadcast_to(tensor_of(f"{at}.initial", initial, dtype), shape)
    return _placed(at, lambda: State(entry["in"], entry["out"], value, entry["batch_axis"]))


def _feedback(entry: Any) -> Feedback | None:
    if entry is None:
        return None
    fields = _filled(entry, "feedback", frozenset(("observations",)), {})
    pairs = _mapping(fields["observations"], "feedback.observations")
    return Feedback({name: _text(source, f"feedback.observations.{name}") for name, source in pairs.items()})


def _describe_samples(samples: Samples) -> dict[str, Any]:
    events = None if samples.events is None else asdict(samples.events)
    return {"unit": "sample", "rate": samples.rate, "events": events}


def _samples(description: Mapping[str, Any]) -> Samples | None:
    unit, rate, events = (description[key] for key in SAMPLE_DEFAULTS)
    if unit is None:
        if rate is not None or events is not None:
            raise BadArtifact("rate and events belong to a model with the unit sample")
        return None
    if unit != "sample":
        raise BadArtifact(f"unit must be null or 'sample', not {str(unit)[:40]!r}")
    if events is None:
        return Samples(rate)
    fields = _filled(events, "events", frozenset(("output",)), EVENT_DEFAULTS)
    _text(fields["output"], "events.output")
    return Samples(rate, SpeechEvents(**fields))


def _each(description: Mapping[str, Any], key: str, make: Callable[[Any, str], T]) -> tuple[T, ...]:
    return tuple(make(entry, f"{key}[{i}]") for i, entry in enumerate(_list(description[key], key)))


def _placed(at: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except BadArtifact as error:
        raise BadArtifact(f"{at}: {error}") from error


def _filled(entry: Any, at: str, required: frozenset[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    fields = _mapping(entry, at)
    for name in sorted((required | set(defaults)) ^ set(fields)):
        if name in fields:
            raise BadArtifact(f"{at} has an unknown field {name[:80]!r}")
        if name in required:
            raise BadArtifact(f"{at} lacks {name!r}")
    return {**defaults, **fields}


def _mapping(value: Any, at: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadArtifact(f"{at} is not an object")
    return value


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadArtifact(f"{at} is not a list")
    return value


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise BadArtifact(f"{at} is not text")
    return value
