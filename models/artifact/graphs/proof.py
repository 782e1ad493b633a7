"""Proves a graph before it is served: sessions do not see each other, and chunks do not matter.

twice       the same stream twice: the same answers
batch       2, 5 and 64 sessions together: each answers as it does alone
chunks      1 + 2 + 5 steps: as 8 steps in one call
reset       a session that is reset: as a fresh one
finite      zeros, noise and the sample give finite numbers
verify      the numbers that the author's own code gave for the sample
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.arrays import AnyArray, Floats, Numbers
from models.artifact.graphs.runtime import noise, open_session, run
from models.errors import BadArtifact
from models.nets.graph import GraphNet
from models.nets.signature import Port, Signature

BATCHES = (2, 5, 64)
STEPS = 8
PIECES = (1, 2, 5)
# Of the largest number compared, or of 1: what another order of summation may change, not another result.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3}
VERIFY_TOLERANCE = 1e-4
RUN_SECONDS = 30.0


@dataclass(frozen=True)
class Sample:
    """A stream and what the author's code answers.

    Attributes
    ----------
    inputs
        [steps, *shape] by input.
    outputs
        [up to steps, *shape] by output: the answers to the last steps.
    """

    inputs: Mapping[str, AnyArray]
    outputs: Mapping[str, AnyArray]


def read_sample(path: Path, signature: Signature) -> Sample:
    """Read a sample: an .npz with an array for each input and for the outputs to compare.

    They have the names of the ports or of the graph's tensors.
    A graph with one input may call it `inputs`, one with one output `outputs`.

    Raises
    ------
    BadArtifact
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadArtifact(f"{path} cannot be read as a sample: {error}") from error
    inputs = _named(found, signature.inputs, "inputs")
    outputs = _named(found, signature.outputs, "outputs")
    for port in signature.inputs:
        if port.name not in inputs:
            raise BadArtifact(
                f"{path} has no array for the input {port.name!r}; it has {', '.join(found)[:200]}"
            )
    if not outputs:
        raise BadArtifact(f"{path} has no array for an output: name one {signature.outputs[0].name!r}")
    lengths = {len(array) for array in inputs.values()}
    if len(lengths) != 1 or not lengths.copy().pop():
        raise BadArtifact(f"{path}: the inputs must have the same number of steps, at least 1")
    for name, array in outputs.items():
        if not 1 <= len(array) <= max(lengths):
            raise BadArtifact(f"{path}: {name!r} has {len(array)} rows for {max(lengths)} steps")
    return Sample(inputs, outputs)


def prove(graph: bytes, signature: Signature, sample: Sample | None = None) -> dict[str, Any]:
    """Run the graph as the server does, and measure what must hold.

    Returns
    -------
    The largest differences, for `probed` of the artifact; None where a check does not apply.

    Raises
    ------
    BadArtifact
        The message names the tensor and the number.
    """
    proof = _Proof(graph, signature)
    proof.check_repeats()
    measured = {"batch_alone": proof.check_batches(), "chunked_whole": proof.check_chunks()}
    proof.check_finite()
    measured["verified"] = None if sample is None else proof.check_sample(sample)
    return measured


