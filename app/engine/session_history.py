"""The history of a session as clients get it."""

from __future__ import annotations

import numpy as np

from app.jobs.answers import SessionHistory
from app.session.history import Past
from app.session.rows import scalar
from app.session.slab import Slab


def session_history(
    session: str, slab: Slab, row: int, first: int | None = None, limit: int | None = None
) -> SessionHistory:
    """The last observations of the session at this row.

    Parameters
    ----------
    first : leave out what was observed before this position; None: nothing
    limit : most observations: the first of them, or without `first` the last
    """
    header = slab.headers[row : row + 1]
    position, artifact = scalar(header, "position"), slab.forecaster.artifact
    past = _part(_past(slab, row, position), first, limit)
    columns = artifact.columns
    observations, times = past.observations, past.times
    if times is None or np.isnan(times).all():
        times = None
    elif artifact.time_input_count:  # the columns that were made from the times
        observations = np.ascontiguousarray(observations[:, : -artifact.time_input_count])
        columns = columns[: -artifact.time_input_count]
    widths = past.widths
    text = artifact.text
    has_intervals = widths is not None and not np.isnan(widths).all()
    return SessionHistory(
        session=session,
        model=artifact.name,
        position=position,
        epoch=scalar(header, "epoch"),
        first=past.first,
        inputs=tuple(columns),
        targets=tuple(artifact.targets) if text is None else (),
        observations=observations,
        predictions=past.predictions if text is None else None,
        lower=past.predictions - widths if widths is not None and has_intervals else None,
        upper=past.predictions + widths if widths is not None and has_intervals else None,
        scores=past.scores,
        times=times,
        interval_seconds=artifact.interval_seconds,
        ports=slab.output_ports,
        pieces=None
        if text is None
        else tuple(text.vocabulary.pieces[int(token)] for token in observations[:, 0]),
    )


def _past(slab: Slab, row: int, position: int) -> Past:
    if slab.histories is not None:
        return slab.histories.read(row, position)
    observations = np.empty((0, slab.forecaster.input_size), np.float32)
    predictions = np.empty((0, slab.forecaster.output_size), np.float32)
    return Past(position, observations, predictions, None, None, None)


def _part(past: Past, first: int | None, limit: int | None) -> Past:
    start = 0 if first is None else min(max(first - past.first, 0), len(past))
    stop = len(past)
    if limit is not None and first is None:
        start = max(stop - limit, 0)
    elif limit is not None:
        stop = min(start + limit, stop)
    return past.cut(start, stop)
