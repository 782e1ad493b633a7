"""A trained model as a value, checked when it is made: no invalid Artifact exists.

The fingerprint covers everything that decides a prediction: weights, shape, column names, scaling. The
model's name, units and metrics are not part of it and may be edited by hand.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from models.arrays import Floats
from models.artifact.fleet import Fleet
from models.artifact.learning import LATER_FIELDS, MAX_FEATURES, Learning, feature_count, horizon_prior_shapes
from models.artifact.names import check_name
from models.data import calendar
from models.data.scaling import Column, Scaling
from models.errors import BadArtifact
from models.generation.vocabulary import TextOutput, Vocabulary, check_pieces
from models.installation import install_command
from models.net import Execution, Net
from models.nets.architecture import Architecture
from models.nets.signature import Control, Port, State

if TYPE_CHECKING:
    from models.nets.recurrent import RecurrentNetwork

PredictionMode = Literal["level", "change"]

MAX_COLUMNS = 4096
MAX_HIDDEN = 16384
MAX_LAYERS = 64
LOGITS = "logits"  # the output of a model of text
HORIZONS = "horizons."  # begins the names of what the forecasts of new sessions begin with
MAX_WEIGHT_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Artifact:
    """A trained model.

    Attributes
    ----------
    inputs, targets
        The columns of an observation, and the names of what is predicted; a target is usually an input too.
    predicts
        "level", or "change" from the last observation (then every target must be an input).
    scaling, target_scaling
        Over inputs and over targets; a target that is an input shares its column's numbers.
    weights
        float32 arrays under the names of `RecurrentNetwork`'s state_dict; `readout.basis` [hidden, rank]
        beside them when `learning` asks for a rank. Where it has horizons, what the forecasts of its sessions
        begin with may be there, as `horizons.` and the names of `horizon_prior_shapes`.
    learning
        What its sessions learn of their own streams; if anything, every target must be an input.
    future
        Inputs that are known ahead, whose values a forecast is given; none of them is a target.
    time_features, interval_seconds
        Names in `models.data.calendar.PERIODS`, whose columns are the last inputs, and the seconds from row
        to row of the stream.
    architecture
        The kind of cells, the head and the embedding. With an embedding there is one input, a whole number,
        which is neither scaled nor a target.
    vocabulary
        Of a model of text: the piece of text that each token stands for. Its input is a token, and its
        outputs are the logits of the next one: `targets` are the pieces.
    fleet
        The series that it was trained on, each with its own scale, where there are several; then every target
        is an input, and `scaling` is that of a series of which nothing is known.
    metrics
        What training measured: JSON values; null for what could not be measured.

    Raises
    ------
    BadArtifact
        If anything does not fit together.
    """

    name: str
    inputs: tuple[Column, ...]
    targets: tuple[str, ...]
    hidden_size: int
    num_layers: int
    scaling: Scaling
    target_scaling: Scaling
    weights: Mapping[str, Floats]
    predicts: PredictionMode = "level"
    learning: Learning = field(default_factory=Learning)
    future: tuple[str, ...] = ()
    time_features: tuple[str, ...] = ()
    interval_seconds: float | None = None
    architecture: Architecture = field(default_factory=Architecture)
    vocabulary: tuple[str, ...] = ()
    fleet: Fleet | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_names(self)
        _check_size(self)
        _check_scaling(self)
        check_learning(self, self.learning)
        _check_future(self)
        _check_embedding(self)
        _check_vocabulary(self)
        _check_fleet(self)
        _check_weights(self)

    @property
    def input_size(self) -> int:
        return len(self.inputs)

    @property
    def output_size(self) -> int:
        return len(self.targets)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(column.name for column in self.inputs)

    @property
    def feedback(self) -> tuple[int | None, ...]:
        """For each input the output that predicts it, or None: what a free-running forecast feeds back."""
        if self.vocabulary:  # a piece may be called as the input is
            return (None,)
        return tuple(self.targets.index(name) if name in self.targets else None for name in self.columns)

    @property
    def predicted_by(self) -> tuple[int | None, ...]:
        """The same, under the name that all artifacts have for it."""
        return self.feedback

    @property
    def fed_back(self) -> dict[str, str]:
        """By input the target that becomes its next value in a forecast: its own."""
        if self.vocabulary:
            return {}
        return {name: name for name in self.columns if name in self.targets}

    @property
    def missing(self) -> tuple[str, ...]:
        """The names of the inputs that are neither predicted nor known ahead."""
        if self.vocabulary:
            return self.columns
        known = {*self.targets, *self.future, *calendar.columns(self.time_features)}
        return tuple(name for name in self.columns if name not in known)

    @property
    def input_ports(self) -> tuple[Port, ...]:
        """All inputs, as one tensor."""
        if self.architecture.embedding is not None:
            return self.listed_inputs
        return (Port("observations", "observations", shape=(self.input_size,), columns=self.columns),)

    @property
    def output_ports(self) -> tuple[Port, ...]:
        """All outputs, as one tensor."""
        if self.vocabulary:
            return (Port(LOGITS, LOGITS, shape=(self.output_size,), columns=self.targets, kind="logits"),)
        return (Port("predictions", "predictions", shape=(self.output_size,), columns=self.targets),)

    # A network of ours has a time axis, and its state is not shown by tensors.
    has_time_axis: ClassVar[bool] = True
    states: ClassVar[tuple[State, ...]] = ()
    controls: ClassVar[tuple[Control, ...]] = ()

    @cached_property
    def listed_inputs(self) -> tuple[Port, ...]:
        """A port for each input, as people see them."""
        embedding = self.architecture.embedding
        if embedding is not None:
            token, most = self.columns[0], embedding.vocabulary - 1
            return (Port(token, token, "int32", range=(0, most), unit=self.inputs[0].unit),)
        return tuple(Port(column.name, column.name, unit=column.unit) for column in self.inputs)

    @property
    def listed_outputs(self) -> tuple[Port, ...]:
        """A port for each target, as people see them."""
        if self.vocabulary:
            return self.output_ports
        units = {column.name: column.unit for column in self.inputs}
        return tuple(Port(name, name, unit=units.get(name)) for name in self.targets)

    @cached_property
    def text(self) -> TextOutput | None:
        """How the next token is drawn from a prediction; None for a model that is none of text."""
        if not self.vocabulary:
            return None
        return TextOutput(self.columns[0], LOGITS, 0, Vocabulary(self.vocabulary))

    @property
    def time_input_count(self) -> int:
        """How many inputs are time features; they are the last inputs."""
        return 2 * len(self.time_features)

    @property
    def change_of(self) -> tuple[int, ...] | None:
        """For each output its input column, when the network predicts changes."""
        return tuple(self.columns.index(name) for name in self.targets) if self.predicts == "change" else None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything that decides a prediction; a carry belongs to one fingerprint."""
        shape: list[Any] = [self.columns, self.targets, self.hidden_size, self.num_layers, self.predicts]
        # Fields that older artifacts do not have are left out at their defaults: fingerprints stay the same.
        if self.learning.enabled or self.future or self.time_features:
            learning = self.learning.as_dict()
            if not self.learning.forecasts_directly:
                learning = {name: value for name, value in learning.items() if name not in LATER_FIELDS}
            shape += [learning, self.future, self.time_features, self.interval_seconds]
        if self.architecture != Architecture():
            shape.append(self.architecture.as_dict())
        if self.vocabulary:
            shape.append("vocabulary")  # its pieces are the targets
        if self.fleet is not None:
            shape.append(self.fleet.as_dict())
        digest = hashlib.sha256(json.dumps(shape).encode())
        for scaling in (self.scaling, self.target_scaling):
            digest.update(scaling.mean.astype("<f8").tobytes() + scaling.std.astype("<f8").tobytes())
        arrays = {**self.weights, **({} if self.fleet is None else self.fleet.arrays())}
        for name in sorted(arrays):
            digest.update(name.encode() + arrays[name].astype("<f4").tobytes())
        return digest.hexdigest()

    def of_series(self, scaling: Scaling) -> "Artifact":
        """The same network for one series of this scale, [inputs], as a session of that series is served."""
        targets = scaling.pick([self.columns.index(name) for name in self.targets])
        return replace(self, scaling=scaling, target_scaling=targets, fleet=None)

    def network(self) -> "RecurrentNetwork":
        """A new network of torch's in eval mode, on the CPU, in float32; the caller may change it."""
        import torch

        from models.nets.recurrent import network_from_weights

        tensors = {name: torch.tensor(weight) for name, weight in self._network_weights().items()}
        return network_from_weights(tensors, self.num_layers, self.change_of, self.architecture)

    def net(self, execution: Execution) -> Net:
        """The network, ready to serve; torch is needed only where the device is not the CPU.

        Raises
        ------
        BadArtifact : torch is missing, or has no such device
        """
        if execution.device == "cpu":
            # Compiled loops, which a command that only reads artifacts does not need.
            from models.nets.native import NativeNet

            return NativeNet(self._network_weights(), self.architecture, self.change_of)
        try:
            import torch

            from models.nets.native_torch import TorchNet
        except ModuleNotFoundError as error:
            command = install_command("train", cuda=True)
            raise BadArtifact(f"the device {execution.device} needs torch: {command}") from error
        if not torch.cuda.is_available():
            raise BadArtifact(f"torch {torch.__version__} finds no GPU for the device {execution.device}")
        return TorchNet(self.network(), execution.device)

    def _network_weights(self) -> dict[str, Floats]:
        return {
            name: weight
            for name, weight in self.weights.items()
            if not name.startswith(("readout.", HORIZONS))
        }


