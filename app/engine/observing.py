"""What sessions observed in a batch, in the columns that their past keeps (`app.session.history`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.engine.batch import FinishedChunk
from app.engine.chunk_columns import ChunkColumns
from app.engine.extra_outputs import session_level
from app.engine.inputs import level_index
from app.engine.times import times_of_last
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
        chunks = zip(result.carries, group.lengths.tolist(), strict=True)
        parts = [(times_of_last(forecaster, carry, length), length) for carry, length in chunks]
        observed.times = _joined(parts)
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
        observed.times = _joined([(chunk.times, len(chunk.job.observations)) for chunk in chunks])
    if any(chunk.job.reset for chunk in chunks):
        observed.restarts = np.array([chunk.job.reset for chunk in chunks])
    return observed


def _joined(times: Sequence[tuple[Seconds | None, int]]) -> Seconds:
    """[total], the times of each chunk, or as many NaN where they are not known."""
    return np.concatenate([np.full(length, np.nan) if part is None else part for part, length in times])


def _scores(chunk: FinishedChunk) -> list[Scores]:
    return [scores for scores in chunk.progress.scores if scores is not None]


def _widths_of(chunk: FinishedChunk, forecaster: Forecaster) -> Floats:
    options, carry = chunk.job.options, chunk.progress.carry
    level = (options.level if options is not None else None) or session_level(carry, forecaster) or 0.0
    parts = [_widths(scores, np.full(len(scores.scores), level), forecaster) for scores in _scores(chunk)]
    return np.concatenate(parts)


def _widths(scores: Scores, levels: Floats, forecaster: Forecaster) -> Floats:
    """[total, outputs], the half-width at the level of each observation, [total]; NaN where it is 0."""
    widths = np.full((len(levels), scores.widths.shape[2]), np.nan, np.float32)
    for level in np.unique(levels[levels > 0]).tolist():
        rows = levels == level
        widths[rows] = scores.widths[rows, level_index(level, forecaster)]
    return widths
