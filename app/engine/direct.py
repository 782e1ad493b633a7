"""Chunks that need nothing but resident rows: one observation each, of sessions in step with their clients.

Where the store does not write through, such chunks need no staging: nothing can fail between their step and
their publication, and nothing has to be written first. So a job is checked in one compiled pass, stepped, and
published in another. A job that is not wholly like this is left to the batch, and nothing of it has happened.
"""

from __future__ import annotations

import math
from time import perf_counter

import numpy as np

from app.engine.residents import Residents
from app.engine.step import Stepper
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.session.digest import digests
from app.session.slab import WARM
from models.arrays import Bytes, Digests, Epochs, Floats, Ints, Seconds, Words
from models.jit import FLOAT, INT, contiguous, jit, readonly, readonly_contiguous, writable


class DirectChunks:
    """Applies jobs at once.

    Parameters
    ----------
    residents : the sessions, of a store that does not write through
    """

    def __init__(self, residents: Residents, stepper: Stepper, metrics: Metrics) -> None:
        self._residents = residents
        self._stepper = stepper
        self._metrics = metrics

    def advance(self, job: AdvanceMany, now: float) -> BulkAnswer | None:
        """Apply a job. Returns its answer; None if it must go with a batch, and nothing has happened."""
        found = self._residents.find(job.sessions[0])
        if found is None or job.options is not None or len(job.observations) != len(job):
            return None
        slab, _ = found
        forecaster, columns = slab.forecaster, slab.columns
        if (
            forecaster.learner is not None
            or forecaster.artifact.time_features
            or job.observations.shape[1] != forecaster.input_size
            or job.model not in (None, forecaster.artifact.name)
            or self._residents.models.current.get(forecaster.artifact.name) is not slab
        ):
            return None
        try:
            rows = job.sessions.rows(slab.index, slab.generation)
        except KeyError:
            return None
        if slab.long_answers and slab.headers["has_long"][rows].any():
            return None
        if not _are_in_step(
            columns.position,
            columns.epoch,
            columns.deadline,
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
        except Exception:  # noqa: BLE001  (the batch's way finds out which session it is, and fails it alone)
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
            slab.used,
            WARM,
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


@jit(
    readonly("int64"), readonly("uint64"), readonly("float64"), readonly("int64"), readonly("int64"),
    readonly("uint64"), FLOAT,
)  # fmt: skip
def _are_in_step(
    position: Ints, epoch: Epochs, deadline: Seconds, rows: Ints, at: Ints, epochs: Epochs, now: float
) -> bool:
    """Whether every session is alive, and where its client believes it to be."""
    agreed = True
    for i in range(len(rows)):
        row = rows[i]
        agreed &= (at[i] == -1 or at[i] == position[row]) and (epochs[i] == 0 or epochs[i] == epoch[row])
        agreed &= deadline[row] >= now
    return agreed


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
    steps: Words,
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
    """Write each session after its chunk of one observation: its row, and the newest of its answers."""
    chunks, outputs = answer.shape[1], answer.shape[2]
    for i in range(len(rows)):
        row = rows[i]
        position[row] += 1
        since_reset[row] += 1
        seen[row] = now
        deadline[row] = now + ttl[row]
        for chunk in range(chunks - 1, 0, -1):
            digest[row, chunk] = digest[row, chunk - 1]
            steps[row, chunk] = steps[row, chunk - 1]
            for output in range(outputs):
                answer[row, chunk, output] = answer[row, chunk - 1, output]
        if chunks:
            digest[row, 0] = digests[i]
            steps[row, 0] = 1
            for output in range(outputs):
                answer[row, 0, output] = predictions[i, output]
        for k in range(carries.shape[1]):
            carries[row, k] = moved[i, k]
        used[row] = warm
        positions[i] = position[row]
        epochs[i] = epoch[row]
