"""What a learning session tells beside its predictions: intervals, errors, scores, and what was missing."""

from __future__ import annotations

import numpy as np

from app.engine.inputs import place_of
from app.jobs.options import Extras
from app.session.rows import Answer, Floats
from models.adaptation.learner import Judged
from models.forecaster import Forecaster

PLAIN = Extras()


def findings(
    extras: Extras | None,
    carry: Floats,
    observations: Floats,
    predictions: Floats,
    judged: Judged | None,
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
    extras = extras or PLAIN
    told: Answer = {}
    level = extras.level or (chosen(carry, forecaster) if judged is not None else None)
    if level and judged is not None:
        widths = judged.widths[:, place_of(level, forecaster)]
        told["lower"], told["upper"] = predictions - widths, predictions + widths
    if extras.score and judged is not None:
        told["residuals"], told["scores"] = judged.errors.copy(), judged.scores[:, None].copy()
    if extras.gaps:
        told["observed"] = (~np.isnan(observations)).astype(np.float32)
    return told


def band(level: float | None, carry: Floats, forecast: Floats, forecaster: Forecaster) -> tuple[Floats, ...]:
    """The lower and upper ends of a forecast from `carry`, [steps, outputs]; none without a level."""
    level = level or chosen(carry, forecaster)
    if not level:
        return ()
    widths = forecaster.bands(carry[None], len(forecast))[0, :, place_of(level, forecaster)]
    return forecast - widths, forecast + widths


def chosen(carry: Floats, forecaster: Forecaster) -> float | None:
    """The level that the session wants with every chunk."""
    level = float(forecaster.level(carry[None])[0]) if forecaster.learning.judges else 0.0
    return forecaster.learning.levels[place_of(level, forecaster)] if level else None
