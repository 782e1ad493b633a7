"""Lists of session names: those in the store, and those that are resident only."""

from __future__ import annotations

import heapq
from itertools import islice

from app.engine.residents import Residents
from app.session.names import name_range


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
