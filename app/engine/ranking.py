"""The order of the resident sessions by a value: when they were last seen, their error or their surprise.

Every chunk changes these values, so no index of them is kept. An order is made when a list wants it, from the
columns of the slabs, by a thread that does not hold the GIL: the event loop goes on. It then serves every
page of that list for a second.

A session's row may have changed since. So each row is checked again as it is listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from app.engine.residents import Residents
from app.jobs.session_query import Order, Rank, RankedSession, SessionQuery
from app.session.name_table import NameTexts
from app.session.names import name_range
from app.session.slab import Slab
from models.arrays import Epochs, Floats, Ints, Seconds, UInt32s

FEW = 10_000  # resident sessions whose order is made for each page: it takes about a millisecond
FRESH_SECONDS, MAX_FRESH_SECONDS = 1.0, 10.0  # how long an order serves every page
PAUSE_FACTOR = 3  # an order serves for so many times as long as it took to make
USABLE_SECONDS = 2.0  # how long it serves after that while the next is made
MAX_KEPT = 4  # orders; one of a million sessions takes some 20 MB
LABELLED_SLICE = 500  # sessions whose labels are looked at in one turn of the event loop, about 0.2 ms
BLOCK = 256  # sessions of an order whose columns are read at once

Places = npt.NDArray[np.uint16]


class Rankings:
    """Makes orders, one at a time, and keeps the last few.

    Parameters
    ----------
    residents : the sessions
    """

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._kept: dict[SessionQuery, _Ranking] = {}  # least recently made first
        self._turn = asyncio.Lock()  # to make an order
        self._pages = asyncio.Lock()  # first come, first served
        self._renewals: dict[SessionQuery, asyncio.Task[_Ranking]] = {}

    async def page(self, query: SessionQuery, after: Rank | None, limit: int) -> list[RankedSession]:
        """Up to `limit` sessions that have a value, in the query's order, behind `after`."""
        ranking = await self._ranking(query)
        found: list[RankedSession] = []
        async with self._pages:
            for block in ranking.blocks(after, query.descending):
                found += islice(self._checked(ranking, block, query), limit - len(found))
                # With the turn: the page of another list comes after what has come in.
                await asyncio.sleep(0)
                if len(found) == limit:
                    break
        return found

    def covers(self, query: SessionQuery, count: float) -> bool:
        """Whether a kept order has this many sessions: then no session is without a value."""
        kept = self._kept.get(_key(query))
        return kept is not None and not kept.is_old() and len(kept.rows) >= count

    def without_value(self, sessions: Sequence[tuple[str, str]], order: Order) -> list[tuple[str, str]]:
        """Those of these sessions, (name, fingerprint) each, that have no value now."""
        by_slab: dict[Slab, tuple[list[int], list[int]]] = {}
        for i, (name, _) in enumerate(sessions):
            if (found := self._residents.find(name)) is not None:
                indexes, rows = by_slab.setdefault(found[0], ([], []))
                indexes.append(i)
                rows.append(found[1])
        ranked = np.zeros(len(sessions), np.bool_)
        for slab, (indexes, rows) in by_slab.items():
            ranked[indexes] = np.isfinite(_values(slab, np.array(rows), order))
        return [entry for entry, is_ranked in zip(sessions, ranked.tolist(), strict=True) if not is_ranked]

    async def _ranking(self, query: SessionQuery) -> _Ranking:
        key = _key(query)
        kept = self._kept.get(key)
        if kept is None or kept.is_old():
            return await self._renew(key)
        if not kept.is_fresh() and key not in self._renewals:
            renewal = self._renewals[key] = asyncio.create_task(self._renew(key))
            renewal.add_done_callback(lambda _: self._renewals.pop(key))
        return kept

    async def _renew(self, key: SessionQuery) -> _Ranking:
        async with self._turn:
            kept = self._kept.get(key)
            if kept is not None and kept.is_fresh():  # it was made while this waited for its turn
                return kept
            began = monotonic()
            made = await self._make(key, began)
            for other in [other for other, ranking in self._kept.items() if ranking.is_old()]:
                del self._kept[other]
            self._kept.pop(key, None)
            if made.fresh_seconds:
                self._kept[key] = made
            if len(self._kept) > MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            return made

    async def _make(self, query: SessionQuery, began: float) -> _Ranking:
        models = self._residents.models
        slabs = [
            slab
            for fingerprint, slab in list(models.slabs.items())
            if query.model is None or models.model_of(fingerprint) == query.model
        ]
        parts = [_Part(slab, await _labelled_rows(slab, query), slab.table.texts) for slab in slabs]
        ranking = await asyncio.to_thread(_rank, parts, query, began)
        if sum(map(len, slabs)) > FEW:
            seconds = min(max(FRESH_SECONDS, PAUSE_FACTOR * (monotonic() - began)), MAX_FRESH_SECONDS)
            ranking.fresh_seconds = seconds
        return ranking

    def _checked(self, ranking: _Ranking, block: slice, query: SessionQuery) -> Iterator[RankedSession]:
        """The sessions of this part of an order that still are where it found them, and have the labels."""
        prefix, wanted = query.prefix, set(query.labels)
        models = [self._residents.models.model_of(slab.forecaster.fingerprint) for slab in ranking.slabs]
        columns = ranking.values[block], ranking.epochs[block], ranking.places[block], ranking.rows[block]
        for value, epoch, place, row in zip(*(column.tolist() for column in columns), strict=True):
            slab = ranking.slabs[place]
            name = slab.owner(row)
            if name is None or not name.startswith(prefix) or slab.columns.epoch[row] != epoch:
                continue
            if not wanted or slab.has_labels(row, wanted):
                yield RankedSession(value, epoch, name, models[place])


