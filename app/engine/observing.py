"""What sessions observed in a batch, in the columns that their past keeps (`app.session.history`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.engine.batch import FinishedChunk
from app.engine.chunk_columns import ChunkColumns
from app.engine.extra_outputs import session_level
from app.engine.inputs import level_index
from app.jobs.jobs import Advance
from app.session.history import Observed
from app.session.slab import Slab
from models.adaptation.learner import Scores
from models.arrays import Floats, Seconds
from models.forecaster import Forecaster, StepResult


def observed_by_group(group: ChunkColumns, result: StepResult) -> Observed | None:
    """The chunks of a group, after its pass; None if no past is kept."""
    forecaster = group.slab.forecaster
    if group.slab.histories is None:
        return None
    observed = Observed(group.lengths, group.observations, result.predictions)
    if result.scores is not None and forecaster.learning.tracks_errors:
        levels = np.repeat(forecaster.level(result.carries), group.lengths)
        observed.widths, observed.scores = _widths(result.scores, levels, forecaster), result.scores.scores
    if forecaster.artifact.time_features:
        chunks = zip(group.lengths.tolist(), result.carries, strict=True)
        observed.times = np.concatenate([times_up_to(forecaster, carry, length) for length, carry in chunks])
    return observed


def observed_by_finished(slab: Slab, chunks: Sequence[FinishedChunk]) -> Observed | None:
    """Unusual chunks, each of which is complete; None if no past is kept."""
    if slab.histories is None:
        return None
    forecaster = slab.forecaster
    observed = Observed(
        np.array([len(chunk.job.observations) for chunk in chunks]),
        np.concatenate([chunk.job.observations for chunk in chunks]),
        np.concatenate([chunk.answer["predictions"] for chunk in chunks]),
    )
    if forecaster.learning.tracks_errors:
        observed.scores = np.concatenate([each.scores for chunk in chunks for each in _scores(chunk)])
        observed.widths = np.concatenate([_widths_of(chunk, forecaster) for chunk in chunks])
    if forecaster.artifact.time_features:
        observed.times = np.concatenate(
            [times_of_chunk(forecaster, chunk.job, chunk.progress.carry) for chunk in chunks]
        )
    if any(chunk.job.reset for chunk in chunks):
        observed.restarts = np.array([chunk.job.reset for chunk in chunks])
    return observed


def times_up_to(forecaster: Forecaster, carry: Floats, length: int) -> Seconds:
    """[length], the times of a session's last observations; NaN if it has no timestamps.

    Parameters
    ----------
    carry : [carry_size], after them
    """
    clock = forecaster.layout.clock(carry)
    if clock is None:
        return np.full(length, np.nan)
    return clock - (forecaster.artifact.interval_seconds or 0.0) * np.arange(length - 1.0, -1.0, -1.0)


def times_of_chunk(forecaster: Forecaster, job: Advance, carry: Floats) -> Seconds:
    """[steps], the times of a chunk's observations: as they were sent, or else by the session's clock."""
    if job.options is not None and job.options.timestamps is not None:
        return job.options.timestamps
    return times_up_to(forecaster, carry, len(job.observations))


def _scores(chunk: FinishedChunk) -> list[Scores]:
    return [scores for scores in chunk.progress.scores if scores is not None]


def _widths_of(chunk: FinishedChunk, forecaster: Forecaster) -> Floats:
    options, carry = chunk.job.options, chunk.progress.carry
    level = (options.level if options is not None else None) or session_level(carry, forecaster) or 0.0
    parts = [
        _widths(scores, np.full(len(scores.scores), level), forecaster) for scores in _scores(chunk)
    ]
    return np.concatenate(parts)


def _widths(scores: Scores, levels: Floats, forecaster: Forecaster) -> Floats:
    """[total, outputs], the half-width at the level of each observation, [total]; NaN where it is 0."""
    widths = np.full((len(levels), scores.widths.shape[2]), np.nan, np.float32)
    for level in np.unique(levels[levels > 0]).tolist():
        rows = levels == level
        widths[rows] = scores.widths[rows, level_index(level, forecaster)]
    return widths
