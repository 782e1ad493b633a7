"""A network over single samples: those of a frame are gathered in the session, then a graph gets the frame.

samples -> resampler -> incomplete frame -+
                                          +-> frames -> graph -> outputs -> speech events
          all of it in the carry ---------+

Any number of samples may come at once. The carry holds what the next samples need: the frame that is not
complete, the last samples before the resampler, how many came, and whether somebody speaks. So a chunk that
ends within a frame is as durable as any other, and a position counts samples.

What a network predicts is a number for each observation. Here it is the last output, which stays until the
next frame is complete. `SampleNet.answer` picks the outputs of a chunk's frames, for clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.arrays import AnyArray, Floats, Ints, Numbers
from models.errors import BadArtifact
from models.nets.graph import GraphNet
from models.nets.resampler import RATES, Resampler, longest_tail, resampler
from models.nets.signature import Signature
from models.nets.speech import SpeechDetector, SpeechEvents, SpeechState

COVERS, EVENTS = "covers", "events"
"""Names of the outputs beside the predictions of a chunk of samples; see `SampleNet.answer`."""

COUNTERS = ("consumed", "rate", "phase", "silent_since", "start")  # int64 each
WORDS = 2  # of an int64


@dataclass(frozen=True)
class Samples:
    """What a model over samples says of them.

    Attributes
    ----------
    rate
        Samples a second that its graph was trained for.
    events
        When speech starts and ends, or None.
    """

    rate: int
    events: SpeechEvents | None = None

    def __post_init__(self) -> None:
        if type(self.rate) is not int or self.rate not in RATES:
            raise BadArtifact(f"rate must be one of {', '.join(map(str, RATES))}, not {str(self.rate)[:40]}")

    def check(self, signature: Signature) -> None:
        """Refuse a graph that does not take one frame of samples a call.

        Raises
        ------
        BadArtifact
        """
        if len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 1:
            raise BadArtifact("the unit sample needs a graph with one input, a frame of samples [frame]")
        if signature.steps.axis is not None:
            raise BadArtifact(
                "the unit sample needs a graph that takes one frame a call, without a time axis"
            )
        if any(port.dtype not in ("float32", "float16") for port in (*signature.inputs, *signature.outputs)):
            raise BadArtifact("the unit sample needs inputs and outputs of float32 or float16")
        if self.events is not None:
            column_of(self.events.output, signature)


def column_of(output: str, signature: Signature) -> int:
    """Which number of a prediction is this output of a single number.

    Raises
    ------
    BadArtifact
    """
    start = 0
    for port in signature.outputs:
        if port.name == output and port.size == 1:
            return start
        start += port.size
    raise BadArtifact(f"events.output: there is no output {output[:80]!r} of one number")


class WrongRate(ValueError):
    """The session's samples cannot have this rate."""


