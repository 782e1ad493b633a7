"""A list takes the event loop for one slice at a time, however long it is and however many clients list."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from app.api.routes.sessions import DETAILED_AT_ONCE
from app.engine.listing import SLICE_NAMES, Listing
from app.jobs.session_query import SessionQuery
from app.stores import NamePage, NamesQuery

pytestmark = pytest.mark.anyio

NAMES = [f"s{i:04}" for i in range(3 * SLICE_NAMES + 5)]


@pytest.fixture
def store() -> str:
    return "memory"


class Turns:
    """Counts the iterations of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._count)

    def _count(self) -> None:
        self.count += 1
        self._loop.call_soon(self._count)


def listing_of(names: list[str], calls: list[tuple[int, int]], turns: Turns) -> Listing:
    """A list of these sessions; `calls` gets the turn of each call of the store, and its limit."""

    def page(query: NamesQuery) -> NamePage:
        assert not query.descending
        calls.append((turns.count, query.limit))
        models = ["f"] if query.fingerprint_filter("f") else []
        return query.merge([(name, model) for name in names if name > query.after] for model in models)

    async def call_store(function: Any, *arguments: Any) -> Any:
        return function(*arguments)

    models = SimpleNamespace(model_of=lambda fingerprint: "model", slabs={})
    store = SimpleNamespace(names=page, writes_through=True)
    residents: Any = SimpleNamespace(models=models, store=store, call_store=call_store)
    return Listing(residents)


async def test_one_slice_of_one_list_is_read_in_an_iteration_of_the_loop():
    calls: list[tuple[int, int]] = []
    listing = listing_of(NAMES, calls, Turns())
    pages = await asyncio.gather(*(listing.by_name(SessionQuery(), "", len(NAMES) - 1) for _ in range(4)))
    assert pages == [NamePage([(name, "model") for name in NAMES[:-1]], NAMES[-2])] * 4
    turns = [turn for turn, _ in calls]
    assert len(turns) == len(set(turns)) == 4 * 4
    assert max(limit for _, limit in calls) == SLICE_NAMES


@pytest.mark.parametrize("limit", [1, SLICE_NAMES - 1, SLICE_NAMES, SLICE_NAMES + 1, 1000])
async def test_a_list_in_slices_is_the_whole_list(limit):
    for count in (0, 1, SLICE_NAMES, len(NAMES)):
        listing = listing_of(NAMES[:count], [], Turns())
        page = await listing.by_name(SessionQuery(), "s0000", limit)
        assert [name for name, _ in page.found] == NAMES[1:count][:limit]
        assert await listing.by_name(SessionQuery(model="other"), "", limit) == NamePage([], None)


async def test_a_page_with_details_is_read_in_small_batches(start_http):
    async with start_http() as service:
        names = [f"s{i:03}" for i in range(40)]
        body = {"sessions": names, "observations": [[0.5]] * len(names)}
        assert (await service.http.post("/observations", json=body)).status_code == 200
        sizes, admit = [], service.engine._admission.admit
        service.engine._admission.admit = lambda batch: sizes.append(len(batch.jobs)) or admit(batch)
        page = (await service.http.get("/sessions?detail=true")).json()
        assert [(row["session"], row["position"]) for row in page["sessions"]] == [
            (name, 1) for name in names
        ]
        assert sum(sizes) == len(names)
        assert max(sizes) == DETAILED_AT_ONCE
