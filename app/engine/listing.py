"""Lists of session names: those in the store, and those that are resident only.

A list is read in slices, and one slice at a time however many clients list. Between two slices the event loop
takes up what has come in, and the store's thread the next commit. So a chunk waits for at most one slice.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import islice

from app.engine.residents import Residents
from app.session.label_index import MAX_CANDIDATES
from app.session.names import name_range
from app.session.notes import NO_NOTES, Labels
from app.session.slab import Slab
from app.stores import LabelPage

SLICE_NAMES = 100  # about 0.1 ms in memory

Name = tuple[str, str]  # of a session, and its model


class Listing:
    """Reads lists.

    Parameters
    ----------
    residents : the sessions
    """

    def __init__(self, residents: Residents) -> None:
        self._residents = residents
        self._turn = asyncio.Lock()  # first come, first served

    async def names(self, after: str, limit: int, model: str | None = None, prefix: str = "") -> list[Name]:
        """Up to `limit` sessions, sorted by name: names > `after` that begin with `prefix`.

        The work grows with `limit` and the number of models, and not with the number of sessions.
        """
        found: list[Name] = []
        while True:
            wanted = min(limit - len(found), SLICE_NAMES)
            async with self._turn:
                part = await self._slice(after, wanted, model, prefix)
                await asyncio.sleep(
                    0
                )  # with the turn: the slice of another list comes after what has come in
            found += part
            if len(part) < wanted or len(found) == limit:
                return found
            after = part[-1][0]

    async def _slice(self, after: str, limit: int, model: str | None, prefix: str) -> list[Name]:
        models, store = self._residents.models, self._residents.store

        def fingerprint_filter(fingerprint: str) -> bool:
            return model is None or models.model_of(fingerprint) == model

        pages = [await self._residents.call_store(store.names, after, limit, prefix, fingerprint_filter)]
        if not store.writes_through:
            start, end = name_range(after, prefix)
            for fingerprint, slab in models.slabs.items():
                if fingerprint_filter(fingerprint):
                    resident = slab.names.irange(start, end, inclusive=(False, False))
                    pages.append([(name, fingerprint) for name in islice(resident, limit)])
        names = islice(heapq.merge(*pages), limit)
        return [(name, models.model_of(fingerprint)) for name, fingerprint in names]

    async def labelled(
        self, after: str, limit: int, model: str | None, prefix: str, labels: Labels
    ) -> LabelPage:
        """As `names`, of the sessions that have all of these labels, at least one.

        Of each session the model's name takes the place of the fingerprint.
        """
        models, store = self._residents.models, self._residents.store

        def fingerprint_filter(fingerprint: str) -> bool:
            return model is None or models.model_of(fingerprint) == model

        async with self._turn:
            page = await self._residents.call_store(
                store.labelled, after, limit, prefix, fingerprint_filter, labels
            )
            pages = [page]
            if not store.writes_through:
                for fingerprint, slab in models.slabs.items():
                    if fingerprint_filter(fingerprint):
                        pages.append(_labelled_residents(slab, after, limit, prefix, labels))
            await asyncio.sleep(0)  # with the turn, as above
        merged = LabelPage.merge(pages, limit)
        return LabelPage([(name, models.model_of(print_)) for name, print_ in merged.found], merged.end)


def _labelled_residents(slab: Slab, after: str, limit: int, prefix: str, labels: Labels) -> LabelPage:
    count = max(limit, MAX_CANDIDATES)
    names = slab.labels.candidates(labels[0], *name_range(after, prefix), count)
    wanted, fingerprint = set(labels), slab.forecaster.fingerprint
    found = [
        (name, fingerprint)
        for name in names
        if not wanted.difference(slab.notes.get(slab.index[name], NO_NOTES).labels)
    ]
    return LabelPage.of(found, limit, names[-1] if len(names) == count else None)