def _check_names(artifact: Artifact) -> None:
    check_name(artifact.name)
    for what, names in (("inputs", artifact.columns), ("targets", artifact.targets)):
        if what == "targets" and artifact.vocabulary:
            check_pieces(names)
            continue
        if not 1 <= len(names) <= MAX_COLUMNS:
            raise BadArtifact(f"{what} must name 1 to {MAX_COLUMNS} columns, not {len(names)}")
        if not all(1 <= len(name) <= 256 for name in names):
            raise BadArtifact(f"{what} has a column name that is not 1 to 256 characters long")
        if len(set(names)) != len(names):
            raise BadArtifact(f"{what} names a column twice")


def _check_size(artifact: Artifact) -> None:
    size = (artifact.input_size, artifact.hidden_size, artifact.num_layers, artifact.output_size)
    check_bounds(artifact.architecture, *size)
    if artifact.predicts not in ("level", "change"):
        raise BadArtifact(f"predicts must be 'level' or 'change', not {str(artifact.predicts)[:40]!r}")
    unseen = [name for name in artifact.targets if name not in artifact.columns]
    if artifact.predicts == "change" and unseen:
        raise BadArtifact(
            f"a network that predicts changes needs its targets as inputs; {unseen[0]!r} is not an input"
        )


def check_bounds(
    architecture: Architecture, input_size: int, hidden_size: Any, num_layers: Any, output_size: int
) -> None:
    """Refuse a network that is too large, before memory for it is allocated.

    Raises
    ------
    BadArtifact
    """
    bounds = (("hidden_size", hidden_size, MAX_HIDDEN), ("num_layers", num_layers, MAX_LAYERS))
    for what, size, most in bounds:
        if type(size) is not int or not 1 <= size <= most:
            raise BadArtifact(f"{what} must be a whole number from 1 to {most}, not {str(size)[:40]}")
    shapes = architecture.weight_shapes(input_size, hidden_size, num_layers, output_size)
    if 4 * sum(prod(shape) for shape in shapes.values()) > MAX_WEIGHT_BYTES:
        raise BadArtifact(f"a network of this shape needs more than {MAX_WEIGHT_BYTES} bytes of weights")


