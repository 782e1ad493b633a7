"""How often intervals held, by hour of the day and after a miss, of the sessions that want intervals.

It is counted when it is asked for, in what the server keeps of the sessions' past anyway. So a chunk costs
nothing, and the work is bounded: a few sessions of a model are looked at, spread evenly over all of them, and
of each what is kept. 16 sessions with 256 observations each take about 2 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from app.observability.metrics import CoverageTally
from app.session.history import Past
from app.session.slab import Slab
from models.arrays import Bools, Floats, Ints
from models.forecaster import Forecaster

SESSIONS = 16  # of a model that are looked at
HOUR, HOURS = 3600.0, 24


def coverage_tallies(slab: Slab) -> Iterator[CoverageTally]:
    """What is known of the sessions of this slab, by the level of their intervals."""
    forecaster = slab.forecaster
    if slab.histories is None or not forecaster.learning.tracks_errors:
        return
    published = np.flatnonzero(slab.published)
    rows = published[:: max(1, -(-len(published) // SESSIONS))]
    carries, positions = slab.carries[rows], slab.headers["position"][rows].tolist()
    levels, phases = forecaster.level(carries), forecaster.season_phases(carries)
    for level in np.unique(levels[levels > 0]).tolist():
        chosen = np.flatnonzero(levels == level).tolist()
        pasts = [slab.histories.read(int(rows[i]), positions[i]) for i in chosen]
        kept = [i for i, past in enumerate(pasts) if len(past)]
        pasts, chosen = [pasts[i] for i in kept], [chosen[i] for i in kept]
        last_phases = None if phases is None else phases[chosen]
        yield _tally(forecaster, round(level, 6), pasts, last_phases)


def _tally(
    forecaster: Forecaster, level: float, pasts: Sequence[Past], last_phases: Ints | None
) -> CoverageTally:
    """The intervals of some sessions with this level.

    Parameters
    ----------
    pasts : none is empty
    last_phases : [sessions], of their last observations in the season; None without a season
    """
    tally = CoverageTally.empty(forecaster.artifact.name, level)
    lengths = np.array([len(past) for past in pasts], np.int64)
    if not pasts:
        return tally
    known, missed = _misses(forecaster, pasts, lengths)
    after = np.zeros_like(known)
    after[1:] = known[1:] & missed[:-1]  # the first of a session has no interval, and is not known
    _count(tally.after_miss, np.zeros(len(known), np.int64), after, missed)
    times = [past.times for past in pasts if past.times is not None]
    if times:
        seconds = np.concatenate(times)
        timed = ~np.isnan(seconds)
        hours = np.where(timed, seconds // HOUR % HOURS, 0).astype(np.int64)
        _count(tally.by_hour, hours, known & timed[:, None], missed)
    if last_phases is not None:
        season = forecaster.learning.season
        before_last = np.repeat(lengths.cumsum(), lengths) - 1 - np.arange(len(known))
        phases = (np.repeat(last_phases, lengths) - before_last) % season
        _count(tally.by_part, phases * min(season, HOURS) // season, known, missed)
    return tally


def _misses(forecaster: Forecaster, pasts: Sequence[Past], lengths: Ints) -> tuple[Bools, Bools]:
    """[total, outputs], which observations an interval is known for, and which of them it missed."""
    artifact = forecaster.artifact
    observed = np.concatenate([past.observations for past in pasts])
    observed = observed[:, [artifact.columns.index(name) for name in artifact.targets]]
    apart, widths = np.full(observed.shape, np.nan, np.float32), _joined_widths(pasts)
    apart[1:] = np.abs(observed[1:] - np.concatenate([past.predictions for past in pasts])[:-1])
    apart[lengths.cumsum()[:-1]] = np.nan  # the first of a session
    widths = np.concatenate([widths[:1], widths[:-1]])
    known = ~(np.isnan(apart) | np.isnan(widths))
    return known, known & (apart > widths)


def _joined_widths(pasts: Sequence[Past]) -> Floats:
    return np.concatenate([past.widths for past in pasts if past.widths is not None])


def _count(counts: Ints, places: Ints, known: Bools, missed: Bools) -> None:
    """Add intervals to [places, 2]: how many there were, and how many of them were missed.

    Parameters
    ----------
    places : [total]
    known, missed : [total, outputs]
    """
    size = len(counts)
    counts[:, 0] += np.bincount(places, known.sum(axis=1), size).astype(np.int64)
    counts[:, 1] += np.bincount(places, (known & missed).sum(axis=1), size).astype(np.int64)
