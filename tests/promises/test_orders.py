"""A list in the order of a value: the resident sessions by it, then all others by name, in every store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import pytest

from app import server
from app.engine import ranking
from tests.helpers.locked import Keys
from tests.helpers.services import Start, starter
from tests.helpers.two_workers import owned, two_workers
from tests.helpers.ways import AsgiRoute, HotRoute, HttpRoute, Way, check_problem

pytestmark = pytest.mark.anyio
NAMES = [f"s{i:02}" for i in range(14)]
ORDERS = {
    "last_seen": lambda session: session["updated"],
    "error": lambda session: (session["errors"] or {}).get("skill") and 1 - _skill(session),
    "surprise": lambda session: session["surprise"],
}


def _skill(session: dict[str, Any]) -> float:
    return float(np.mean([target["skill"] for target in session["errors"]["by_target"]]))


@pytest.fixture(params=["memory"])
def start(request, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Every store, with so little memory that some sessions are not resident."""
    if request.param == "redis":
        request.getfixturevalue("redis_url")
    begin = starter(AsgiRoute, request.param, zoo_folder, clock, tmp_path, monkeypatch)

    def start(**changes: Any) -> AbstractAsyncContextManager[Way]:
        small = {"resident_sessions": 4, "batch_sessions": 4, "bulk_sessions": 4}
        return begin(**({"workers": 1} | small | changes))

    return start


@pytest.fixture(params=["anew", "kept"])
def kept(request, monkeypatch) -> None:
    """Orders that are made for each page, as those of few sessions, or kept, as those of many."""
    if request.param == "kept":
        monkeypatch.setattr(ranking, "FEW", 0)
        monkeypatch.setattr(ranking, "FRESH_SECONDS", 1e6)
        monkeypatch.setattr(ranking, "MAX_FRESH_SECONDS", 1e6)


async def listed(service: Way, limit: int = 100, **query: Any) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": limit, "cursor": cursor, **query}
        response = await service.http.get("/sessions", params=params)
        assert response.status_code == 200, response.text
        page = response.json()
        assert len(page["sessions"]) <= limit
        found += [entry["session"] for entry in page["sessions"]]
        cursor = page["next"]
    return found


async def fill(service: Way, clock: Any, names: Sequence[str] = NAMES) -> dict[str, dict[str, Any]]:
    """Sessions with other values each, some of which have left memory. Returns those by name, as shown last.

    Two models keep errors, and a third does not: `sine`.
    """
    random = np.random.default_rng(4)
    shown = {}
    for i, name in enumerate(names):
        clock.wait(1)
        model = ("adaptive", "seasonal", "adaptive", "sine")[i % 4]
        labels = {"site": "north" if i % 3 else "south"}
        size = 1 if model == "sine" else 2
        await service.http.post("/sessions", json={"id": name, "model": model, "labels": labels})
        walk = random.standard_normal((12, size)).cumsum(axis=0).round(2).tolist()
        assert (await service.advance(name, walk)).status == 200
    for name in random.permutation(names).tolist():
        clock.wait(1)
        await service.advance(name, [[0.5] * (1 if NAMES.index(name) % 4 == 3 else 2)])
        shown[name] = await service.session(name)
    return shown


def by_value(service: Way, shown: dict[str, dict[str, Any]], order: str, *, descending: bool) -> list[str]:
    """The order that a list should have."""
    values = {
        name: value
        for name, session in shown.items()
        if service.engine.residents.find(name) is not None and (value := ORDERS[order](session)) is not None
    }
    return sorted(values, key=values.__getitem__, reverse=descending) + sorted(shown.keys() - values)