def _check_scaling(artifact: Artifact) -> None:
    for what, scaling, count in (
        ("scaling", artifact.scaling, artifact.input_size),
        ("target_scaling", artifact.target_scaling, artifact.output_size),
    ):
        if len(scaling.mean) != count:
            raise BadArtifact(f"{what} is over {len(scaling.mean)} columns, the model has {count}")
    for output, name in enumerate(artifact.targets):
        if name in artifact.columns and not artifact.vocabulary:
            column = artifact.columns.index(name)
            ours, theirs = artifact.target_scaling.pick([output]), artifact.scaling.pick([column])
            if ours.mean != theirs.mean or ours.std != theirs.std:
                raise BadArtifact(f"target {name!r} is scaled differently from the input of that name")


def check_learning(artifact: Artifact, learning: Learning) -> None:
    """Raise BadArtifact if the artifact's sessions cannot learn in this way."""
    unseen = [name for name in artifact.targets if name not in artifact.columns]
    if learning.enabled and unseen:
        raise BadArtifact(f"sessions cannot learn about the target {unseen[0]!r}, which is not an input")
    if learning.forecasts_directly and artifact.future:
        known = ", ".join(artifact.future)
        raise BadArtifact(
            "a model with columns that are known ahead cannot have horizons: "
            f"a direct forecast ignores {known}"
        )
    if learning.rank > artifact.hidden_size:
        raise BadArtifact(f"rank {learning.rank} is more than the {artifact.hidden_size} hidden features")
    if (
        learning.readout == "rls"
        and feature_count(learning, artifact.hidden_size, artifact.input_size) > MAX_FEATURES
    ):
        raise BadArtifact(
            f"the readout rls takes at most {MAX_FEATURES} features: set a rank, or use the readout gain"
        )
    if any(len(row) != artifact.output_size for row in learning.spread):
        raise BadArtifact(f"spread must have {artifact.output_size} numbers for each level")


