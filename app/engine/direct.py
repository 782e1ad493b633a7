"""Steps simple bulk jobs: fast checks in place of admission, and no columns of chunks.

In a simple job every chunk has one observation, and every session is resident and at the position that its
client claims. One compiled call checks such a job, and the network steps it. If the store writes through, the
next rows are staged in a batch, which commits them. Otherwise nothing has to be written first: one compiled
call publishes the job as it is submitted, without the queue and a batch. If any chunk of a job is not of this
kind, the job is left to admission unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from app.engine.batch import Batch, advance_rows
from app.engine.reply import call_reply
from app.engine.residents import Residents
from app.engine.step import Stepper
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.session import digest as digest_module
from app.session import history as history_module
from app.session.digest import digests, write_digests
from app.session.history import NO_RINGS, NOTHING, Observed, append_records, as_words
from app.session.rows import Rows
from app.session.slab import WARM, Slab
from models.arrays import Bytes, Digests, Epochs, Floats, Int32s, Ints, Numbers, Seconds, UInt32s
from models.jit import FLOAT, INT, contiguous, jit, jit_part, readonly, readonly_contiguous, writable

EXPONENT = np.uint32(0x7F800000)  # all of its bits are set in infinities and NaN
FOUND = 255  # in `Slab.used`, within one call: an earlier chunk of the same job has this row


@dataclass(slots=True)
class SteppedJob:
    """A job whose sessions were stepped, and have not changed yet.

    rows : [n], of its sessions
    observations : [n, inputs], as the network took them
    carries, predictions : [n, ...], after the step; there may be NaN or infinities among them
    """

    job: AdvanceMany
    slab: Slab
    rows: Ints
    observations: Numbers
    carries: Floats
    predictions: Floats

    def answer(self, positions: Ints, epochs: Epochs) -> BulkAnswer:
        """The answer, with the positions and epochs after the step."""
        return BulkAnswer(
            positions,
            epochs,
            self.job.lengths,
            self.predictions.shape[1],
            self.predictions.ravel(),
            model=self.slab.forecaster.artifact.name,
            ports=self.slab.output_ports,
        )


class DirectChunks:
    """Steps simple jobs."""

    def __init__(self, residents: Residents, stepper: Stepper, metrics: Metrics) -> None:
        self._residents = residents
        self._stepper = stepper
        self._metrics = metrics

    def apply(self, job: AdvanceMany, now: float) -> bool:
        """Apply and answer a job; False if it must go with a batch, and nothing has happened.

        The store must not write through.
        """
        stages = self._metrics.stages
        stages.begin()
        answer = self.advance(job, now)
        if answer is None:
            return False
        self._metrics.batches.add(len(job))
        stages.end("step")
        call_reply(job, answer)
        if job.usage is not None:
            job.usage.release(len(job))
        stages.end("reply")
        return True

    def stage(self, batch: Batch) -> bool:
        """Stage the only job of a batch; False if the batch must be admitted, and nothing has happened."""
        if len(batch.jobs) != 1 or type(job := batch.jobs[0]) is not AdvanceMany:
            return False
        stepped = self._step(job, batch.now)
        if stepped is None:
            return False
        slab, rows = stepped.slab, stepped.rows
        if not slab.forecaster.all_finite(stepped.predictions, stepped.carries):
            return False
        before = Rows(slab.read_headers(rows), stepped.carries, notes=slab.notes_of(rows))
        after = advance_rows(
            before, stepped.carries, job.lengths, digests(stepped.observations, job.lengths),
            stepped.predictions, {}, batch.now, 0,
        )  # fmt: skip
        observed = Observed(job.lengths, stepped.observations, stepped.predictions)
        batch.stage(slab, job.sessions.names, rows, after, observed)
        answer = stepped.answer(after.headers["position"], after.headers["epoch"])
        batch.answers_if_committed.append((job, answer))
        return True

    def advance(self, job: AdvanceMany, now: float) -> BulkAnswer | None:
        """Apply a job. Returns its answer; None if nothing was applied and the job needs a batch."""
        stepped = self._step(job, now)
        if stepped is None:
            return None
        slab, rows = stepped.slab, stepped.rows
        positions, epochs = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
        histories = slab.histories
        if not _publish(
            *slab.columns,
            slab.carries,
            *(NO_RINGS if histories is None else histories.rings),
            slab.forecaster.layout.float_bounds,
            rows,
            job.lengths,
            np.ascontiguousarray(as_words(stepped.observations)),
            stepped.carries,
            np.ascontiguousarray(stepped.predictions),
            NOTHING,
            now,
            positions,
            epochs,
        ):
            return None
        self._metrics.chunks += len(job)
        self._metrics.observations += len(job)
        return stepped.answer(positions, epochs)

    def _step(self, job: AdvanceMany, now: float) -> SteppedJob | None:
        """Check and step a job, and change nothing. None if it is not simple."""
        if job.options is not None or len(job.observations) != len(job):
            return None
        for slab in self._residents.models.current.values():
            if _may_be_of(slab, job):
                rows = job.sessions.rows(slab)
                if rows is not None:
                    return self._step_rows(job, slab, rows, now)
        return None

    def _step_rows(self, job: AdvanceMany, slab: Slab, rows: Ints, now: float) -> SteppedJob | None:
        forecaster, columns = slab.forecaster, slab.columns
        if not _are_ready(
            columns.position,
            columns.epoch,
            columns.deadline,
            slab.headers["long_answer_count"],
            slab.used,
            WARM,
            rows,
            job.claimed_positions,
            job.claimed_epochs,
            now,
        ):
            return None
        observations = forecaster.numbers(job.observations)
        if forecaster.broken_rules(observations) is not None:
            return None
        began = perf_counter()
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # refused below, and not for the log
                predictions, carries = forecaster.advance(
                    observations, job.lengths, slab.carries.take(rows, axis=0)
                )
        except Exception:  # noqa: BLE001  (admission finds the session that failed, and refuses only that one)
            return None
        self._stepper.record_pass(slab, perf_counter() - began, 1, len(rows), len(rows))
        return SteppedJob(job, slab, rows, observations, carries, predictions)


def _may_be_of(slab: Slab, job: AdvanceMany) -> bool:
    """Whether the job's chunks can be applied directly to sessions of this slab."""
    forecaster = slab.forecaster
    return (
        forecaster.learner is None
        and not forecaster.artifact.time_features
        and forecaster.short_answer_size > 0
        and job.observations.shape[1] == forecaster.input_size
        and job.model in (None, forecaster.artifact.name)
    )