class _Ranking:
    """Sessions by value, ascending.

    values, epochs, places, rows : [n]; `slabs[places[i]]` has session i, at the row `rows[i]`
    fresh_seconds : how long it serves every page; 0 for one page
    """

    def __init__(
        self,
        slabs: Sequence[Slab],
        values: Seconds,
        epochs: Epochs,
        places: Places,
        rows: UInt32s,
        began: float,
    ) -> None:
        self.slabs = slabs
        self.values, self.epochs, self.places, self.rows = values, epochs, places, rows
        self.fresh_seconds = 0.0
        self._began = began

    def is_fresh(self) -> bool:
        return monotonic() < self._began + self.fresh_seconds

    def is_old(self) -> bool:
        return monotonic() > self._began + self.fresh_seconds + USABLE_SECONDS

    def blocks(self, after: Rank | None, descending: bool) -> Iterator[slice]:
        """The indexes behind `after`, in parts, in this direction."""
        start, stop = 0, len(self.values)
        if after is not None:
            first, last = (int(np.searchsorted(self.values, after.value, side)) for side in ("left", "right"))
            equal, epoch = self.epochs[first:last], np.uint64(after.epoch)
            if descending:
                stop = first + int(np.searchsorted(equal, epoch, "left"))
            else:
                start = first + int(np.searchsorted(equal, epoch, "right"))
        if not descending:
            for i in range(start, stop, BLOCK):
                yield slice(i, min(i + BLOCK, stop))
            return
        for i in range(stop - 1, -1, -BLOCK):
            yield slice(i, i - BLOCK if i >= BLOCK else None, -1)


class _Part(NamedTuple):
    """A slab, and its rows that may be listed; None: all, but for the prefix."""

    slab: Slab
    rows: Ints | None
    texts: NameTexts


def _key(query: SessionQuery) -> SessionQuery:
    return query._replace(descending=False)  # both directions are read from one order


async def _labelled_rows(slab: Slab, query: SessionQuery) -> Ints | None:
    """The rows of the sessions with all labels and the prefix; None if no label is wanted."""
    if not query.labels:
        return None
    wanted, rows = set(query.labels), list[int]()
    label = min(query.labels, key=slab.labels.count)
    after, end = name_range("", query.prefix)
    while names := slab.labels.candidates(label, after, end, LABELLED_SLICE):
        found = [slab.index[name] for name in names]
        rows += [row for row in found if slab.has_labels(row, wanted)]
        after = names[-1]
        await asyncio.sleep(0)
    return np.array(rows, np.int64)


def _rank(parts: Sequence[_Part], query: SessionQuery, began: float) -> _Ranking:
    """Sort. It runs in a thread while the rows change: it reads, and every array that it needs is there."""
    columns: list[tuple[Any, ...]] = []  # of each slab the values, epochs, places and rows
    for place, (slab, rows, texts) in enumerate(parts):
        if rows is None:
            rows = np.flatnonzero(slab.published)
            if query.prefix:
                rows = rows[texts.begin_with(query.prefix.encode(), rows)]
        values = _values(slab, rows, query.order)
        known = np.isfinite(values)
        rows, values = rows[known], values[known]
        columns.append((values, slab.columns.epoch[rows], np.full(len(rows), place, np.uint16), rows))
    columns.append((np.empty(0), np.empty(0, np.uint64), np.empty(0, np.uint16), np.empty(0, np.int64)))
    joined: list[Any] = [np.concatenate(column) for column in zip(*columns, strict=True)]
    values, epochs, places, rows = joined
    order = sort(values, epochs)
    slabs = [part.slab for part in parts]
    columns_in_order = values[order], epochs[order], places[order], rows[order].astype(np.uint32)
    return _Ranking(slabs, *columns_in_order, began=began)


def sort(values: Seconds, epochs: Epochs) -> Ints:
    """[n], the indexes that sort by value, and where values are equal by epoch.

    Most values differ. Then this takes a third of the time of `np.lexsort`, which sorts all by both.
    """
    order: Ints = np.argsort(values)
    ascending = values[order]
    is_tied = np.zeros(len(order), np.bool_)
    is_tied[1:] = ascending[1:] == ascending[:-1]
    is_tied[:-1] |= is_tied[1:]
    if is_tied.any():
        tied = order[is_tied]
        tied = tied[np.argsort(epochs[tied])]
        order[is_tied] = tied[np.argsort(values[tied], kind="stable")]
    return order


def _values(slab: Slab, rows: Ints, order: Order | None) -> Seconds | Floats:
    """[n], the value of the session at each row; NaN where it has none."""
    forecaster = slab.forecaster
    if order == "last_seen":
        return slab.columns.seen[rows]
    if not forecaster.learning.tracks_errors:
        return np.full(len(rows), np.nan)
    values = forecaster.relative_errors if order == "error" else forecaster.last_scores
    return values(slab.carries, rows).astype(np.float64)
