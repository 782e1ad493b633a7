"""Finds out which axes of a graph's tensors are the batch and the time: by running it.

What exporters declare of outputs is often a guess, so nothing is taken from there. The graph runs with 3 and
with 2 sessions, and with 5 and 7 steps: an axis that follows the first is the batch, the other the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from models.arrays import AnyArray
from models.artifact.graphs.choices import Choices, Tensor, id_ranges, tensor
from models.artifact.graphs.layouts import (
    Layout,
    batch_axes,
    followers,
    possible_layouts,
    single_axis,
    without_axis,
)
from models.artifact.graphs.limits import fed_inputs
from models.artifact.graphs.rewrite import ExposedState, expose_states, free_axes, loosen_reshapes, move_axis
from models.artifact.graphs.runtime import noise, open_session, run
from models.errors import BadArtifact
from models.nets.signature import MAX_STATE_BYTES, Constant, Dtype, Port, Signature, State, Steps, tensor_of

if TYPE_CHECKING:
    from onnx import ModelProto

BATCHES, STEPS = (3, 2), (5, 7)
MAX_TRIES = 64

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Made:
    """Shapes of a graph's outputs: with the usual sizes, with fewer sessions, with more steps."""

    usual: Shapes
    fewer: Shapes
    longer: Shapes


def understand(model: ModelProto, choices: Choices) -> Signature:
    """Say what each tensor of the graph is, and rewire the graph where that was chosen, in place.

    Raises
    ------
    BadArtifact
        The message names the tensor and the shape.
    """
    exposed = expose_states(model) if choices.expose else ()
    try:
        return _Explorer(model, choices, exposed).signature()
    except BadArtifact:
        # A graph for one session may have its batch of 1 written into shapes inside.
        if not (choices.free_batch and loosen_reshapes(model)):
            raise
        return _Explorer(model, choices, exposed).signature()


