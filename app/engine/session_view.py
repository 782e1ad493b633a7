"""The view of a session that clients get."""

from __future__ import annotations

import math

import numpy as np

from app.engine import extra_outputs
from app.jobs.answers import SessionView
from app.session.notes import NO_NOTES
from app.session.rows import Rows
from app.session.slab import Slab
from models.arrays import Floats
from models.forecaster import Forecaster

NEVER = float("inf")
FIRST = np.zeros(1, np.int64)


def session_view(session: str, slab: Slab, rows: Rows) -> SessionView:
    """The view of the first session in `rows`."""
    header = dict(zip(rows.headers.dtype.names or (), rows.headers[0].tolist(), strict=True))
    artifact, notes = slab.forecaster.artifact, rows.notes.get(0, NO_NOTES)
    samples = slab.forecaster.samples
    return SessionView(
        session=session,
        model=artifact.name,
        fingerprint=artifact.fingerprint,
        learning=slab.forecaster.learning_of(rows.carries[0]),
        level=extra_outputs.session_level(rows.carries[0], slab.forecaster),
        errors=slab.forecaster.errors(rows.carries[:1]) if slab.forecaster.learning.tracks_errors else None,
        position=header["position"],
        epoch=header["epoch"],
        since_reset=header["since_reset"],
        last_prediction=slab.forecaster.last_predictions(rows.carries)[0] if header["since_reset"] else None,
        time=slab.forecaster.layout.clock(rows.carries[0]),
        created=header["created"],
        seen=header["seen"],
        expires=header["deadline"] if header["deadline"] != NEVER else None,
        ttl_seconds=header["ttl"] if header["ttl"] != NEVER else None,
        labels=notes.labels,
        alert=notes.alert,
        alert_raised=notes.state.raised,
        surprise=_surprise(slab.forecaster, rows.carries),
        rate=None if samples is None else samples.rate_of(rows.carries[0]),
    )


def _surprise(forecaster: Forecaster, carries: Floats) -> float | None:
    if not forecaster.learning.tracks_errors:
        return None
    score = float(forecaster.last_scores(carries, FIRST)[0])
    return None if math.isnan(score) else score