@jit(
    readonly("int64"), readonly("uint64"), readonly("float64"), readonly("uint32"), contiguous("uint8"), INT,
    readonly("int64"), readonly("int64"), readonly("uint64"), FLOAT,
)  # fmt: skip
def _are_ready(
    position: Ints,
    epoch: Epochs,
    deadline: Seconds,
    long_answers: UInt32s,
    used: Bytes,
    warm: int,
    rows: Ints,
    at: Ints,
    epochs: Epochs,
    now: float,
) -> bool:
    """Whether each session is named once, is alive, is where its chunk starts, and has only short answers.

    Marks the rows as used.
    """
    ready = True
    for i in range(len(rows)):
        row = rows[i]
        ready &= at[i] == -1 or at[i] == position[row]
        ready &= epochs[i] == 0 or epochs[i] == epoch[row]
        ready &= deadline[row] >= now and long_answers[row] == 0 and used[row] != FOUND
        used[row] = FOUND
    for row in rows:
        used[row] = warm
    return ready


@jit_part
def _are_finite(bits: UInt32s, first: int, last: int) -> bool:
    """Whether the float32 numbers with these bits, in these columns, are neither NaN nor infinite.

    In place of `Forecaster.all_finite`, which batches use: one session of 160 floats takes 0.3 us and not 2,
    and 1000 sessions with two parts of floats 16 us and not 37.
    """
    begin, count = np.uint64(first), np.uint64(last - first)
    for row in range(len(bits)):
        found = np.uint32(0)
        for i in range(count):  # to the end in any case: this is compiled to a few wide instructions
            found |= np.uint32((bits[row, begin + i] & EXPONENT) == EXPONENT)
        if found:
            return False
    return True


