"""Applies simple bulk jobs as they are submitted, without the queue and a batch.

In a simple job every chunk has one observation, and every session is resident and at the position that its
client claims. If the store does not write through, such chunks need no staging, because nothing can fail
between their step and their publication and nothing has to be written first. So one compiled loop checks a
job, the network steps it, and a second compiled loop publishes it. If any chunk of a job is not of this kind,
the job goes to a batch unchanged.
"""

from __future__ import annotations

import math
from time import perf_counter

import numpy as np

from app.engine.reply import call_reply
from app.engine.residents import Residents
from app.engine.step import Stepper
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.session.digest import digests
from app.session.slab import WARM, Slab
from models.arrays import Bytes, Digests, Epochs, Floats, Ints, Seconds, UInt32s
from models.jit import FLOAT, INT, contiguous, jit, readonly, readonly_contiguous, writable

FOUND = (
    255  # the mark of a row that an earlier chunk of the same job has; it is replaced before anyone sees it
)


class DirectChunks:
    """Applies jobs as they are submitted.

    Parameters
    ----------
    residents : the sessions; their store does not write through
    """

    def __init__(self, residents: Residents, stepper: Stepper, metrics: Metrics) -> None:
        self._residents = residents
        self._stepper = stepper
        self._metrics = metrics

    def apply(self, job: AdvanceMany, now: float) -> bool:
        """Apply and answer a job; False if it must go with a batch, and nothing has happened."""
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

    def advance(self, job: AdvanceMany, now: float) -> BulkAnswer | None:
        """Apply a job. Returns its answer; None if nothing was applied and the job needs a batch."""
        if job.options is not None or len(job.observations) != len(job):
            return None
        for slab in self._residents.models.current.values():
            if _may_be_of(slab, job):
                rows = job.sessions.rows(slab)
                if rows is not None:
                    return self._advance_rows(job, slab, rows, now)
        return None

    def _advance_rows(self, job: AdvanceMany, slab: Slab, rows: Ints, now: float) -> BulkAnswer | None:
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
        began = perf_counter()
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # refused below, and not for the log
                predictions, carries = forecaster.advance(
                    job.observations, job.lengths, slab.carries.take(rows, axis=0)
                )
        except Exception:  # noqa: BLE001  (a batch finds the session that failed, and refuses only that one)
            return None
        if not math.isfinite(np.vdot(carries, carries)) or not math.isfinite(
            np.vdot(predictions, predictions)
        ):
            return None
        self._stepper.record_pass(slab, perf_counter() - began, 1, len(rows), len(rows))
        positions, epochs = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
        _publish(
            *columns,
            slab.carries,
            rows,
            carries,
            digests(job.observations, job.lengths),
            predictions,
            now,
            positions,
            epochs,
        )
        self._metrics.chunks += len(job)
        self._metrics.observations += len(job)
        return BulkAnswer(
            positions,
            epochs,
            job.lengths,
            predictions.shape[1],
            predictions.ravel(),
            model=forecaster.artifact.name,
        )


def _may_be_of(slab: Slab, job: AdvanceMany) -> bool:
    """Whether the job's chunks can be applied directly to sessions of this slab."""
    forecaster = slab.forecaster
    return (
        forecaster.learner is None
        and not forecaster.artifact.time_features
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