class _Explorer:
    """Runs a graph with several sizes."""

    def __init__(self, model: ModelProto, choices: Choices, exposed: tuple[ExposedState, ...]) -> None:
        self.model, self.choices, self.exposed = model, choices, exposed
        self.states = {**choices.states, **{state.tensor: state.next_tensor for state in exposed}}
        self.fed = {value.name: tensor(value) for value in fed_inputs(model.graph)}
        others = {*self.states, *choices.constants, *choices.controls}
        self.inputs = [name for name in self.fed if name not in others]
        if not self.inputs:
            raise BadArtifact("no input is left for observations: all are states, constants or controls")
        self.ranges = {**id_ranges(model), **choices.ranges}
        self.constants = {name: _constant(self.fed[name], value) for name, value in choices.constants.items()}
        after = set(self.states.values())
        produced = [value.name for value in model.graph.output if value.name not in choices.ignore]
        # A state may be the answer, too, where there is no other.
        self.outputs = [name for name in produced if name not in after] or [
            name for name in produced if name in choices.states.values()
        ]
        if not self.outputs:
            raise BadArtifact("no output is left for predictions: all are states or ignored")
        self.types = {value.name: tensor(value).dtype for value in model.graph.output}
        self.session = self._open()

    def signature(self) -> Signature:
        """Find the layouts and put them together."""
        layouts, made = self._layouts()
        answers = {name: self._answer(name, made) for name in self.outputs}
        single = single_axis([*(layouts[name] for name in self.inputs), *answers.values()])
        if single is not None:
            layouts |= {name: without_axis(layouts[name], single) for name in self.inputs}
            answers = {name: without_axis(answer, single) for name, answer in answers.items()}
        steps = self._steps(layouts, answers, one_a_call=single is not None)
        initials = self._initials(layouts)
        outputs = tuple(self._output(name, answers[name], steps) for name in self.outputs)
        self._declare(layouts)
        return Signature(
            inputs=tuple(self._input(name, layouts[name]) for name in self.inputs),
            outputs=outputs,
            states=tuple(
                State(name, out, initials[name], layouts[name].batch) for name, out in self.states.items()
            ),
            constants=tuple(self.constants.values()),
            controls=tuple(
                replace(
                    control,
                    dtype=_dtype(name, self.fed[name].dtype),
                    shape=layouts[name].shape,
                    batch_axis=layouts[name].batch,
                )
                for name, control in self.choices.controls.items()
            ),
            steps=steps,
        )

    def _input(self, name: str, layout: Layout) -> Port:
        return Port(
            self.choices.names.get(name, name),
            name,
            _dtype(name, self.fed[name].dtype),
            layout.shape,
            layout.batch,
            context=layout.context,
            range=self.ranges.get(name),
        )

    def _open(self) -> Any:
        """A session in which every axis that may be the batch is free."""
        from onnx import ModelProto, helper

        model = ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            for axis in (
                batch_axes(self.fed[value.name], self.choices) if value.name in self._carriers() else ()
            ):
                dims[axis].Clear()
        del model.graph.value_info[:]
        known = {value.name for value in model.graph.output}
        for state in self.exposed:
            if state.source is not None and state.source not in known:
                model.graph.output.append(helper.make_empty_tensor_value_info(state.source))
                known.add(state.source)
        return open_session(model.SerializeToString())

    def _carriers(self) -> list[str]:
        """The tensors that have a batch: of what they hold, each session has its own."""
        return [*self.inputs, *self.states, *self.choices.controls]

    def _layouts(self) -> tuple[dict[str, Layout], Made]:
        """The first layouts with which the graph runs, and the shapes of what it then made."""
        names = self._carriers()
        options = [
            possible_layouts(self.fed[name], self.choices, may_have_time=name in self.inputs)
            for name in names
        ]
        problem = ""
        tries = (dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*options))
        for layouts in itertools.islice(filter(self._agree, tries), MAX_TRIES):
            try:
                made = Made(
                    self._shapes(layouts, BATCHES[0], STEPS[0]),
                    self._shapes(layouts, BATCHES[1], STEPS[0]),
                    self._shapes(layouts, BATCHES[0], STEPS[1]),
                )
                self._check(layouts, made)
            except BadArtifact as error:
                problem = problem or str(error)
            else:
                return layouts, made
        raise BadArtifact(problem or "the inputs do not have their time on the same axis: give --shape")

    def _open_sizes(self) -> str:
        """A hint where the graph leaves more than the batch and the time open; else nothing."""
        for name in self.inputs:
            free = [dim for dim in self.fed[name].dims or () if isinstance(dim, str)]
            if len(free) > 1 and name not in self.choices.shapes:
                return f"; if the size of a step is not free, say it: --shape {name}=N"
        return ""

    def _agree(self, layouts: Mapping[str, Layout]) -> bool:
        return len({layouts[name].time for name in self.inputs}) == 1

    def _shapes(self, layouts: Mapping[str, Layout], batch: int, steps: int) -> Shapes:
        """Shapes of all outputs, by name, for so many sessions and steps."""
        values = self._run(layouts, batch, steps, None)
        names = (output.name for output in self.session.get_outputs())
        return {name: value.shape for name, value in zip(names, values, strict=True)}

    def _run(
        self, layouts: Mapping[str, Layout], batch: int, steps: int, names: list[str] | None
    ) -> list[AnyArray]:
        for name, layout in layouts.items():
            if prod(layout.shape) > MAX_STATE_BYTES:
                raise BadArtifact(f"input {name!r} has the shape {list(layout.shape)}, which is too large")
        random = np.random.default_rng(batch * 100 + steps)
        feeds = {
            name: noise(random, self.fed[name].dtype, layout.full(batch, steps), self.ranges.get(name))
            for name, layout in layouts.items()
        }
        for name, constant in self.constants.items():
            feeds[name] = _repeated(constant, batch)
        try:
            return run(self.session, names, feeds)
        except BadArtifact as error:
            fed = ", ".join(f"{name} {list(feeds[name].shape)}" for name in layouts)
            raise BadArtifact(f"the graph does not run with {fed}: {error}{self._open_sizes()}") from error

    def _check(self, layouts: Mapping[str, Layout], made: Made) -> None:
        for name in self.outputs:
            if not followers(made.usual[name], made.fewer[name], *BATCHES):
                raise BadArtifact(
                    f"output {name!r} has no axis that follows the batch: {list(made.usual[name])} with "
                    f"{BATCHES[0]} sessions, {list(made.fewer[name])} with {BATCHES[1]}"
                )
        for name, out in self.states.items():
            for sizes, shapes in (((3, 5), made.usual), ((2, 5), made.fewer), ((3, 7), made.longer)):
                expected = layouts[name].full(*sizes)
                if shapes[out] != expected:
                    raise BadArtifact(
                        f"state {name!r} is {list(expected)} before a call of {sizes[1]} steps and "
                        f"{list(shapes[out])} after it: a state must keep its size"
                    )

    def _answer(self, name: str, made: Made) -> Layout:
        """Where an output has its batch and its time."""
        usual, longer = made.usual[name], made.longer[name]
        batch = followers(usual, made.fewer[name], *BATCHES)[0]
        times = followers(usual, longer, *STEPS)
        if not times and usual != longer:
            axis = next(i for i, (a, b) in enumerate(zip(usual, longer, strict=True)) if a != b)
            missing = STEPS[0] - usual[axis]
            hint = f": --context {self.inputs[0]}={missing}" if missing == STEPS[1] - longer[axis] > 0 else ""
            raise BadArtifact(
                f"output {name!r} has {usual[axis]} rows for {STEPS[0]} steps and {longer[axis]} for "
                f"{STEPS[1]}, not one for each{hint}"
            )
        time = times[0] if times else None
        shape = tuple(size for axis, size in enumerate(usual) if axis not in (batch, time))
        return Layout(batch, time, shape)

    def _steps(
        self, layouts: Mapping[str, Layout], answers: Mapping[str, Layout], *, one_a_call: bool
    ) -> Steps:
        axis = layouts[self.inputs[0]].time
        if axis is None:
            return Steps()
        without = [name for name, answer in answers.items() if answer.time is None]
        if without and len(without) < len(answers):
            raise BadArtifact(
                f"output {without[0]!r} has no axis for the steps, others have one: --ignore {without[0]}"
            )
        has_start = any(control.kind == "start" for control in self.choices.controls.values())
        return Steps(axis, 1 if one_a_call or has_start else None, "last" if without else "each")

    def _initials(self, layouts: Mapping[str, Layout]) -> dict[str, AnyArray]:
        """[*shape] by state: what a fresh session starts from."""
        initials: dict[str, AnyArray] = {}
        sources = {state.tensor: state.source for state in self.exposed if state.source is not None}
        for name in self.states:
            shape, dtype = layouts[name].shape, self.fed[name].dtype
            if name in self.choices.initials:
                initials[name] = tensor_of(f"state {name!r}", self.choices.initials[name], dtype)
                if initials[name].shape != shape:
                    given = list(initials[name].shape)
                    raise BadArtifact(
                        f"state {name!r} has the shape {list(shape)}, its initial value {given}"
                    )
            elif name in sources:
                initials[name] = self._source(name, sources[name], layouts).reshape(shape)
            else:
                initials[name] = np.zeros(shape, dtype)
        return initials

    def _source(self, name: str, source: str, layouts: Mapping[str, Layout]) -> AnyArray:
        """What a node started from before its state was exposed, [1, batch, hidden], of one session."""
        (first,) = self._run(layouts, BATCHES[0], STEPS[0], [source])
        (second,) = self._run(layouts, BATCHES[1], STEPS[1], [source])
        one = first[:, :1]
        if not ((first == one).all() and (second == one).all()):
            raise BadArtifact(f"state {name!r}: its initial value {source!r} differs from call to call")
        return np.asarray(one)

    def _output(self, name: str, answer: Layout, steps: Steps) -> Port:
        made = name
        if steps.axis is not None and answer.time is not None and answer.time != steps.axis:
            rank = len(answer.shape) + 2
            made = move_axis(self.model, name, answer.time, steps.axis, rank)
            order = [axis for axis in range(rank) if axis != answer.time]
            order.insert(steps.axis, answer.time)
            answer = replace(answer, batch=order.index(answer.batch), time=steps.axis)
        return Port(
            self.choices.names.get(name, name),
            made,
            _dtype(name, self.types[name]),
            answer.shape,
            answer.batch,
            kind=self.choices.kinds.get(name, "number"),
        )

    def _declare(self, layouts: Mapping[str, Layout]) -> None:
        """Free the axes that the graph declares as fixed, where it does."""
        fixed = {
            name: layout.batch
            for name, layout in layouts.items()
            if not isinstance((self.fed[name].dims or ())[layout.batch], str)
        }
        if fixed:
            free_axes(self.model, fixed)


def _constant(declared: Tensor, value: AnyArray) -> Constant:
    """A constant as the graph wants it: of its type, and with its axes."""
    value = value.astype(declared.dtype)
    dims = declared.dims or ()
    if len(dims) == value.ndim + 1 and isinstance(dims[0], str):
        return Constant(declared.name, value, 0)
    if value.ndim == 0 and all(isinstance(dim, int) for dim in dims):
        value = np.broadcast_to(value, tuple(int(dim) for dim in dims))
    return Constant(declared.name, value)


def _repeated(constant: Constant, batch: int) -> AnyArray:
    if constant.batch_axis is None:
        return constant.value
    return np.repeat(np.expand_dims(constant.value, constant.batch_axis), batch, constant.batch_axis)


def _dtype(name: str, dtype: str) -> Dtype:
    for allowed in get_args(Dtype):
        if dtype == allowed:
            return cast(Dtype, dtype)
    raise BadArtifact(f"tensor {name!r} is {dtype}; {', '.join(get_args(Dtype))} are served")
