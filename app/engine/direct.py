"""Steps simple bulk jobs: fast checks in place of admission, and no columns of chunks.

In a simple job every chunk has one observation, and every session is resident and at the position that its
client claims. One compiled loop checks such a job, and the network steps it. If the store writes through, the
next rows are staged in a batch, which commits them. Otherwise nothing can fail any more and nothing has to be
written first: a compiled loop publishes the job as it is submitted, without the queue and a batch. If any
chunk of a job is not of this kind, the job is left to admission unchanged.
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
from app.session.digest import digests
from app.session.history import Observed
from app.session.rows import Rows
from app.session.slab import WARM, Slab
from models.arrays import Bytes, Digests, Epochs, Floats, Ints, Numbers, Seconds, UInt32s
from models.jit import FLOAT, INT, contiguous, jit, readonly, readonly_contiguous, writable

FOUND = 255  # in `Slab.used`, within one call: an earlier chunk of the same job has this row


@dataclass(slots=True)
class SteppedJob:
    """A job whose sessions were stepped, and have not changed yet.

    rows : [n], of its sessions
    observations : [n, inputs], as the network took them
    carries, predictions : [n, ...], after the step
    digests : [n], of its chunks
    """

    job: AdvanceMany
    slab: Slab
    rows: Ints
    observations: Numbers
    carries: Floats
    predictions: Floats
    digests: Digests

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
        before = Rows(slab.read_headers(rows), stepped.carries, notes=slab.notes_of(rows))
        after = advance_rows(
            before, stepped.carries, job.lengths, stepped.digests, stepped.predictions, {}, batch.now, 0
        )
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
        _publish(
            *slab.columns,
            slab.carries,
            rows,
            stepped.carries,
            stepped.digests,
            stepped.predictions,
            now,
            positions,
            epochs,
        )
        if slab.histories is not None:
            slab.histories.append(
                rows, positions, Observed(job.lengths, stepped.observations, stepped.predictions)
            )
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
        if not forecaster.all_finite(predictions, carries):
            return None
        self._stepper.record_pass(slab, perf_counter() - began, 1, len(rows), len(rows))
        chunk_digests = digests(observations, job.lengths)
        return SteppedJob(job, slab, rows, observations, carries, predictions, chunk_digests)


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


@jit(
    writable("int64"), writable("int64"), readonly("uint64"), writable("float64"), writable("float64"),
    readonly("float64"), writable("uint64", 2), writable("uint32", 2), writable("float32", 3),
    contiguous("float32", 2), readonly("int64"), readonly_contiguous("float32", 2),
    readonly("uint64"), readonly("float32", 2), FLOAT, contiguous("int64"), contiguous("uint64"),
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
    rows: Ints,
    moved: Floats,
    digests: Digests,
    predictions: Floats,
    now: float,
    positions: Ints,
    epochs: Epochs,
) -> None:
    """Write the row of each session after its chunk of one observation, including its newest answer."""
    chunks, outputs = answer.shape[1], answer.shape[2]
    for i in range(len(rows)):
        row = rows[i]
        position[row] += 1
        since_reset[row] += 1
        seen[row] = now
        deadline[row] = now + ttl[row]
        for chunk in range(chunks - 1, 0, -1):
            digest[row, chunk] = digest[row, chunk - 1]
            chunk_lengths[row, chunk] = chunk_lengths[row, chunk - 1]
            for output in range(outputs):
                answer[row, chunk, output] = answer[row, chunk - 1, output]
        if chunks:
            digest[row, 0] = digests[i]
            chunk_lengths[row, 0] = 1
            for output in range(outputs):
                answer[row, 0, output] = predictions[i, output]
        for k in range(carries.shape[1]):
            carries[row, k] = moved[i, k]
        positions[i] = position[row]
        epochs[i] = epoch[row]