class _Proof:
    """A network and streams of noise for it."""

    def __init__(self, graph: bytes, signature: Signature) -> None:
        self.graph, self.signature = graph, signature
        self.net = GraphNet(graph, signature, "cpu", RUN_SECONDS)
        random = np.random.default_rng(1)
        self.streams = self._rows(
            [
                noise(random, port.dtype, (BATCHES[-1], STEPS, port.size), port.range)
                for port in signature.inputs
            ]
        )

    def check_repeats(self) -> None:
        """The same stream gives the same answers; so does a session that is reset."""
        stream = self.streams[:1]
        first, carries = self._advance(stream, self._fresh(1))
        again, _ = self._advance(stream, self._fresh(1))
        self._compare("differs when the same stream is sent twice", again, first)
        self._advance(self.streams[1:2], carries)
        carries[:, : self.net.state_size] = self.net.fresh
        reset, _ = self._advance(stream, carries)
        self._compare("of a session that was reset differs from a fresh one", reset, first)

    def check_batches(self) -> float:
        """Sessions together answer as each does alone, and keep the same states."""
        alone = [self._in_two_chunks(self.streams[i : i + 1]) for i in range(BATCHES[-1])]
        worst = 0.0
        for size in BATCHES:
            answers, carries = self._in_two_chunks(self.streams[:size])
            what = f"of {size} sessions together differs from a session alone"
            expected = np.concatenate([answer for answer, _ in alone[:size]])
            worst = max(worst, self._compare(what, answers, expected))
            kept = np.concatenate([carry for _, carry in alone[:size]])
            worst = max(worst, self._compare_states(what, carries, kept))
        return worst

    def check_chunks(self) -> float | None:
        """Steps in several calls give what they give in one."""
        steps = self.signature.steps
        if steps.per_call is not None:
            return None
        if steps.emits == "last":
            # Without a state each step is a window of its own, and a call with more steps is another window.
            return self._check_last() if self.signature.states else None
        streams = self.streams[:2]
        whole, kept = self._advance(streams, self._fresh(2))
        carries, parts, start = self._fresh(2), [], 0
        for length in PIECES:
            part, carries = self._advance(streams[:, start : start + length], carries)
            parts.append(part)
            start += length
        what = "of 1 + 2 + 5 steps differs from the same 8 steps in one call"
        worst = self._compare(what, np.concatenate(parts, axis=1), whole)
        return max(worst, self._compare_states(what, carries, kept))

    def _check_last(self) -> float:
        """The last of 8 answers, step by step, is what the graph answers to 8 steps in one call."""
        stream = self.streams[:1]
        answers, _ = self._advance(stream, self._fresh(1))
        whole = run(open_session(self.graph), *self._whole_call(stream[0]))
        worst = 0.0
        what = "of 8 steps one by one differs from the same 8 steps in one call"
        for (port, answer), made in zip(self._by_port(answers), whole, strict=True):
            worst = max(
                worst,
                _require(f"output {port.name!r}", what, port.dtype, answer[0, -1], made.reshape(port.size)),
            )
        return worst

    def _whole_call(self, stream: Numbers) -> tuple[list[str], dict[str, AnyArray]]:
        """The outputs and feeds of a call with all steps, [steps, inputs], of a fresh session."""
        signature, axis = self.signature, self.signature.steps.axis or 0
        feeds, stop = {}, 0
        for port in signature.inputs:
            start, stop = stop, stop + port.size
            rows = stream[:, start:stop].astype(port.dtype).reshape(1, len(stream), *port.shape)
            before = np.zeros((1, port.context, *port.shape), port.dtype)
            rows = np.concatenate([before, rows], axis=1)
            feeds[port.tensor] = np.moveaxis(rows, (0, 1), (port.batch_axis, axis))
        for state in signature.states:
            feeds[state.tensor] = np.expand_dims(state.initial, state.batch_axis)
        for constant in signature.constants:
            axes = () if constant.batch_axis is None else constant.batch_axis
            feeds[constant.tensor] = np.expand_dims(constant.value, axes)
        for control in signature.controls:
            value = control.off if control.kind == "end" else control.on
            full = np.full(control.shape, value, control.dtype)
            feeds[control.tensor] = np.expand_dims(full, control.batch_axis)
        return [port.tensor for port in signature.outputs], feeds

    def check_finite(self) -> None:
        """Zeros and noise give finite numbers."""
        zeros = self._rows(
            [
                np.full((2, STEPS, port.size), np.clip(0, *(port.range or (0, 0))))
                for port in self.signature.inputs
            ]
        )
        for what, streams in (("zeros", zeros), ("noise", self.streams[:2])):
            answers, carries = self._advance(streams, self._fresh(2))
            self._require_finite(what, answers, carries)

    def check_sample(self, sample: Sample) -> float:
        """The sample gives the author's numbers."""
        steps = len(next(iter(sample.inputs.values())))
        columns = [self._sample_rows(port, sample.inputs[port.name], steps) for port in self.signature.inputs]
        answers, carries = self._advance(self._rows(columns), self._fresh(1))
        self._require_finite("the sample", answers, carries)
        worst = 0.0
        for port, answer in self._by_port(answers):
            if port.name not in sample.outputs:
                continue
            expected = sample.outputs[port.name]
            if expected.size != len(expected) * port.size:
                raise BadArtifact(
                    f"the sample's {port.name!r} has the shape {list(expected.shape)}, "
                    f"not [steps, {', '.join(map(str, port.shape))}]"
                )
            expected = expected.reshape(len(expected), port.size)
            difference = _difference(answer[0, steps - len(expected) :], expected)
            if not difference <= VERIFY_TOLERANCE:
                raise BadArtifact(
                    f"output {port.name!r} differs from the sample by {difference:.2g} (of its largest "
                    f"number, or of 1); at most {VERIFY_TOLERANCE:g} is allowed"
                )
            worst = max(worst, difference)
        return worst

    def _sample_rows(self, port: Port, array: AnyArray, steps: int) -> AnyArray:
        if array.size != steps * port.size:
            raise BadArtifact(
                f"the sample's {port.name!r} has the shape {list(array.shape)}, "
                f"not [steps, {', '.join(map(str, port.shape))}]"
            )
        return array.reshape(1, steps, port.size)

    def _rows(self, columns: Sequence[AnyArray]) -> Numbers:
        """[sessions, steps, inputs] of one array for each input."""
        return np.concatenate(columns, axis=2).astype(self.net.input_type)

    def _fresh(self, sessions: int) -> Floats:
        return np.repeat(self.net.fresh[None], sessions, axis=0)

    def _advance(self, streams: Numbers, carries: Floats) -> tuple[Numbers, Floats]:
        """Move sessions on by a chunk each: [sessions, steps, inputs] -> [sessions, steps, outputs]."""
        sessions, steps = streams.shape[:2]
        lengths = np.full(sessions, steps)
        try:
            answers, carries = self.net.advance(streams.reshape(sessions * steps, -1), lengths, carries)
        except BadArtifact:
            raise
        except Exception as error:  # the runtime's errors have no class of their own
            raise BadArtifact(f"the graph fails with {sessions} sessions, {steps} steps: {error}") from error
        return answers.reshape(sessions, steps, -1), carries

    def _in_two_chunks(self, streams: Numbers) -> tuple[Numbers, Floats]:
        first, carries = self._advance(streams[:, :3], self._fresh(len(streams)))
        second, carries = self._advance(streams[:, 3:4], carries)
        return np.concatenate([first, second], axis=1), carries

    def _compare(self, what: str, answers: Numbers, expected: Numbers) -> float:
        pairs = zip(self._by_port(answers), self._by_port(expected), strict=True)
        return max(
            _require(f"output {port.name!r}", what, port.dtype, ours, theirs)
            for (port, ours), (_, theirs) in pairs
        )

    def _compare_states(self, what: str, carries: Floats, expected: Floats) -> float:
        ours, theirs = self.net.states(carries), self.net.states(expected)
        return max(
            (
                _require(f"state {name!r}", what, str(value.dtype), value, theirs[name])
                for name, value in ours.items()
            ),
            default=0.0,
        )

    def _by_port(self, answers: Numbers) -> list[tuple[Port, Numbers]]:
        """The columns of each output."""
        stops = np.cumsum([port.size for port in self.signature.outputs])[:-1]
        return list(zip(self.signature.outputs, np.split(answers, stops, axis=-1), strict=True))

    def _require_finite(self, what: str, answers: Numbers, carries: Floats) -> None:
        for port, answer in self._by_port(answers):
            if not np.isfinite(answer).all():
                raise BadArtifact(f"output {port.name!r} is not finite after {what}")
        for name, state in self.net.states(carries).items():
            if state.dtype.kind == "f" and not np.isfinite(state).all():
                raise BadArtifact(f"state {name!r} is not finite after {what}")


def _named(found: Mapping[str, AnyArray], ports: Sequence[Port], alone: str) -> dict[str, AnyArray]:
    named = {port.name: found[name] for port in ports for name in (port.tensor, port.name) if name in found}
    if not named and len(ports) == 1 and alone in found:
        named[ports[0].name] = found[alone]
    return named


def _require(tensor: str, what: str, dtype: str, ours: AnyArray, theirs: AnyArray) -> float:
    difference = _difference(ours, theirs)
    if not difference <= TOLERANCE.get(dtype, 0):
        raise BadArtifact(f"{tensor} {what} by {difference:.2g} (of its largest number, or of 1)")
    return difference


def _difference(ours: AnyArray, theirs: AnyArray) -> float:
    """The largest difference, in parts of the largest number or of 1."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return float(np.abs(a - b).max(initial=0) / max(1.0, np.abs(b).max(initial=0)))
