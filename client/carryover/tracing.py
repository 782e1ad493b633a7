"""Traces a PyTorch module to an ONNX graph whose states are inputs and outputs.

y = module(x)                  the states of nn.LSTM, nn.GRU and nn.RNN stay in the graph, for the import to
                               expose; those of nn.LSTMCell and others of one step are taken out here
y, state = module(x, state)    the state is what the module is given and returns
"""

from __future__ import annotations

import inspect
import itertools
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carryover.cell_states import CellStates
from carryover.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 17
MAX_TRIES = 64
STEPS_ALONE = 8
"""How many steps a module that takes one at a time is run for, to have answers to compare."""


@dataclass(frozen=True)
class TracedModule:
    """A module as a graph, and what it answers.

    Attributes
    ----------
    graph
        The ONNX file.
    states
        The graph's output by input: the states that the module is given and returns.
    initial
        [*shape] by state, as float32: what a session starts from.
    batch_axes
        By input and state, which axis is the batch.
    sample
        For `carryover import --verify`: a stream by input, and the module's answers by output.
    stateless
        The module has no state that could be exposed.
    """

    graph: bytes
    states: Mapping[str, str]
    initial: Mapping[str, Any]
    batch_axes: Mapping[str, int]
    sample: Mapping[str, Any]
    stateless: bool


def trace(
    module: nn.Module,
    example: Any,
    *,
    inputs: int = 1,
    batch_axis: int = 0,
    time_axis: int | str | None = "auto",
) -> TracedModule:
    """Trace a module to a graph with a free batch and time, and run it for a sample; as `export`.

    Raises
    ------
    ExportError
    """
    try:
        import torch
    except ImportError as error:
        raise ExportError("carryover.export needs PyTorch: pip install torch") from error
    arguments = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    call = _Call(module, arguments, inputs, batch_axis, time_axis)
    with _evaluating(module), torch.no_grad():
        sample = call.sample()
        graph = call.graph()
    stateless = not call.states and not any(isinstance(inner, torch.nn.RNNBase) for inner in module.modules())
    return TracedModule(graph, call.states, call.initial(), call.batch_axes, sample, stateless)


