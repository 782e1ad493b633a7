"""Labels are a part of their session, and the list finds sessions by them, in every store."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from app import server
from app.session.notes import MAX_LABELS
from tests.helpers.locked import Keys
from tests.helpers.services import Start, starter
from tests.helpers.two_workers import owned, two_workers
from tests.helpers.ways import AsgiRoute, HotRoute, HttpRoute, Way, check_problem

pytestmark = pytest.mark.anyio
NORTH = {"site": "north", "kind": "pump"}


@pytest.fixture(params=["memory", "through", "sqlite", "redis"])
def start(request, zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """Every store, with so little memory that most sessions are not resident."""
    if request.param == "redis":
        request.getfixturevalue("redis_url")
    begin = starter(AsgiRoute, request.param, zoo_folder, clock, tmp_path, monkeypatch)

    def start(**changes: Any) -> AbstractAsyncContextManager[Way]:
        small = {"resident_sessions": 4, "batch_sessions": 4, "bulk_sessions": 4}
        return begin(**({"workers": 1} | small | changes))

    return start


async def labels(service: Way, session: str) -> dict[str, str]:
    found: dict[str, str] = (await service.session(session))["labels"]
    return found


async def change(service: Way, session: str, **body: Any) -> dict[str, Any]:
    response = await service.http.patch(f"/sessions/{session}", json=body)
    assert response.status_code == 200, response.text
    changed: dict[str, Any] = response.json()
    return changed


async def listed(service: Way, *wanted: str, **query: Any) -> list[str]:
    """All pages of a list."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        response = await service.http.get("/sessions", params={"label": wanted, "after": after, **query})
        assert response.status_code == 200, response.text
        page = response.json()
        found += [entry["session"] for entry in page["sessions"]]
        after = page["next"]
    return found


async def test_labels_are_kept_wherever_a_session_goes(start):
    async with start() as service:
        await service.http.post("/sessions", json={"id": "a", "labels": NORTH})
        chunk = {"observations": [[0.1], [0.2]], "labels": {"site": "south"}}
        assert (await service.http.post("/sessions/b/observations", json=chunk)).status_code == 200
        for i in range(6):  # all of them leave memory
            await service.advance(f"other-{i}", [[0.1]])
        assert await labels(service, "a") == NORTH
        assert await labels(service, "b") == {"site": "south"}
        for _ in range(2):
            await service.advance("a", [[0.1]])
        await service.http.post("/sessions/a/observations", json=chunk)  # it exists: its labels stay
        await service.http.post("/sessions/a/reset")
        await service.http.post("/sessions/a/fork", json={"id": "copy"})
        state = (await service.http.get("/sessions/a/state")).content
        await service.http.put("/sessions/restored/state", content=state)
        for session in ("a", "copy", "restored"):
            assert await labels(service, session) == NORTH
            await service.http.delete(f"/sessions/{session}")
        assert await listed(service, "site:north") == []
        await service.advance("a", [[0.1]])
        assert await labels(service, "a") == {}  # a new session with an old name


async def test_a_change_of_labels_moves_nothing_else(start, clock):
    async with start() as service:
        await service.http.post("/sessions", json={"id": "a", "labels": NORTH, "ttl_seconds": 60})
        await service.advance("a", [[0.1]])
        before = await service.session("a")
        clock.wait(20)
        changed = await change(service, "a", labels={"site": "süd west", "kind": None, "line": "4"}, at=1)
        assert changed == before | {"labels": {"site": "süd west", "line": "4"}}
        assert (await service.advance("a", [[0.2]], 1)).position == 2
        assert await labels(service, "a") == {"site": "süd west", "line": "4"}
        assert (await service.http.patch("/sessions/a", json={"at": 5, "labels": {}})).status_code == 409
        assert (await change(service, "a", labels={}))["labels"] == {"site": "süd west", "line": "4"}
        assert (await change(service, "a", labels=None))["labels"] == {}
        assert (await service.http.patch("/sessions/nobody", json={"labels": {}})).status_code == 404


