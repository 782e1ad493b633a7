"""A network that is an ONNX graph, run by onnxruntime: many sessions in one call.

observations -> inputs  -+                    +-> outputs -> predictions
row of words -> states  -+-> onnxruntime.run -+
                context -+                    +-> states, context -> row of words

Sessions whose chunks differ in length share the calls that they can: the first call has all sessions and as
many steps as the shortest chunk, the next call the other sessions, and so on. Nothing is padded. A graph that
takes one step a call is called for each step.

onnxruntime computes with one thread and without spinning: the engine owns one core, and its batches are
small.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.arrays import AnyArray, Floats, Ints, Numbers
from models.errors import BadArtifact
from models.nets.axes import Axes
from models.nets.chunks import longest_chunk, time_major
from models.nets.numbers import DOUBLE, MAX_WHOLE, input_type, is_whole, output_type
from models.nets.rows import Field
from models.nets.signature import Control, Port, Signature
from models.nets.watchdog import WATCHDOG

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3  # onnxruntime's severity: its warnings concern whoever wrote the graph


class GraphNet:
    """A graph over carries whose first columns are its states, its context and whether it has begun.

    Parameters
    ----------
    graph : bytes of the ONNX file, checked before
    signature : what its tensors mean
    device : "cpu" or "cuda"
    run_seconds : most that one call may take

    Raises
    ------
    BadArtifact : onnxruntime cannot load it, or is not installed
    """

    batch_invariant = False

    def __init__(self, graph: bytes, signature: Signature, device: str, run_seconds: float) -> None:
        self._signature, self._run_seconds = signature, run_seconds
        self._runtime = _onnxruntime()
        self._session = _session(self._runtime, graph, device)
        self.input_size, self.output_size = signature.input_size, signature.output_size
        self.input_type, self.output_type = input_type(signature.inputs), output_type(signature.outputs)
        self._largest = np.where([is_whole(port) for port in signature.outputs], MAX_WHOLE, np.inf).repeat(
            [port.size for port in signature.outputs]
        )
        self._states = _fields([(state.initial.dtype, state.shape) for state in signature.states], 0)
        self._contexts = _fields(
            [(port.type, _context_shape(port, signature.steps.axis)) for port in signature.inputs],
            self._states[-1].words.stop if self._states else 0,
        )
        steps = signature.steps
        time = () if steps.axis is None else (steps.axis,)
        emitted = time if steps.emits == "each" else ()
        self._input_axes = [_axes(port.shape, port.batch_axis, time) for port in signature.inputs]
        self._output_axes = [_axes(port.shape, port.batch_axis, emitted) for port in signature.outputs]
        self._state_axes = [_axes(state.shape, state.batch_axis) for state in signature.states]
        self._control_axes = [_axes(control.shape, control.batch_axis) for control in signature.controls]
        has_start = any(control.kind == "start" for control in signature.controls)
        self._begun = self._contexts[-1].words.stop
        self.state_size = self._begun + has_start
        fields = (*self._states, *self._contexts)
        self.floats: Sequence[slice] = [field.words for field in fields if field.holds_floats]
        self._fetched = list(signature.fetched_tensors)

    @property
    def fresh(self) -> Floats:
        """[state_size], the state of a session that has observed nothing."""
        row = np.zeros((1, self.state_size), np.float32)
        for field, state in zip(self._states, self._signature.states, strict=True):
            field.write(row, state.initial[None])
        return np.asarray(row[0])

    def advance(self, observations: Numbers, lengths: Ints, carries: Floats) -> tuple[Numbers, Floats]:
        """Move every session on by its chunk; see `Net.advance`.

        Raises
        ------
        RunTooLongError : a call took more than `run_seconds`
        """
        batch, longest = len(lengths), longest_chunk(lengths, observations)
        if batch * longest == len(observations):  # all are of one length: nothing has to be sorted
            moved = carries.copy()
            alike = self._advance_alike(observations.reshape(batch, longest, self.input_size), moved)
            return alike.reshape(len(observations), self.output_size), moved
        order = np.argsort(-lengths, kind="stable")
        rows = carries[order]
        outputs = np.empty((len(observations), self.output_size), self.output_type)
        for places in self._calls(lengths, order):
            outputs[places] = self._call(observations[places], rows[: len(places)])
        moved = np.empty_like(rows)
        moved[order] = rows
        return outputs, moved

    def states(self, carries: Floats) -> dict[str, AnyArray]:
        """Copies of the states of sessions by tensor, [batch, *shape]."""
        fields = zip(self._signature.states, self._states, strict=True)
        return {state.tensor: field.read(carries).copy() for state, field in fields}

    def step(self, observations: Numbers, carries: Floats) -> Numbers:
        """Move every session on by one observation, in place; see `Net.step`."""
        return np.asarray(self._call(observations[:, None], carries)[:, 0])

    def features(self, carries: Floats) -> Floats:
        """None: a readout cannot learn from a graph."""
        return np.empty((len(carries), 0), np.float32)

    def _advance_alike(self, observations: Numbers, rows: Floats) -> Numbers:
        """[batch, steps, outputs] of observations [batch, steps, inputs]; rows are moved on, in place."""
        steps = observations.shape[1]
        if steps == 1 or self._signature.steps.any_number:
            return self._call(observations, rows)
        return np.concatenate([self._call(observations[:, [step]], rows) for step in range(steps)], axis=1)

    def _calls(self, lengths: Ints, order: Ints) -> Iterator[Ints]:
        """For each call, [active, steps], the row numbers of the observations that it takes.

        Parameters
        ----------
        lengths : [batch]; order : [batch], which sorts the chunks, the longest first
        """
        if not self._signature.steps.any_number:
            for at in time_major(lengths, order, int(lengths.max())):
                yield at[:, None]
            return
        starts = (np.cumsum(lengths) - lengths)[order]
        done = 0
        for length in np.unique(lengths).tolist():
            active = int(np.count_nonzero(lengths >= length))
            yield starts[:active, None] + np.arange(done, length)
            done = length

    def _call(self, observations: Numbers, rows: Floats) -> Numbers:
        """Call the graph once, and move its rows on, in place.

        Parameters
        ----------
        observations : [batch, steps, inputs]
        rows : [batch, carry]

        Returns
        -------
        [batch, steps, outputs]
        """
        feeds, contexts = self._inputs(observations, rows)
        feeds |= self._others(rows)
        options = self._runtime.RunOptions()
        values = WATCHDOG.run(self._session, self._fetched, feeds, options, self._run_seconds)
        fetched = dict(zip(self._fetched, values, strict=True))
        for field, state, axes in zip(self._states, self._signature.states, self._state_axes, strict=True):
            value = axes.batch_first(fetched[state.next_tensor])
            _check_shape(state.next_tensor, value, (len(rows), *state.shape))
            field.write(rows, value)
        for field, context in zip(self._contexts, contexts, strict=True):
            field.write(rows, context)
        rows[:, self._begun : self.state_size] = 1
        return self._outputs(fetched, observations.shape[:2])

    def _inputs(self, observations: Numbers, rows: Floats) -> tuple[dict[str, AnyArray], list[AnyArray]]:
        """The graph's inputs by tensor, and the contexts that the next call needs, [batch, ...]."""
        axis = self._signature.steps.axis
        feeds: dict[str, AnyArray] = {}
        contexts: list[AnyArray] = []
        batch, steps = observations.shape[:2]
        stop = 0
        ports = zip(self._signature.inputs, self._contexts, self._input_axes, strict=True)
        for port, field, axes in ports:
            start, stop = stop, stop + port.size
            value = observations[..., start:stop].astype(port.type, copy=False)
            value = value.reshape(batch, steps, *port.shape)
            if axis is None:
                value = value[:, 0]
            if port.context:
                value = np.concatenate([field.read(rows), value], axis=-1 if axis is None else 1)
                kept = slice(-port.context, None)
                contexts.append(value[..., kept] if axis is None else value[:, kept])
            else:
                contexts.append(np.empty((batch, 0)))
            feeds[port.tensor] = axes.as_tensor(value)
        return feeds, contexts

    def _others(self, rows: Floats) -> dict[str, AnyArray]:
        """The states, controls and constants by tensor."""
        signature, batch = self._signature, len(rows)
        feeds: dict[str, AnyArray] = {}
        for field, state, axes in zip(self._states, signature.states, self._state_axes, strict=True):
            feeds[state.tensor] = axes.as_tensor(field.read(rows))
        for control, axes in zip(signature.controls, self._control_axes, strict=True):
            feeds[control.tensor] = axes.as_tensor(self._control(control, rows))
        for constant in signature.constants:
            value = constant.value
            if constant.batch_axis is not None:
                repeated = np.broadcast_to(value, (batch, *value.shape))
                value = _axes(value.shape, constant.batch_axis).as_tensor(repeated)
            feeds[constant.tensor] = value
        return feeds

    def _control(self, control: Control, rows: Floats) -> AnyArray:
        """[batch, *shape]."""
        on: Any = control.kind == "ready"
        if control.kind == "start":
            on = rows[:, self._begun] == 0
        values = np.where(on, control.on, control.off).astype(control.dtype)
        full = np.empty((len(rows), *control.shape), control.dtype)
        full[:] = values.reshape(-1, *[1] * len(control.shape))
        return full

    def _outputs(self, fetched: dict[str, AnyArray], size: tuple[int, int]) -> Numbers:
        """[batch, steps, outputs]."""
        outputs = np.empty((*size, self.output_size), self.output_type)
        stop = 0
        for port, axes in zip(self._signature.outputs, self._output_axes, strict=True):
            start, stop = stop, stop + port.size
            value = axes.batch_first(fetched[port.tensor])
            _check_shape(port.tensor, value, (*size[: value.ndim - len(port.shape)], *port.shape))
            outputs[..., start:stop] = value.reshape(*size, port.size)
        # A whole number that float64 may not hold exactly is as wrong as NaN.
        if self.output_type == DOUBLE:
            outputs[np.abs(outputs) > self._largest] = np.nan
        return outputs