class SampleNet:
    """A graph that takes frames, as a network whose observation is one sample.

    Parameters
    ----------
    graph : takes one frame a call
    signature : of the graph, checked by `Samples.check`

    Attributes
    ----------
    frame : samples that the graph takes
    """

    input_size = 1
    batch_invariant = False

    def __init__(self, graph: GraphNet, signature: Signature, samples: Samples) -> None:
        self._graph = graph
        self.rate, self.frame = samples.rate, signature.inputs[0].size
        self.output_size = graph.output_size
        self.input_type, self.output_type = np.dtype(np.float32), np.dtype(np.float32)
        sizes = (graph.output_size, self.frame, longest_tail(samples.rate), WORDS * len(COUNTERS))
        stops = (np.cumsum(sizes) + graph.state_size).tolist()
        parts = [slice(stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        self._held, self._incomplete, self._tail, self._counters = parts
        self.state_size: int = stops[-1]
        self.floats: Sequence[slice] = (*graph.floats, slice(self._held.start, self._tail.stop))
        self._events = samples.events
        self._detector: SpeechDetector | None = None
        self._column = 0
        if samples.events is not None:
            self._detector = SpeechDetector(samples.events, self.frame, samples.rate)
            self._column = column_of(samples.events.output, signature)

    @property
    def fresh(self) -> Floats:
        """[state_size], the state of a session that has observed nothing."""
        row = np.zeros(self.state_size, np.float32)
        row[: self._graph.state_size] = self._graph.fresh
        return row

    def advance(self, observations: Numbers, lengths: Ints, carries: Floats) -> tuple[Numbers, Floats]:
        """Move every session on by its samples, [total, 1]; see `Net.advance`."""
        moved = carries.copy()
        stops = lengths.cumsum().tolist()
        chunks = [
            _Chunk(self, row, observations[stop - length : stop, 0])
            for row, stop, length in zip(moved, stops, lengths.tolist(), strict=True)
        ]
        counts = np.array([len(chunk.rows) for chunk in chunks])
        active = np.flatnonzero(counts)
        answers = np.empty((0, self.output_size), np.float32)
        if len(active):
            frames = np.concatenate([chunks[i].frames for i in active.tolist()])
            answers, moved[active] = self._graph.advance(frames, counts[active], moved[active])
        outputs = np.empty((len(observations), self.output_size), np.float32)
        end = 0
        for chunk, row, stop, length in zip(chunks, moved, stops, lengths.tolist(), strict=True):
            start, end = end, end + len(chunk.rows)
            held = np.concatenate([row[None, self._held], answers[start:end]])
            spans = np.diff([0, *chunk.rows, length])
            outputs[stop - length : stop] = held.repeat(spans, axis=0)
            row[self._held] = held[-1]
            if self._detector is not None and len(chunk.rows):
                counters = self._read(row)
                self._detect(counters, answers[start:end], chunk.first_frame)
                self._write(row, counters)
        return outputs, moved

    def step(self, observations: Numbers, carries: Floats) -> Numbers:
        """Move every session on by one sample, in place; see `Net.step`."""
        outputs, carries[:] = self.advance(observations, np.ones(len(carries), np.int64), carries)
        return outputs

    def features(self, carries: Floats) -> Floats:
        """None: a readout cannot learn from a graph."""
        return np.empty((len(carries), 0), np.float32)

    def answer(self, carry: Floats, position: int, predictions: Numbers) -> dict[str, AnyArray]:
        """What clients get of a chunk.

        Parameters
        ----------
        carry : [carry], of the session before the chunk
        position : of the session before the chunk
        predictions : [samples, outputs], of the chunk, as `advance` returned them

        Returns
        -------
        predictions : [frames, outputs], of the frames that the chunk completes
        covers : [1, 2], the position of the first sample of these frames, and that behind their last. Without
            a frame, both are that of the first sample of the incomplete frame
        events : [events, 2], `SPEECH_START` or `SPEECH_END`, and the position; only of a model with events
        """
        counters = self._read(carry)
        resampling, consumed = self._resampler(counters), counters["consumed"]
        first, last = (
            resampling.count(count) // self.frame for count in (consumed, consumed + len(predictions))
        )
        rows = [resampling.needed((i + 1) * self.frame) - consumed - 1 for i in range(first, last)]
        picked = predictions[rows] if rows else np.empty((0, self.output_size), np.float32)
        began = position - consumed  # where the stream of the carry begins

        def session_position(sample: int) -> float:
            return began + resampling.input_time(sample)

        covers = [session_position(i * self.frame) for i in (first, last)]
        answer: dict[str, AnyArray] = {"predictions": picked, COVERS: np.array([covers], np.float64)}
        if self._detector is not None:
            events = [
                (kind, session_position(sample)) for kind, sample in self._detect(counters, picked, first)
            ]
            answer[EVENTS] = np.array(events, np.float64).reshape(-1, 2)
        return answer

    @property
    def has_events(self) -> bool:
        """Whether answers say where speech starts and ends."""
        return self._detector is not None

    def describe(self) -> dict[str, Any]:
        """What clients know of it: JSON values."""
        events = None if self._events is None else asdict(self._events)
        return {"rate": self.rate, "frame": self.frame, "events": events}

    # --- the rate of a session

    def rate_of(self, carry: Floats) -> int:
        """Samples a second of the session of this carry."""
        return self._read(carry)["rate"] or self.rate

    def set_rate(self, carry: Floats, rate: int) -> None:
        """Say that the session's samples have this rate, in place.

        Raises
        ------
        WrongRate : it has another, or there is no such rate
        """
        counters = self._read(carry)
        own = counters["rate"] or self.rate
        if rate == own:
            return
        if rate not in RATES:
            raise WrongRate(f"the rate must be one of {', '.join(map(str, RATES))}, not {rate}")
        if counters["consumed"]:
            raise WrongRate(f"the session's samples have the rate {own} until it is reset, not {rate}")
        self._write(carry, counters | {"rate": rate})

    def check(self, carry: Floats) -> None:
        """Refuse a carry, [carry], that no session can have.

        Raises
        ------
        ValueError
        """
        counters = self._read(carry)
        possible = counters["rate"] in (0, *RATES) and counters["phase"] in (0, 1, 2)
        if not possible or any(not 0 <= value < 2**53 for value in counters.values()):
            raise ValueError("the carry has a count of samples that is not possible")

    # --- the carry

    def _read(self, carry: Floats) -> dict[str, int]:
        values = np.ascontiguousarray(carry[self._counters]).view(np.int64).tolist()
        return dict(zip(COUNTERS, values, strict=True))

    def _write(self, carry: Floats, counters: dict[str, int]) -> None:
        carry[self._counters] = np.array(list(counters.values()), np.int64).view(np.float32)

    def _resampler(self, counters: dict[str, int]) -> Resampler:
        return resampler(counters["rate"] or self.rate, self.rate)

    def _detect(self, counters: dict[str, int], answers: Floats, first_frame: int) -> Any:
        """The events of these frames; the counters are moved on, in place."""
        if self._detector is None:
            return []
        state = SpeechState(counters["phase"], counters["silent_since"], counters["start"])
        events = self._detector.detect(answers[:, self._column].tolist(), first_frame * self.frame, state)
        counters |= {"phase": state.phase, "silent_since": state.silent_since, "start": state.start}
        return events


class _Chunk:
    """The frames that a chunk completes; what it leaves of an incomplete frame is written into the row.

    frames : [n, frame]
    rows : [n], which sample of the chunk completes each frame
    first_frame : number of the first frame, 0 at the beginning of the stream
    """

    __slots__ = ("first_frame", "frames", "rows")

    def __init__(self, net: SampleNet, row: Floats, samples: Floats) -> None:
        counters = net._read(row)
        consumed, resampling = counters["consumed"], net._resampler(counters)
        if tail := resampling.tail:
            kept = slice(net._tail.stop - tail, net._tail.stop)
            given = np.concatenate([row[kept], samples])
            row[kept] = given[-tail:]
            samples_out = resampling.resample(given, consumed)
        else:
            samples_out = samples
        frame = net.frame
        begun = resampling.count(consumed) % frame
        incomplete = row[net._incomplete]
        joined = np.concatenate([incomplete[:begun], samples_out])
        count, rest = divmod(len(joined), frame)
        self.frames = joined[: count * frame].reshape(count, frame)
        self.first_frame = resampling.count(consumed) // frame
        incomplete[:rest] = joined[count * frame :]
        incomplete[rest:] = 0
        self.rows = [
            resampling.needed((self.first_frame + i + 1) * frame) - consumed - 1 for i in range(count)
        ]
        net._write(row, counters | {"consumed": consumed + len(samples)})
