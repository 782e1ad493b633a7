"""Lists of sessions: those in the store, and those that are resident only.

A list is read in slices, and one slice at a time however many clients list. Between two slices the event loop
takes up what has come in, and the store's thread the next commit. So a chunk waits for at most one slice.

In a list by value, the resident sessions that have the value come first (`app.engine.ranking`), and then all
others by name: a session that is not resident has to be loaded before anything is known of it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from app.engine.ranking import Rankings
from app.engine.residents import Residents
from app.jobs.session_query import Rank, RankedSession, SessionQuery
from app.session.label_index import MAX_CANDIDATES
from app.session.names import SEPARATOR
from app.session.slab import Slab
from app.stores import NamePage, NamesQuery

SLICE_NAMES = 100  # about 0.1 ms in memory
MAX_RANKED_NAMES = 5000  # names that a page leaves out at most because they were listed by value

FingerprintFilter = Callable[[str], bool]


class Listing:
    """Reads lists.

    Parameters
    ----------
    residents : the sessions
    """

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._turn = asyncio.Lock()  # first come, first served
        self._rankings = Rankings(residents)

    async def by_name(self, query: SessionQuery, after: str, limit: int) -> NamePage:
        """Up to `limit` sessions with names behind `after`, sorted by name; see `NamePage`.

        Of a query with an order, those that have no value. Of each session the model's name takes the place
        of the fingerprint. The work grows with `limit` and the number of models, and not with the number of
        sessions. With labels, or behind the sessions that have a value, a page may be short.
        """
        if query.order is not None and self._rankings.covers(query, self._count(query)):
            return NamePage((), None)
        found: list[tuple[str, str]] = []
        total = 0
        while True:
            wanted = limit if query.labels else min(limit - len(found), SLICE_NAMES)
            async with self._turn:
                page = await self._slice(query, after, wanted if query.order is None else SLICE_NAMES)
                if query.order is None:
                    found += page.found
                else:
                    found += self._rankings.without_value(page.found, query.order)
                # With the turn: the slice of another list comes after what has come in.
                await asyncio.sleep(0)
            total += len(page.found)
            is_enough = len(found) >= limit or bool(query.labels) or total >= MAX_RANKED_NAMES
            if page.end is None or is_enough:
                page = NamePage.of(found, limit, page.end)
                models = self._residents.models
                return NamePage([(name, models.model_of(print_)) for name, print_ in page.found], page.end)
            after = page.end

    async def ranked(self, query: SessionQuery, after: Rank | None, limit: int) -> list[RankedSession]:
        """Up to `limit` resident sessions that have the value of the query's order, in that order."""
        return await self._rankings.page(query, after, limit)

    def _count(self, query: SessionQuery) -> float:
        """How many sessions the query is about; infinity if nobody has counted them."""
        if query.model is None and not query.labels:
            if not query.prefix:
                return len(self._residents)
            if query.prefix.endswith(SEPARATOR):
                return self._residents.counts.per_tenant[query.prefix.removesuffix(SEPARATOR)]
        return math.inf

    async def _slice(self, query: SessionQuery, after: str, limit: int) -> NamePage:
        models, store = self._residents.models, self._residents.store

        def fingerprint_filter(fingerprint: str) -> bool:
            return query.model is None or models.model_of(fingerprint) == query.model

        page_query = NamesQuery(
            after, limit, query.prefix, fingerprint_filter, query.labels, query.names_descend
        )
        pages = [await self._residents.call_store(store.names, page_query)]
        if not store.writes_through:
            slabs = [slab for model, slab in models.slabs.items() if fingerprint_filter(model)]
            pages += [_resident_names(slab, page_query) for slab in slabs]
        return NamePage.merge(pages, limit, descending=page_query.descending)


def _resident_names(slab: Slab, query: NamesQuery) -> NamePage:
    fingerprint = slab.forecaster.fingerprint
    if not query.labels:
        return query.merge([[(name, fingerprint) for name in query.first(slab.names)]])
    count, labels = max(query.limit, MAX_CANDIDATES), set(query.labels)
    names = slab.labels.candidates(query.labels[0], *query.span, count, descending=query.descending)
    found = [(name, fingerprint) for name in names if slab.has_labels(slab.index[name], labels)]
    return NamePage.of(found, query.limit, names[-1] if len(names) == count else None)