def _check_future(artifact: Artifact) -> None:
    for name in artifact.future:
        if name not in artifact.columns or name in artifact.targets:
            raise BadArtifact(f"{str(name)[:80]!r} is known ahead, so it must be an input and not a target")
    for name in artifact.time_features:
        if name not in calendar.PERIODS:
            raise BadArtifact(
                f"unknown time feature {str(name)[:40]!r}; there are {', '.join(calendar.PERIODS)}"
            )
    expected = calendar.columns(artifact.time_features)
    if expected and (artifact.columns[-len(expected) :] != expected or len(expected) == artifact.input_size):
        raise BadArtifact(f"the last inputs must be {', '.join(expected)}, after at least one other input")
    step = artifact.interval_seconds
    if (expected or step is not None) and not (type(step) in (int, float) and 0 < step < 1e10):  # type: ignore[operator]
        raise BadArtifact("interval_seconds must be the seconds from row to row, above 0")


def _check_embedding(artifact: Artifact) -> None:
    if artifact.architecture.embedding is None:
        return
    if artifact.input_size != 1:
        raise BadArtifact(f"a network with an embedding has one input, not {artifact.input_size}")
    if artifact.columns[0] in artifact.targets and not artifact.vocabulary:
        raise BadArtifact(f"{artifact.columns[0]!r} is a number of the embedding, so it cannot be a target")
    if artifact.scaling.mean[0] != 0 or artifact.scaling.std[0] != 1:
        raise BadArtifact(f"{artifact.columns[0]!r} is a number of the embedding, so it cannot be scaled")


def _check_vocabulary(artifact: Artifact) -> None:
    if not artifact.vocabulary:
        return
    embedding = artifact.architecture.embedding
    if embedding is None:
        raise BadArtifact("a model with a vocabulary needs an embedding of its tokens")
    if artifact.targets != artifact.vocabulary or embedding.vocabulary != len(artifact.vocabulary):
        raise BadArtifact(
            f"the vocabulary has {len(artifact.vocabulary)} pieces, the embedding "
            f"{embedding.vocabulary} rows, and the model {artifact.output_size} logits: they must be as many"
        )
    if artifact.target_scaling.mean.any() or (artifact.target_scaling.std != 1).any():
        raise BadArtifact("logits cannot be scaled")
    if artifact.learning.enabled:
        raise BadArtifact("the sessions of a model with a vocabulary cannot learn")


def _check_fleet(artifact: Artifact) -> None:
    if artifact.fleet is None:
        return
    unseen = [name for name in artifact.targets if name not in artifact.columns]
    if unseen:
        raise BadArtifact(
            f"a network of many series needs its targets as inputs; {unseen[0]!r} is not an input"
        )
    if artifact.architecture.embedding is not None:
        raise BadArtifact("a network of many series scales its inputs, so it has no embedding")
    if artifact.fleet.mean.shape[1] != artifact.input_size:
        raise BadArtifact(
            f"the series are scaled over {artifact.fleet.mean.shape[1]} columns, the model has "
            f"{artifact.input_size}"
        )


def weight_shapes(
    architecture: Architecture,
    input_size: int,
    hidden_size: int,
    num_layers: int,
    output_size: int,
    learning: Learning,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight of an artifact: its network's, the basis of a readout of a rank, and what
    direct forecasts begin with, which may also be left out.
    """
    shapes = architecture.weight_shapes(input_size, hidden_size, num_layers, output_size)
    basis = {"readout.basis": (hidden_size, learning.rank)} if learning.rank else {}
    prior = horizon_prior_shapes(learning, output_size)
    return shapes | basis | {HORIZONS + name: shape for name, shape in prior.items()}


def _check_weights(artifact: Artifact) -> None:
    size = (artifact.input_size, artifact.hidden_size, artifact.num_layers, artifact.output_size)
    shapes = weight_shapes(artifact.architecture, *size, artifact.learning)
    if not any(name.startswith(HORIZONS) for name in artifact.weights):
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(HORIZONS)}
    for name in sorted(set(shapes) ^ set(artifact.weights)):
        raise BadArtifact(f"weights {'lack' if name in shapes else 'have an unknown'} {name[:80]}")
    for name, weight in artifact.weights.items():
        if weight.shape != shapes[name]:
            raise BadArtifact(f"{name} has shape {list(weight.shape)}, expected {list(shapes[name])}")
        if weight.dtype != np.float32:
            raise BadArtifact(f"{name} is {weight.dtype}, expected float32")
        if not np.isfinite(weight).all():
            raise BadArtifact(f"{name} has a value that is not finite")
