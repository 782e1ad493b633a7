"""What a learning session tells beside its predictions: intervals, errors, scores, and what was missing."""

from __future__ import annotations

import numpy as np

from app.engine.inputs import level_index
from app.jobs.options import ChunkOptions
from app.session.rows import Answer
from models.adaptation.learner import Scores
from models.arrays import Floats
from models.forecaster import Forecaster

PLAIN = ChunkOptions()


def extra_outputs(
    options: ChunkOptions | None,
    carry: Floats,
    observations: Floats,
    predictions: Floats,
    scores: Scores | None,
    forecaster: Forecaster,
) -> Answer:
    """Of one chunk, or a slice of one; empty where nobody asked.

    Parameters
    ----------
    extras : what the chunk asks for; without a level the session's own choice counts
    carry : [carry_size] of the session
    observations : [steps, inputs], NaN where not observed
    predictions : [steps, outputs]
    judged : laid out alike
    """
    options = options or PLAIN
    told: Answer = {}
    level = options.level or (session_level(carry, forecaster) if scores is not None else None)
    if level and scores is not None:
        widths = scores.widths[:, level_index(level, forecaster)]
        told["lower"], told["upper"] = predictions - widths, predictions + widths
    if options.score and scores is not None:
        told["residuals"], told["scores"] = scores.errors.copy(), scores.scores[:, None].copy()
    if options.gaps:
        told["observed"] = (~np.isnan(observations)).astype(np.float32)
    return told


def forecast_interval(
    level: float | None, carry: Floats, forecast: Floats, forecaster: Forecaster
) -> tuple[Floats, ...]:
    """The lower and upper ends of a forecast from `carry`, [steps, outputs]; none without a level."""
    level = level or session_level(carry, forecaster)
    if not level:
        return ()
    widths = forecaster.forecast_widths(carry[None], len(forecast))[0, :, level_index(level, forecaster)]
    return forecast - widths, forecast + widths


def session_level(carry: Floats, forecaster: Forecaster) -> float | None:
    """The level that the session wants with every chunk."""
    level = float(forecaster.level(carry[None])[0]) if forecaster.learning.tracks_errors else 0.0
    return forecaster.learning.levels[level_index(level, forecaster)] if level else None