@pytest.mark.parametrize(
    ("start", "kept"),
    [("memory", "anew"), ("memory", "kept"), ("sqlite", "anew"), ("redis", "kept")],
    indirect=True,
)
async def test_a_list_has_the_resident_sessions_by_value_and_then_all_others(start, clock, kept):
    async with start() as service:
        shown = await fill(service, clock)
        resident = sum(service.engine.residents.find(name) is not None for name in NAMES)
        assert 0 < resident < len(NAMES)
        for order in ORDERS:
            for descending in (False, True):
                wanted = by_value(service, shown, order, descending=descending)
                for limit in (2, 100):
                    query = {"order": order, "descending": descending}
                    assert await listed(service, limit, **query) == wanted, (order, descending, limit)
        for limit in (3, 100):
            assert await listed(service, limit, order="name") == NAMES
            assert await listed(service, limit, order="name", descending=True) == NAMES[::-1]


@pytest.mark.parametrize("start", ["memory", "sqlite", "redis"], indirect=True)
async def test_a_list_by_id_begins_with_the_last_where_that_is_wanted(start, clock):
    """With every filter, over sessions in memory and in the store."""
    async with start() as service:
        shown = await fill(service, clock)

        async def down(limit: int, **more: Any) -> list[str]:
            return await listed(service, limit, descending=True, **more)

        north = [name for name in NAMES[::-1] if shown[name]["labels"] == {"site": "north"}]
        for limit in (2, 100):
            assert await down(limit) == NAMES[::-1]
            adaptive = [name for name in NAMES[::-1] if shown[name]["model"] == "adaptive"]
            assert await down(limit, model="adaptive") == adaptive
            assert await down(limit, prefix="s0") == NAMES[9::-1]
            assert await down(limit, label="site:north") == north
            assert await down(limit, label="site:north", prefix="s0") == [n for n in north if n < "s1"]
        page = (await service.http.get("/sessions?descending=true&after=s05&limit=2")).json()
        assert [row["session"] for row in page["sessions"]] == ["s04", "s03"]
        assert page["next"] == "s03"


@pytest.mark.parametrize(("start", "kept"), [("memory", "kept"), ("sqlite", "anew")], indirect=True)
async def test_a_list_by_value_can_be_filtered(start, clock, kept):
    async with start() as service:
        shown = await fill(service, clock)
        order = by_value(service, shown, "surprise", descending=True)
        query = {"order": "surprise", "descending": True}

        async def of(limit: int, **more: Any) -> list[str]:
            return await listed(service, limit, **query, **more)

        for limit in (2, 100):
            adaptive = [name for name in order if shown[name]["model"] == "adaptive"]
            assert await of(limit, model="adaptive") == adaptive
            assert await of(limit, model="pair") == []
            assert await of(limit, prefix="s1") == [name for name in order if name.startswith("s1")]
            assert await of(limit, prefix="s123") == []
            north = [name for name in order if shown[name]["labels"] == {"site": "north"}]
            assert await of(limit, label="site:north") == north
            assert await of(limit, label="site:north", prefix="s0") == [n for n in north if n < "s1"]
            assert await of(limit, label=["site:north", "site:south"]) == []
        page = (await service.http.get("/sessions", params={**query, "detail": True, "limit": 2})).json()
        assert [row["surprise"] for row in page["sessions"]] == [shown[n]["surprise"] for n in order[:2]]


async def test_a_session_is_listed_once_though_others_move_and_leave(start, clock, kept):
    async with start(resident_sessions=2048) as service:
        shown = await fill(service, clock)
        query = {"order": "last_seen", "descending": True, "limit": 5}
        wanted = by_value(service, shown, "last_seen", descending=True)
        first = (await service.http.get("/sessions", params=query)).json()
        assert [row["session"] for row in first["sessions"]] == wanted[:5]
        gone, again = wanted[7], wanted[8]
        await service.http.delete(f"/sessions/{gone}")
        await service.http.delete(f"/sessions/{again}")
        clock.wait(1)
        body = {"id": again, "model": shown[again]["model"]}
        await service.http.post("/sessions", json=body)  # another session, at the row of before
        await service.http.post("/sessions", json={"id": "new"})
        rest = await listed(service, **query | {"cursor": first["next"], "limit": 100})
        assert rest == [name for name in wanted[5:] if name not in (gone, again)]