class _Call:
    """How the module is called, with all tensors by name."""

    def __init__(
        self,
        module: nn.Module,
        arguments: tuple[Any, ...],
        inputs: int,
        batch_axis: int,
        time_axis: int | str | None,
    ) -> None:
        import torch

        if not 1 <= inputs <= len(arguments):
            raise ExportError(
                f"the example has {len(arguments)} arguments, of which {inputs} cannot be inputs"
            )
        self.module, self.arguments, self.batch_axis = module, arguments, batch_axis
        names = _parameter_names(module, len(arguments))
        leaves = [_named_leaves(name, argument) for name, argument in zip(names, arguments, strict=True)]
        self.observed = {name: leaf for group in leaves[:inputs] for name, leaf in group}
        self.given = {name: leaf for group in leaves[inputs:] for name, leaf in group}
        for name, leaf in (self.observed | self.given).items():
            if not isinstance(leaf, torch.Tensor):
                raise ExportError(f"the example's {name!r} is {type(leaf).__name__}, not a tensor")
        self.time_axis = _time_axis(next(iter(self.observed.values())), batch_axis, time_axis)
        self.batch = next(iter(self.observed.values())).shape[batch_axis]
        self.batch_axes = dict.fromkeys(self.observed, batch_axis)
        self.answers: list[str] = []
        self.kept: list[int] | None = None  # which of the returned tensors are answers
        self.cells = None if self.given else CellStates(module)

    @property
    def states(self) -> dict[str, str]:
        """The graph's output by input."""
        return {name: f"{name}.next" for name in self.given}

    def initial(self) -> dict[str, Any]:
        """[*shape] by state, of the example's first row."""
        return {
            name: leaf.select(self.batch_axes[name], 0).detach().numpy() for name, leaf in self.given.items()
        }

    def sample(self) -> dict[str, Any]:
        """A stream of the example's first row and the module's answers: [steps, *shape] by name."""
        self.batch_axes |= self._state_axes()
        observed = {name: leaf.narrow(self.batch_axis, 0, 1) for name, leaf in self.observed.items()}
        state = {name: leaf.narrow(self.batch_axes[name], 0, 1) for name, leaf in self.given.items()}
        if self.time_axis is None:
            return self._sample_of_steps(state)
        answers, _ = self(observed, state)
        self.answers = _answer_names(len(answers))
        if self.cells:
            self._take_out_cells()
        steps = next(iter(observed.values())).shape[self.time_axis]
        sample = {name: self._by_time(leaf, steps) for name, leaf in observed.items()}
        return sample | {
            name: self._by_time(answer, steps) for name, answer in zip(self.answers, answers, strict=True)
        }

    def _take_out_cells(self) -> None:
        """Make the states of cells inside the module inputs: then a call is one step."""
        if self.cells is None or self.time_axis is None:
            return
        self.observed = {name: leaf.narrow(self.time_axis, 0, 1) for name, leaf in self.observed.items()}
        self.given = self.cells.starts(lambda: self._made(self.observed, {}))
        self.batch_axes |= dict.fromkeys(self.given, 0)

    def _sample_of_steps(self, state: dict[str, Tensor]) -> dict[str, Any]:
        """Of a module that takes one step a call: the rows of the example's batch, one after the other."""
        import torch

        rows = [row % self.batch for row in range(STEPS_ALONE)]
        kept: dict[str, list[Any]] = {name: [] for name in self.observed}
        for row in rows:
            observed = {name: leaf.narrow(self.batch_axis, row, 1) for name, leaf in self.observed.items()}
            answers, state = self(observed, state)
            self.answers = _answer_names(len(answers))
            values = [*observed.items(), *zip(self.answers, answers, strict=True)]
            for name, value in values:
                kept.setdefault(name, []).append(value.squeeze(self.batch_axis).detach())
        return {name: torch.stack(values).numpy() for name, values in kept.items()}

    def _by_time(self, tensor: Tensor, steps: int) -> Any:
        """[steps, *shape] of a tensor of one session; one row, the last step's, where it has no time."""
        axis = self.time_axis
        if axis is not None and tensor.dim() > axis and tensor.shape[axis] == steps:
            tensor = tensor.movedim((self.batch_axis, axis), (0, 1))[0]
        elif axis is not None and tensor.dim() == axis and tensor.shape[-1] == steps:
            tensor = tensor.movedim(-1, 0).reshape(steps, -1)
        else:
            tensor = tensor.reshape(1, -1)
        return tensor.detach().numpy()

    def __call__(
        self, observed: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The module's answers, and the states that it leaves."""
        if self.cells and state:
            made, after = self.cells.run(lambda: self._made(observed, {}), state)
            return self._answers(made, observed), after
        made = self._made(observed, state)
        if not state:
            return self._answers(made, observed), {}
        flat = [leaf for _, leaf in _named_leaves("output", made)]
        if len(flat) <= len(state):
            raise ExportError(
                f"the module is given {len(state)} states and returns {len(flat)} tensors: it must return "
                "its answer and all states"
            )
        kept = len(flat) - len(state)
        return flat[:kept], dict(zip(state, flat[kept:], strict=True))

    def _answers(self, made: Any, observed: Mapping[str, Tensor]) -> list[Tensor]:
        """The answers of a module that is given no state: without the final states that it may return.

        Those are known by their shape, when the module is called for the first time.
        """
        flat = [leaf for _, leaf in _named_leaves("output", made)]
        if self.kept is None:
            first, x = flat[0], next(iter(observed.values()))
            places = [self.batch_axis]
            if self.time_axis is not None and first.dim() > self.time_axis:
                places += [self.time_axis] if first.shape[self.time_axis] == x.shape[self.time_axis] else []
            sizes = [first.shape[place] for place in places]
            self.kept = [
                i
                for i, leaf in enumerate(flat)
                if leaf.dim() == first.dim() and [leaf.shape[place] for place in places] == sizes
            ]
        return [flat[i] for i in self.kept]

    def _made(self, observed: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        """What the module returns."""
        leaves = iter([*observed.values(), *state.values()])
        arguments = [_rebuilt(argument, leaves) for argument in self.arguments]
        try:
            return self.module(*arguments)
        except ExportError:
            raise
        except Exception as error:
            raise ExportError(f"the module cannot be called with the example: {error}") from error

    def graph(self) -> bytes:
        """The module as an ONNX file."""
        import torch

        call = self

        class Flat(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = call.module

            def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
                observed = dict(zip(call.observed, leaves, strict=False))
                state = dict(zip(call.given, leaves[len(observed) :], strict=True))
                answers, after = call(observed, state)
                return (*answers, *after.values())

        axes = {name: {axis: "batch"} for name, axis in self.batch_axes.items()}
        if self.time_axis is not None and not (self.cells and self.given):
            for name in self.observed:
                axes[name][self.time_axis] = "time"
        with tempfile.TemporaryDirectory(prefix="carryover-trace.") as place, warnings.catch_warnings():
            # Of the tracer: the import compares the graph with the module's own numbers instead.
            warnings.simplefilter("ignore")
            file = Path(place) / "graph.onnx"
            try:
                torch.onnx.export(
                    Flat().eval(),
                    (*self.observed.values(), *self.given.values()),
                    file,
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[*self.observed, *self.given],
                    output_names=[*self.answers, *self.states.values()],
                    dynamic_axes=axes,
                )
            except ExportError:
                raise
            except Exception as error:
                raise ExportError(f"PyTorch cannot export the module: {str(error).strip()[:1000]}") from error
            return file.read_bytes()

    def _state_axes(self) -> dict[str, int]:
        """The batch axes of the states: with the right ones a row alone is answered as among others."""
        candidates = [self._as_long_as_batch(name, leaf) for name, leaf in self.given.items()]
        found = [
            dict(zip(self.given, axes, strict=True))
            for axes in itertools.islice(itertools.product(*candidates), MAX_TRIES)
        ]
        if len(found) == 1:
            return found[0]
        for axes in found:
            if self._answers_alone(axes):
                return axes
        raise ExportError("no axis of the states is the batch: the first row alone does not give its answer")

    def _as_long_as_batch(self, name: str, leaf: Tensor) -> list[int]:
        axes = [axis for axis, size in enumerate(leaf.shape) if size == self.batch]
        if not axes:
            raise ExportError(
                f"the state {name!r} has the shape {list(leaf.shape)}: no axis for the batch of {self.batch}"
            )
        return axes

    def _answers_alone(self, axes: Mapping[str, int]) -> bool:
        import torch

        places = dict.fromkeys(self.observed, self.batch_axis) | dict(axes)
        alone = {name: leaf.narrow(places[name], 0, 1) for name, leaf in (self.observed | self.given).items()}
        among = self.observed | self.given
        if self.batch == 1:  # a neighbour is needed, to see which axis it lies along
            among = {name: torch.cat([leaf, leaf], places[name]) for name, leaf in among.items()}
        try:
            answers, states = self._called(alone)
            answers_among, states_among = self._called(among)
        except ExportError:  # the shapes do not fit
            return False
        return (
            all(states[name].shape == alone[name].shape for name in axes)
            and all(states_among[name].shape == among[name].shape for name in axes)
            and all(
                torch.allclose(of_both.narrow(self.batch_axis, 0, 1), answer, atol=1e-5)
                for of_both, answer in zip(answers_among, answers, strict=True)
            )
        )

    def _called(self, leaves: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        observed = {name: leaves[name] for name in self.observed}
        return self(observed, {name: leaves[name] for name in self.given})


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _time_axis(observed: Tensor, batch_axis: int, time_axis: int | str | None) -> int | None:
    if time_axis == "auto":
        single = 1 if not observed.dtype.is_floating_point else 2
        return None if observed.dim() <= single else 1 - min(batch_axis, 1)
    if time_axis is not None and not isinstance(time_axis, int):
        raise ExportError(f"time_axis must be a number, None or 'auto', not {time_axis!r}")
    return time_axis


def _parameter_names(module: nn.Module, count: int) -> list[str]:
    names = [
        parameter.name
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return (names + [f"input{i}" for i in range(len(names), count)])[:count]


def _named_leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The tensors in nested tuples and lists, in order, each with a name."""
    if isinstance(value, (tuple, list)):
        return [leaf for i, inner in enumerate(value) for leaf in _named_leaves(f"{name}.{i}", inner)]
    return [(name, value)]


def _rebuilt(value: Any, leaves: Iterator[Any]) -> Any:
    """The same nesting, with these tensors in it."""
    if isinstance(value, (tuple, list)):
        return type(value)(_rebuilt(inner, leaves) for inner in value)
    return next(leaves)


def _answer_names(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output.{i}" for i in range(count)]