def _fields(tensors: Sequence[tuple[np.dtype[Any], tuple[int, ...]]], start: int) -> list[Field]:
    fields = []
    for dtype, shape in tensors:
        fields.append(Field(dtype, shape, start))
        start = fields[-1].words.stop
    return fields


def _context_shape(port: Port, axis: int | None) -> tuple[int, ...]:
    """Of the context of one session; of no numbers where the input has none."""
    if axis is not None:
        return (port.context, *port.shape)
    return (*port.shape[:-1], port.context) if port.context else (0,)


def _axes(shape: tuple[int, ...], batch_axis: int, time: tuple[int, ...] = ()) -> Axes:
    return Axes(len(shape) + 1 + len(time), (batch_axis, *time))


def _check_shape(tensor: str, value: AnyArray, expected: tuple[int, ...]) -> None:
    if value.shape != expected:
        raise ValueError(
            f"the graph's output {tensor!r} has shape {list(value.shape)}, expected {list(expected)}"
        )


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise BadArtifact("an ONNX graph needs onnxruntime: install carryover-server[onnx]") from None


def provider(device: str) -> tuple[str, dict[str, str]]:
    """Where onnxruntime computes, and how: on a GPU without TF32, whose products keep 10 bits of a number."""
    return PROVIDERS[device], {"use_tf32": "0"} if device == "cuda" else {}


def _session(runtime: Any, graph: bytes, device: str) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    name = PROVIDERS[device]
    if name not in runtime.get_available_providers():
        raise BadArtifact(f"onnxruntime has no {name} here: install onnxruntime-gpu, or use the cpu")
    try:
        return runtime.InferenceSession(graph, options, providers=[provider(device)])
    except Exception as error:
        raise BadArtifact(f"onnxruntime cannot load the graph: {error}") from error
