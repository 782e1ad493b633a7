"""Applies simple bulk jobs as they are submitted, without the queue and a batch.

In a simple job every chunk has one observation, and every session is resident and at the position that its
client claims. If the store does not write through, such chunks need no staging, because nothing can fail
between their step and their publication and nothing has to be written first. So one compiled loop checks a
job, the network steps it, and a second compiled loop publishes it. If any chunk of a job is not of this kind,
the job goes to a batch unchanged.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from app.engine.reply import call_reply
from app.engine.residents import Residents
from app.engine.step import Stepper, in_step
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.session.digest import digests
from app.session.slab import WARM
from models.arrays import Bytes, Digests, Epochs, Floats, Ints, Seconds, UInt32s
from models.jit import FLOAT, INT, contiguous, jit, readonly, readonly_contiguous, writable


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
        found = self._residents.find(job.sessions[0])
        if found is None or job.options is not None or len(job.observations) != len(job):
            return None
        slab, _ = found
        forecaster, columns = slab.forecaster, slab.columns
        if (
            forecaster.learner is not None
            or forecaster.artifact.time_features
            or not forecaster.short_answer_size
            or job.observations.shape[1] != forecaster.input_size
            or job.model not in (None, forecaster.artifact.name)
            or self._residents.models.current.get(forecaster.artifact.name) is not slab
        ):
            return None
        try:
            rows = job.sessions.rows(slab.index, slab.generation)
        except KeyError:
            return None
        if slab.long_answers and slab.headers["long_answer_count"][rows].any():
            return None
        if not in_step(
            columns.position[rows],
            columns.epoch[rows],
            columns.deadline[rows],
            job.claimed_positions,
            job.claimed_epochs,
            now,
            np.empty(len(rows), np.bool_),
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
        except Exception:  # noqa: BLE001  (a batch finds the session that failed, and refuses only that one)
            return None
        if not forecaster.all_finite(predictions, carries):
            return None
        self._stepper.record_pass(slab, perf_counter() - began, 1, len(rows), len(rows))
        positions, epochs = np.empty(len(rows), np.int64), np.empty(len(rows), np.uint64)
        _publish(
            *columns,
            slab.carries,
            slab.used,
            WARM,
            rows,
            carries,
            digests(observations, job.lengths),
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
            ports=slab.output_ports,
        )


@jit(
    writable("int64"), writable("int64"), readonly("uint64"), writable("float64"), writable("float64"),
    readonly("float64"), writable("uint64", 2), writable("uint32", 2), writable("float32", 3),
    contiguous("float32", 2), contiguous("uint8"), INT, readonly("int64"), readonly_contiguous("float32", 2),
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
    used: Bytes,
    warm: int,
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
        used[row] = warm
        positions[i] = position[row]
        epochs[i] = epoch[row]