@jit_part
def _remember(
    digests: Digests, lengths: UInt32s, answers: Floats, digest: np.uint64, prediction: Floats
) -> None:
    """Put a chunk of one observation before those that a row remembers; the oldest is forgotten."""
    chunks, outputs = answers.shape
    for chunk in range(chunks - 1, 0, -1):
        digests[chunk], lengths[chunk] = digests[chunk - 1], lengths[chunk - 1]
        for output in range(outputs):
            answers[chunk, output] = answers[chunk - 1, output]
    if chunks:
        digests[0], lengths[0] = digest, 1
        for output in range(outputs):
            answers[0, output] = prediction[output]


@jit(
    writable("int64"), writable("int64"), readonly("uint64"), writable("float64"), writable("float64"),
    readonly("float64"), writable("uint64", 2), writable("uint32", 2), writable("float32", 3),
    contiguous("float32", 2), contiguous("int64", 2), contiguous("float32", 2), contiguous("int64"),
    contiguous("int32"), INT, INT, INT, INT, contiguous("int64", 2), readonly("int64"), readonly("int64"),
    readonly_contiguous("float32", 2), readonly_contiguous("float32", 2), readonly_contiguous("float32", 2),
    contiguous("float32", 2), FLOAT, contiguous("int64"), contiguous("uint64"),
    uses=(digest_module, history_module),
)  # fmt: skip
def _publish(
    position: Ints,
    since_reset: Ints,
    epoch: Epochs,
    seen: Seconds,
    deadline: Seconds,
    ttl: Seconds,
    digest: Digests,
    chunk_lengths: UInt32s,
    answer: Floats,
    carries: Floats,
    blocks: Ints,
    block_words: Floats,
    pool_state: Ints,
    roots: Int32s,
    first_key: int,
    limit: int,
    max_blocks: int,
    kept_outputs: int,
    float_bounds: Ints,
    rows: Ints,
    lengths: Ints,
    observations: Floats,
    moved: Floats,
    predictions: Floats,
    nothing: Floats,
    now: float,
    positions: Ints,
    epochs: Epochs,
) -> bool:
    """Write the row of each session after its chunk of one observation, with its newest answer and its past.

    Writes nothing if a prediction or a carry has NaN or an infinity, and returns whether it wrote.

    Parameters
    ----------
    position, ... answer : `Slab.columns`
    blocks, ... kept_outputs : of `Rings`
    observations : [n, words], each number seen as float32
    nothing : [0, 0]
    """
    if not _are_finite(predictions.view(np.uint32), 0, predictions.shape[1]):
        return False
    for part in range(len(float_bounds)):
        if not _are_finite(moved.view(np.uint32), float_bounds[part, 0], float_bounds[part, 1]):
            return False
    digests = np.empty(len(rows), np.uint64)
    write_digests(observations.view(np.uint32), lengths, 0, digests)
    for i in range(len(rows)):
        row = rows[i]
        position[row] += 1
        since_reset[row] += 1
        seen[row] = now
        deadline[row] = now + ttl[row]
        _remember(digest[row], chunk_lengths[row], answer[row], digests[i], predictions[i])
        for k in range(carries.shape[1]):
            carries[row, k] = moved[i, k]
        positions[i] = position[row]
        epochs[i] = epoch[row]
    if limit:
        append_records(
            blocks, block_words, pool_state, roots, first_key, limit, max_blocks, kept_outputs, rows,
            positions, lengths, observations, predictions, nothing,
        )  # fmt: skip
    return True