async def test_the_list_has_the_sessions_with_all_the_labels_resident_or_not(start, monkeypatch):
    for module in ("app.session.label_index", "app.engine.listing", "app.stores.memory",
                   "app.stores.sqlite.tables", "app.stores.redis.label_listing"):  # fmt: skip
        monkeypatch.setattr(f"{module}.MAX_CANDIDATES", 3)  # several looks at the index make a page
    sites = {f"s{i:02}": "north" if i % 2 else "south" for i in range(20)}
    async with start() as service:
        for i, (name, site) in enumerate(sites.items()):
            body = {"id": name, "labels": {"site": site, "kind": "pump" if i % 5 == 1 else "fan"}}
            await service.http.post("/sessions", json=body | ({"model": "pair"} if i == 7 else {}))
        await service.http.post("/sessions", json={"id": "plain"})
        north = [name for name, site in sites.items() if site == "north"]
        for limit in (1, 2, 3, 100):
            assert await listed(service, "site:north", limit=limit) == north
            assert await listed(service, "site:north", "kind:pump", limit=limit) == ["s01", "s11"]
            assert await listed(service, "site:north", prefix="s1", limit=limit) == north[5:]
            assert await listed(service, "site:north", model="pair", limit=limit) == ["s07"]
        assert await listed(service, "site:nowhere") == []
        await change(service, "s03", labels={"site": "south"})
        await change(service, "s04", labels={"site": "north"})
        await change(service, "plain", labels={"site": "north"})
        await service.http.delete("/sessions/s05")
        assert await listed(service, "site:north", limit=4) == sorted(
            {*north, "s04", "plain"} - {"s03", "s05"}
        )
        shown = await service.http.get(
            "/sessions", params={"label": "site:north", "detail": True, "limit": 1}
        )
        assert shown.json()["sessions"][0]["labels"]["site"] == "north"


@pytest.mark.parametrize("start", ["sqlite", "redis"], indirect=True)
async def test_labels_survive_a_restart(start):
    async with start() as service:
        await service.http.post("/sessions", json={"id": "a", "labels": NORTH})
        await service.http.post("/sessions", json={"id": "b", "labels": NORTH})
        await change(service, "b", labels={"site": "south"})
    async with start() as service:
        assert await listed(service, "site:north") == ["a"]
        assert await listed(service, "kind:pump") == ["a", "b"]
        await service.advance("a", [[0.1]])
        assert await labels(service, "a") == NORTH
    async with start() as service:
        await service.http.delete("/sessions/a")
        assert await listed(service, "kind:pump") == ["b"]


@pytest.mark.parametrize(
    "wrong",
    [
        {f"name{i}": "x" for i in range(MAX_LABELS + 1)},
        {"": "x"}, {"a:b": "x"}, {"é": "x"}, {"n" * 65: "x"},
        {"site": "x" * 129}, {"site": "ü" * 65}, {"site": "a\nb"}, {"site": "\u202e"}, {"site": 7},
        {"site": None},
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["memory"], indirect=True)
async def test_labels_have_limits(start, wrong):
    async with start() as service:
        for path, body in (
            ("/sessions", {"id": "a", "labels": wrong}),
            ("/sessions/a/observations", {"observations": [0.1], "labels": wrong}),
        ):
            problem = check_problem(await service.http.post(path, json=body))
            assert problem["status"] == 422
            assert "label" in problem["detail"]
        assert (await service.http.get("/sessions/a")).status_code == 404
        for label in ("north", "si te:x", "site:a\nb"):
            refused = await service.http.get("/sessions", params={"label": label})
            assert check_problem(refused)["status"] == 422


async def test_a_tenant_lists_its_own_labelled_sessions(tmp_path, zoo_folder, clock, monkeypatch):
    keys = Keys(tmp_path)
    for name, role in (("ours", "stream"), ("theirs", "stream"), ("boss", "admin")):
        keys.add(name, role)
    start = starter(HotRoute, "memory", zoo_folder, clock, tmp_path, monkeypatch)
    async with start(api_keys_file=keys.path) as service:
        for tenant in ("ours", "theirs"):
            body = {"id": f"{tenant}-1", "labels": NORTH}
            await service.http.post("/sessions", json=body, headers=keys.headers(tenant))
        service.http.headers = keys.headers("ours")
        assert await listed(service, "site:north") == ["ours-1"]
        service.http.headers = {**keys.headers("boss"), "carryover-tenant": "*"}
        assert await listed(service, "site:north", limit=1) == ["ours/ours-1", "theirs/theirs-1"]


async def test_workers_list_each_others_labelled_sessions(tmp_path, zoo_folder, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    here, there = owned(0, 3), owned(1, 3)
    async with two_workers(HttpRoute, tmp_path, zoo_folder) as both:
        for name in here + there:
            await both.ways[0].http.post("/sessions", json={"id": name, "labels": NORTH})
        await both.ways[0].http.post(f"/sessions/{here[0]}/fork", json={"id": there[0] + "-copy"})
        for service in both.ways:
            for limit in (1, 2, 100):
                found = await listed(service, "site:north", "kind:pump", limit=limit)
                assert found == sorted([*here, *there, there[0] + "-copy"])
        await change(both.ways[0], there[0], labels={"site": None})
        assert there[0] not in await listed(both.ways[1], "site:north")
