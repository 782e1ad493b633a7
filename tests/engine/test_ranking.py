"""An order is sorted as NumPy sorts it, and it is made again only as often as lists need it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from app.engine import ranking
from app.jobs.session_query import SessionQuery

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.mark.parametrize("different", [1, 3, 50, 10_000])
def test_values_are_sorted_and_equal_ones_by_epoch(different):
    random = np.random.default_rng(different)
    values = random.integers(0, different, 500).astype(float)
    epochs = random.permutation(2**63 + np.arange(500, dtype=np.uint64))
    assert_array_equal(ranking.sort(values, epochs), np.lexsort((epochs, values)))
    assert len(ranking.sort(values[:0], epochs[:0])) == 0


async def test_lists_of_many_sessions_share_an_order_and_it_is_made_anew_when_it_is_old(
    start_http, monkeypatch
):
    monkeypatch.setattr(ranking, "FEW", 2)
    now, made = [0.0], []
    monkeypatch.setattr(ranking, "monotonic", lambda: now[0])
    rank = ranking._rank
    monkeypatch.setattr(ranking, "_rank", lambda *given: made.append(given) or rank(*given))
    up = SessionQuery(order="last_seen")
    async with start_http() as service:
        listing = service.engine._listing

        async def names(query: SessionQuery) -> list[str]:
            return [session.name for session in await listing.ranked(query, None, 100)]

        for name in ("a", "b"):
            await service.advance(name, [[0.5]])
        assert {*await names(up)} == {*await names(up)} == {"a", "b"}
        assert len(made) == 2, "of few sessions it is made for each page"
        await service.advance("c", [[0.5]])
        pages = await asyncio.gather(*(names(up._replace(descending=i % 2 > 0)) for i in range(6)))
        assert len(made) == 3
        assert pages[0] == pages[2] == pages[1][::-1]
        await service.advance("d", [[0.5]])
        now[0] = ranking.FRESH_SECONDS / 2
        assert (set(await names(up)), len(made)) == (set("abc"), 3)
        now[0] = ranking.FRESH_SECONDS + ranking.USABLE_SECONDS / 2
        assert set(await names(up)) == set("abc"), "it serves while the next is made"
        await asyncio.gather(*listing._rankings._renewals.values())
        assert (set(await names(up)), len(made)) == (set("abcd"), 4)
        await service.advance("e", [[0.5]])
        now[0] += ranking.FRESH_SECONDS + ranking.USABLE_SECONDS + 0.1
        assert (set(await names(up)), len(made)) == (set("abcde"), 5)
        for prefix in "abcdef":
            await names(up._replace(prefix=prefix))
        assert len(listing._rankings._kept) == ranking.MAX_KEPT


async def test_a_session_that_has_lost_its_label_leaves_an_order_of_before(start_http, monkeypatch):
    monkeypatch.setattr(ranking, "FEW", 0)
    async with start_http() as service:
        for name in ("a", "b"):
            body = {"id": name, "labels": {"site": "north"}}
            assert (await service.http.post("/sessions", json=body)).status_code == 201
        listed = []
        for change in ({}, {"site": "south"}):
            await service.http.patch("/sessions/a", json={"labels": change})
            page = await service.http.get("/sessions?order=last_seen&label=site:north")
            listed.append({row["session"] for row in page.json()["sessions"]})
        assert listed == [{"a", "b"}, {"b"}]