async def test_sessions_with_the_same_value_are_each_on_one_page(start, kept):
    names = [f"t{i:03}" for i in range(40)]
    async with start(resident_sessions=2048, bulk_sessions=64) as service:
        body = {"sessions": names, "observations": [[0.5]] * len(names)}
        assert (await service.http.post("/observations", json=body)).status_code == 200
        for limit in (1, 7, 100):
            up = await listed(service, limit, order="last_seen")
            assert sorted(up) == names
            assert await listed(service, limit, order="last_seen", descending=True) == up[::-1]


async def test_a_tenant_sees_its_own_sessions_whatever_the_cursor_says(
    tmp_path, zoo_folder, clock, monkeypatch, kept
):
    keys = Keys(tmp_path)
    for name, role in (("ours", "stream"), ("ours2", "stream"), ("boss", "admin")):
        keys.add(name, role)
    start = starter(HotRoute, "memory", zoo_folder, clock, tmp_path, monkeypatch)
    async with start(api_keys_file=keys.path) as service:
        for i in range(6):
            clock.wait(1)
            for tenant in ("ours", "ours2"):
                body = {"id": f"{tenant}-{i}"}
                made = await service.http.post("/sessions", json=body, headers=keys.headers(tenant))
                assert made.status_code == 201
        query = {"order": "last_seen", "descending": True}
        service.http.headers = keys.headers("ours2")
        theirs = (await service.http.get("/sessions", params={**query, "limit": 3})).json()["next"]
        service.http.headers = keys.headers("ours")
        assert await listed(service, 2, **query) == [f"ours-{i}" for i in range(5, -1, -1)]
        rest = await listed(service, **query | {"cursor": theirs})
        assert rest == [f"ours-{i}" for i in (2, 1, 0)] or rest == [f"ours-{i}" for i in (3, 2, 1, 0)]
        assert await listed(service, **query | {"cursor": "nours2-0"}) == []
        assert await listed(service, **query | {"cursor": "n../ours2/"}) == []
        assert await listed(service, 2, descending=True) == [f"ours-{i}" for i in range(5, -1, -1)]
        page = (await service.http.get("/sessions?descending=true&after=~")).json()
        assert [row["session"] for row in page["sessions"]] == [f"ours-{i}" for i in range(5, -1, -1)]
        service.http.headers = {**keys.headers("boss"), "carryover-tenant": "*"}
        everything = await listed(service, 5, **query)
        assert len(everything) == 12
        by_name = await listed(service, 5, descending=True)
        assert by_name == sorted(by_name, reverse=True)
        assert set(by_name) == set(everything)
        assert {name.rpartition("-")[2] for name in everything[:2]} == {"5"}


async def test_a_list_that_cannot_be_is_refused(start):
    async with start() as service:
        for query in (
            {"order": "position"}, {"descending": "down"}, {"order": "error", "after": "a"},
            {"cursor": "a", "after": "a"}, {"order": "error", "cursor": "x"},
            {"order": "error", "cursor": "r" + "0" * 31}, {"order": "error", "cursor": "r7ff8" + "0" * 28},
            {"order": "error", "cursor": "s00"}, {"order": "error", "cursor": "n" * 201},
        ):  # fmt: skip
            refused = await service.http.get("/sessions", params=query)
            assert check_problem(refused)["status"] == 422, query


async def test_workers_merge_their_sessions_by_value(tmp_path, zoo_folder, clock, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    names = [name for pair in zip(owned(0, 4), owned(1, 4), strict=True) for name in pair]
    async with two_workers(HttpRoute, tmp_path, zoo_folder) as both:
        for engine in both.engines:
            engine.clock = clock
        for name in [*names, names[2]]:
            clock.wait(1)
            await both.ways[0].advance(name, [[0.5]])
        wanted = [*names[:2], *names[3:], names[2]]
        for service in both.ways:
            for limit in (1, 3, 100):
                assert await listed(service, limit, order="last_seen") == wanted
                assert await listed(service, limit, order="last_seen", descending=True) == wanted[::-1]
                assert await listed(service, limit, order="surprise") == sorted(names)
                assert await listed(service, limit, descending=True) == sorted(names, reverse=True)
