"""Lists of session names: those in the store, and those that are resident only."""

from __future__ import annotations

from app.engine.residents import Residents


async def names(
    residents: Residents, after: str, limit: int, model: str | None = None, prefix: str = ""
) -> list[tuple[str, str]]:
    """(name, model) of up to `limit` sessions after the name `after` that begin with `prefix`, sorted."""
    found: list[tuple[str, str]] = []
    while len(found) < limit:
        page = await _page(residents, after, limit)
        matching = [(session, name) for session, name in page if session.startswith(prefix)]
        found += [(session, name) for session, name in matching if model is None or name == model]
        if len(page) < limit or len(matching) < len(page):
            break
        after = page[-1][0]
    return found[:limit]


async def _page(residents: Residents, after: str, limit: int) -> list[tuple[str, str]]:
    models, store = residents.models, residents.store
    stored = await residents.call_store(store.names, after, limit)
    found = [(session, models.model_of(fingerprint)) for session, fingerprint in stored]
    if not store.writes_through:
        for slab in models.slabs.values():
            resident = zip(slab.names.irange(after, inclusive=(False, True)), range(limit), strict=False)
            found += [(session, slab.forecaster.artifact.name) for session, _ in resident]
    return sorted(found)[:limit]
