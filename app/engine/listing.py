"""Lists of session names: those in the store, and those that are resident only."""

from __future__ import annotations

import heapq
from itertools import islice

from app.engine.residents import Residents
from app.session.label_index import MAX_CANDIDATES
from app.session.names import name_range
from app.session.notes import NO_NOTES, Labels
from app.session.slab import Slab
from app.stores import LabelPage


async def names(
    residents: Residents, after: str, limit: int, model: str | None = None, prefix: str = ""
) -> list[tuple[str, str]]:
    """(name, model) of up to `limit` sessions, sorted: names > `after` that begin with `prefix`.

    The work grows with `limit` and the number of models, and not with the number of sessions.
    """
    models, store = residents.models, residents.store

    def fingerprint_filter(fingerprint: str) -> bool:
        return model is None or models.model_of(fingerprint) == model

    pages = [await residents.call_store(store.names, after, limit, prefix, fingerprint_filter)]
    if not store.writes_through:
        start, end = name_range(after, prefix)
        for fingerprint, slab in models.slabs.items():
            if fingerprint_filter(fingerprint):
                resident = slab.names.irange(start, end, inclusive=(False, False))
                pages.append([(name, fingerprint) for name in islice(resident, limit)])
    return [(name, models.model_of(fingerprint)) for name, fingerprint in islice(heapq.merge(*pages), limit)]


async def labelled(
    residents: Residents, after: str, limit: int, model: str | None, prefix: str, labels: Labels
) -> LabelPage:
    """As `names`, of the sessions that have all of these labels, at least one.

    The work grows with `limit`, and not with the number of sessions. Of each session the model's name takes
    the place of the fingerprint.
    """
    models, store = residents.models, residents.store

    def fingerprint_filter(fingerprint: str) -> bool:
        return model is None or models.model_of(fingerprint) == model

    pages = [await residents.call_store(store.labelled, after, limit, prefix, fingerprint_filter, labels)]
    if not store.writes_through:
        for fingerprint, slab in models.slabs.items():
            if fingerprint_filter(fingerprint):
                pages.append(_labelled_residents(slab, after, limit, prefix, labels))
    page = LabelPage.merge(pages, limit)
    return LabelPage([(name, models.model_of(fingerprint)) for name, fingerprint in page.found], page.end)


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
