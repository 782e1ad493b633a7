"""The outputs beside a chunk's predictions: intervals, errors, surprise, which inputs were missing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.engine.inputs import level_index
from app.jobs.answers import QUANTILE
from app.jobs.options import ChunkOptions
from app.session.rows import Answer
from models.arrays import Floats
from models.forecaster import Forecaster, StepResult

NO_OPTIONS = ChunkOptions()
DIGITS = 9  # of a quantile: without the rounding errors of 1 - level


def extra_outputs(
    options: ChunkOptions | None, observations: Floats, result: StepResult, forecaster: Forecaster
) -> Answer:
    """The outputs of one chunk, or of a slice of a chunk, by name; empty where none are wanted.

    Parameters
    ----------
    options : options of the chunk; without a level, the session's own level is used
    observations : [steps, inputs], NaN where missing
    result : result of this chunk alone
    """
    options, scores = options or NO_OPTIONS, result.scores
    outputs: Answer = {}
    if scores is not None:
        level = options.level or session_level(result.carries[0], forecaster)
        if level:
            widths = scores.widths[:, level_index(level, forecaster)]
            outputs["lower"], outputs["upper"] = result.predictions - widths, result.predictions + widths
        outputs |= _quantiles(QUANTILE, options.levels, result.predictions, scores.widths, forecaster)
        if options.score:
            outputs["residuals"], outputs["scores"] = scores.errors.copy(), scores.scores[:, None].copy()
    if options.gaps:
        outputs["observed"] = (~np.isnan(observations)).astype(np.float32)
    return outputs


def forecast_interval(
    level: float | None, carry: Floats, forecast: Floats, forecaster: Forecaster
) -> tuple[Floats, ...]:
    """Lower and upper ends of a forecast from `carry`, [steps, outputs] each; empty without a level."""
    level = level or session_level(carry, forecaster)
    if not level:
        return ()
    widths = forecaster.forecast_widths(carry[None], len(forecast))[0, :, level_index(level, forecaster)]
    return forecast - widths, forecast + widths


def forecast_quantiles(
    prefix: str, levels: Sequence[float], carry: Floats, forecast: Floats, forecaster: Forecaster
) -> Answer:
    """Both ends of the intervals of these levels around a forecast from `carry`, by the quantile, ascending.

    Each is [steps, outputs]. The interval of level 0.9 is from the quantile 0.05 to 0.95.

    Parameters
    ----------
    prefix : of the names of the outputs; the quantile follows
    """
    if not levels:
        return {}
    widths = forecaster.forecast_widths(carry[None], len(forecast))[0]
    return _quantiles(prefix, levels, forecast, widths, forecaster)


def _quantiles(
    prefix: str, levels: Sequence[float], middle: Floats, widths: Floats, forecaster: Forecaster
) -> Answer:
    """Both ends of intervals of half-widths [steps, levels, outputs] around the middle, [steps, outputs]."""
    ends: dict[float, Floats] = {}
    for level in levels:
        half = widths[:, level_index(level, forecaster)]
        ends[round((1 - level) / 2, DIGITS)] = middle - half
        ends[round((1 + level) / 2, DIGITS)] = middle + half
    return {f"{prefix}{quantile}": ends[quantile] for quantile in sorted(ends)}


def session_level(carry: Floats, forecaster: Forecaster) -> float | None:
    """The level of the intervals that the session wants with every chunk; None if it wants none."""
    level = float(forecaster.level(carry[None])[0]) if forecaster.learning.tracks_errors else 0.0
    return forecaster.learning.levels[level_index(level, forecaster)] if level else None
