"""One contract, every store: what the engine may count on."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from app.errors import StoreFailed
from app.stores import NamePage, NamesQuery, Record, Store, Tombstone, any_model
from app.stores.memory import MemoryStore
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from app.stores.sqlite.store import SqliteStore
from tests.helpers.records import blocks, labelled, list_sessions
from tests.helpers.redis_server import RedisServer, needs_redis

PRINT = "f" * 64
NEVER = float("inf")
MOST_TOMBSTONES, TOMBSTONE_SECONDS = 3, 100.0


class Clock:
    """Seconds since 1970, which pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def record(session: str, position: int = 1, deadline: float = NEVER, fingerprint: str = PRINT) -> Record:
    return Record(session, fingerprint, deadline, f"{session} at {position}".encode() * 50, position)


class StoreContract:
    """Subclasses say how a store is opened; `settle` brings all upkeep up to date, so that both ways show."""

    @pytest.fixture(params=["at once", "after upkeep"])
    def settle(self, request, store: Store) -> Callable[[], None]:
        def settle() -> None:
            for _ in range(4 if request.param == "after upkeep" else 0):
                store.tend()

        return settle

    def test_committed_records_are_loaded(self, store, settle):
        records = [record("a"), record("b", deadline=2e9 + 0.125), record("c", fingerprint="0" * 64)]
        store.commit(blocks(records), [])
        settle()
        assert sorted(store.load(["c", "a", "b"])[0], key=lambda found: found.session) == records

    @pytest.mark.parametrize("deadline", [1e15, 1e305])
    def test_a_record_that_cannot_be_written_is_named_and_the_others_can_be(self, store, settle, deadline):
        """Either it is kept like any other, or the commit fails as a whole and the session is named."""
        written = [record("good"), record("far", deadline=deadline), record("later", deadline=2e9)]
        try:
            store.commit(blocks(written), [])
        except (StoreFailed, ValueError):
            assert set(store.unwritable(blocks(written))) == {"far"}
            assert store.load(["good", "far", "later"]) == ([], {})
            written = [record("good"), record("later", deadline=2e9)]
            store.commit(blocks(written), [])
        assert store.unwritable(blocks(written)) == {}
        settle()
        found, others = store.load(["good", "far", "later"])
        assert sorted(found, key=lambda loaded: loaded.session) == sorted(
            written, key=lambda kept: kept.session
        )
        assert others == {}

    def test_the_newest_of_a_session_is_loaded(self, store, settle):
        store.commit(blocks([record("a", 1)]), [])
        settle()
        store.commit(blocks([record("a", 2)]), [])
        store.commit(blocks([record("a", 3)]), [])
        settle()
        assert store.load(["a"])[0] == [record("a", 3)]

    def test_a_session_that_never_existed_has_no_record_and_no_tombstone(self, store, settle):
        store.commit(blocks([record("a")]), [])
        settle()
        assert store.load(["b", "a b"]) == ([], {})
        assert store.load([]) == ([], {})

    def test_a_tombstone_removes_the_record_and_is_remembered(self, store, clock, settle):
        store.commit(blocks([record("a", 7), record("b")]), [])
        settle()
        tombstone = Tombstone("a", 7, "deleted", clock.now + 0.25)
        store.commit([], [tombstone])
        settle()
        assert store.load(["a", "b"]) == ([record("b")], {"a": tombstone})

    def test_a_session_created_again_has_no_tombstone(self, store, clock, settle):
        store.commit(blocks([record("a", 7)]), [])
        store.commit([], [Tombstone("a", 7, "deleted", clock.now)])
        settle()
        store.commit(blocks([record("a", 1)]), [])
        settle()
        assert store.load(["a"]) == ([record("a", 1)], {})

    def test_tombstones_are_bounded_in_number(self, store, clock, settle):
        for i in range(MOST_TOMBSTONES + 2):
            store.commit(blocks([record(f"s{i}")]), [])
            store.commit([], [Tombstone(f"s{i}", i, "expired", clock.now)])
        settle()
        assert sorted(store.load([f"s{i}" for i in range(5)])[1]) == ["s2", "s3", "s4"]

    def test_tombstones_are_forgotten_with_age(self, store, clock, settle):
        store.commit(blocks([record("a")]), [])
        store.commit([], [Tombstone("a", 1, "expired", clock.now)])
        clock.now += TOMBSTONE_SECONDS - 1
        settle()
        assert "a" in store.load(["a"])[1]
        clock.now += 2
        settle()
        assert store.load(["a"]) == ([], {})

    def test_names_come_in_order_and_in_pages(self, store, clock, settle):
        store.commit(blocks([record(name) for name in ("b", "d", "a")]), [])
        settle()
        store.commit(
            blocks([record("c", fingerprint="0" * 64), record("e")]),
            [Tombstone("a", 1, "deleted", clock.now)],
        )
        settle()
        assert list_sessions(store, "", 3) == [("b", PRINT), ("c", "0" * 64), ("d", PRINT)]
        assert list_sessions(store, "d", 3) == [("e", PRINT)]
        assert list_sessions(store, "e", 3) == []

    def test_names_are_listed_by_prefix_and_by_model(self, store, settle):
        other = "0" * 64
        store.commit(
            blocks([record(name) for name in ("acme/a1", "acme/a2", "acme/b", "zoo/a1", "a", "acmf")]), []
        )
        store.commit(blocks([record(name, fingerprint=other) for name in ("acme/a3", "acme/c", "zoo/b")]), [])
        settle()
        everything = ["a", "acme/a1", "acme/a2", "acme/a3", "acme/b", "acme/c", "acmf", "zoo/a1", "zoo/b"]
        assert [name for name, _ in list_sessions(store, "", 99)] == everything
        assert [name for name, _ in list_sessions(store, "", 3, "acme/")] == everything[1:4]
        assert [name for name, _ in list_sessions(store, "acme/a3", 99, "acme/")] == everything[4:6]
        assert [name for name, _ in list_sessions(store, "", 99, "acme/a")] == everything[1:4]
        assert list_sessions(store, "", 99, fingerprint_filter=other.__eq__) == [
            ("acme/a3", other), ("acme/c", other), ("zoo/b", other),
        ]  # fmt: skip
        assert list_sessions(store, "acme/a3", 1, "acme/", other.__eq__) == [("acme/c", other)]
        assert list_sessions(store, "", 99, "zoo/c") == []
        assert list_sessions(store, "", 99, fingerprint_filter="1".__eq__) == []
        down = partial(list_sessions, store, descending=True)
        assert [name for name, _ in down("", 99)] == everything[::-1]
        assert [name for name, _ in down("", 3, "acme/")] == everything[5:2:-1]
        assert [name for name, _ in down("acme/a3", 99, "acme/")] == everything[2:0:-1]
        assert [name for name, _ in down("zoo/a1", 2)] == everything[6:4:-1]
        assert down("acme/c", 1, "acme/", other.__eq__) == [("acme/a3", other)]
        assert down("acme/a1", 99, "acme/") == down("", 99, "zoo/c") == []

    def test_sessions_with_labels_are_listed_in_both_directions(self, store, settle):
        names = [f"s{i:02}" for i in range(12)]
        records = [labelled(name, "site:north", *["line:2"] * (i % 3 == 0)) for i, name in enumerate(names)]
        store.commit(blocks(records), [])
        settle()
        for labels, wanted in ((("site:north",), names), (("line:2", "site:north"), names[::3])):
            for descending in (False, True):
                found, after = [], ""
                while after is not None:
                    page = store.names(NamesQuery(after, 5, "s", labels=labels, descending=descending))
                    assert len(page.found) <= 5
                    found += [name for name, _ in page.found]
                    after = page.end
                assert found == (wanted[::-1] if descending else wanted)
        assert not store.names(NamesQuery("s03", 5, "s1", labels=("site:north",), descending=True)).found

    def test_a_session_that_moves_to_another_model_is_listed_under_that_alone(self, store, settle):
        other = "0" * 64
        store.commit(blocks([record("a"), record("b")]), [])
        settle()
        store.load(["a", "b"])
        store.commit(blocks([record("a", 2, fingerprint=other), record("b", 2)]), [])
        settle()
        assert list_sessions(store, "", 9) == [("a", other), ("b", PRINT)]
        assert list_sessions(store, "", 9, fingerprint_filter=PRINT.__eq__) == [("b", PRINT)]

    def test_only_expired_sessions_are_found(self, store, clock, settle):
        store.commit(
            blocks([record("a", deadline=clock.now + 5), record("b"), record("c", deadline=clock.now + 9)]),
            [],
        )
        settle()
        assert store.expired(clock.now + 4, 10) == []
        assert store.expired(clock.now + 6, 10) == ["a"]

    def test_no_more_expired_sessions_are_found_than_the_limit(self, store, clock, settle):
        store.commit(blocks([record(name, deadline=clock.now - 1) for name in "abc"]), [])
        settle()
        assert len(store.expired(clock.now, 2)) == 2

    def test_a_session_that_was_used_again_has_not_expired(self, store, clock, settle):
        store.commit(blocks([record("a", 1, deadline=clock.now + 1)]), [])
        settle()
        store.load(["a"])
        store.commit(blocks([record("a", 2, deadline=clock.now + 9)]), [])
        assert store.expired(clock.now + 2, 10) == []
        settle()
        assert store.expired(clock.now + 2, 10) == []

    def test_its_length_is_the_number_of_sessions(self, store, clock, settle):
        store.commit(blocks([record("a"), record("b")]), [])
        settle()
        store.commit(blocks([record("b", 2), record("c")]), [])
        assert len(store) == 3
        settle()
        store.commit([], [Tombstone("a", 1, "deleted", clock.now)])
        settle()
        assert len(store) == 2

    def test_its_length_is_right_at_every_moment_of_every_call(self, store, clock):
        """The engine asks for it while a thread is in the store."""
        if not store.may_block:
            pytest.skip("no thread calls this store")
        expected = 0
        for changes, tombstones, length in (
            ([record("a"), record("b", deadline=clock.now - 1), record("c")], [], 3),
            ([record("a", 2)], [], 3),
            ([], [Tombstone("b", 1, "expired", clock.now), Tombstone("c", 1, "deleted", clock.now)], 1),
            ([record("b", 2)], [], 2),
        ):
            store.load([changed.session for changed in [*changes, *tombstones]])
            lengths = lengths_during(store, partial(store.commit, blocks(changes), tombstones))
            assert lengths <= {expected, length}
            expected = length
            for upkeep in (store.tend, partial(store.names, NamesQuery("", 9)), store.tend):
                assert lengths_during(store, upkeep) == {expected}


def lengths_during(store: Store, call: Callable[[], object]) -> set[int]:
    """What the store's length is before each line of Python that a call runs, and behind it."""
    found: set[int] = set()
    trace_lines(call, lambda: found.add(store.__len__()))  # unlike len(), also below 0
    return found | {len(store)}


def steps_of(call: Callable[[], object]) -> int:
    """Lines of Python that a call runs."""
    lines: list[None] = []
    trace_lines(call, partial(lines.append, None))
    return len(lines)


def trace_lines(call: Callable[[], object], before_each: Callable[[], object]) -> None:
    """Run a call, and another before each line of Python of it."""

    def trace(*_: object) -> object:
        before_each()
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)


LISTINGS: list[tuple[str, int, str, Callable[[str], bool]]] = [
    ("", 10, "", any_model),
    ("tenant-1/s-000", 10, "tenant-1/", any_model),
    ("", 10, "", "0".__eq__),
    ("", 10, "nobody/", any_model),
    ("", 1, "tenant-2/", "1".__eq__),
]


def fill(store: Store, start: int, end: int) -> None:
    """Sessions of 3 tenants and 2 models."""
    for first in range(start, end, 500):
        numbers = range(first, min(first + 500, end))
        records = [record(f"tenant-{i % 3}/s-{i:05}", fingerprint=PRINT[i % 2 :]) for i in numbers]
        store.commit(blocks(records), [])


def test_a_merged_page_ends_where_the_first_of_its_pages_does():
    """Behind that, the page that ended may have left out a session that comes before those of the others."""

    def page(names: str, end: str | None) -> NamePage:
        return NamePage([(name, PRINT) for name in names], end)

    up = [page("ad", "d"), page("bz", None), page("c", "c")]
    assert NamePage.merge(up, 9) == page("abc", "c")
    assert NamePage.merge(up, 2) == page("ab", "b")
    assert NamePage.merge([up[1], page("y", None)], 9) == page("byz", None)
    down = [page("da", "a"), page("zb", None), page("c", "c")]
    assert NamePage.merge(down, 9, descending=True) == page("zdc", "c")
    assert NamePage.merge(down, 2, descending=True) == page("zd", "d")


class TestMemory(StoreContract):
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_the_work_of_a_page_does_not_grow_with_the_number_of_sessions(self, store, listing):
        def work() -> list[int]:
            page = partial(list_sessions, store, *listing)
            return [steps_of(partial(page, descending=down)) for down in (False, True)]

        fill(store, 0, 200)
        before = work()
        fill(store, 200, 4000)
        assert work() == before

    @pytest.fixture
    def store(self, clock) -> Store:
        return MemoryStore(MOST_TOMBSTONES, TOMBSTONE_SECONDS, clock)

    def test_sessions_that_come_and_go_leave_nothing_behind_and_expire(self, store, clock):
        for i in range(20):
            store.commit(blocks([record(name, deadline=clock.now + i) for name in "ab"]), [])
            store.load(["a", "b"])
        store.commit(blocks([record("a", deadline=clock.now + 1), record("b", deadline=clock.now + 3)]), [])
        assert len(store._deadlines) == 2
        assert store.expired(clock.now + 2, 10) == ["a"]

    def test_a_loaded_record_leaves_the_store(self, store):
        store.commit(blocks([record("a")]), [])
        store.load(["a"])
        assert (len(store), store.load(["a"])) == (0, ([], {}))


@pytest.fixture(params=[0.0, 0.25], ids=["commit", "250ms"])
def period(request) -> float:
    return request.param


class TestSqlite(StoreContract):
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_the_work_of_a_page_does_not_grow_with_the_number_of_sessions(self, store, listing):
        def work(*, descending: bool) -> int:
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            store._database.set_progress_handler(step, 1)
            list_sessions(store, *listing, descending=descending)
            store._database.set_progress_handler(None, 1)
            return count

        fill(store, 0, 200)
        list_sessions(store, "", 1)
        before = {descending: work(descending=descending) for descending in (False, True)}
        fill(store, 200, 4000)
        list_sessions(store, "", 1)
        for descending, steps in before.items():
            assert work(descending=descending) <= 1.1 * steps

    @pytest.fixture
    def store(self, clock, tmp_path: Path, period) -> Iterator[Store]:
        store = SqliteStore(tmp_path / "carryover.sqlite", MOST_TOMBSTONES, TOMBSTONE_SECONDS, period, clock)
        yield store
        store.close()

    @pytest.mark.parametrize("tends", [0, 1, 4])
    def test_all_of_it_is_there_after_a_restart(self, store, clock, tmp_path, period, tends):
        tombstone = Tombstone("a", 1, "expired", clock.now)
        store.commit(blocks([record("a"), record("b"), record("d", deadline=5.0)]), [])
        for _ in range(tends):
            store.tend()
        store.commit(blocks([record("b", 2), record("c")]), [tombstone])
        store.close()
        again = SqliteStore(store.path, MOST_TOMBSTONES, TOMBSTONE_SECONDS, period, clock)
        result = again.load(["a", "b", "c"]), list_sessions(again, "", 9), again.expired(9.0, 9), len(again)
        again.close()
        names = [("b", PRINT), ("c", PRINT), ("d", PRINT)]
        assert result == (([record("b", 2), record("c")], {"a": tombstone}), names, ["d"], 3)


@needs_redis
class TestRedis(StoreContract):
    @pytest.mark.parametrize("listing", LISTINGS)
    def test_the_work_of_a_page_does_not_grow_with_the_number_of_sessions(self, store, all_servers, listing):
        def work() -> Counter[str]:
            for server in all_servers:
                server.ask("CONFIG", "RESETSTAT")
            for descending in (False, True):
                list_sessions(store, *listing, descending=descending)
            calls: Counter[str] = Counter()
            for server in all_servers:
                found = re.findall(r"cmdstat_(\w+):calls=(\d+)", server.ask("INFO", "commandstats"))
                calls.update({name: int(count) for name, count in found})
            return calls

        fill(store, 0, 200)
        before = work()
        fill(store, 200, 4000)
        assert work() == before
        assert before.keys() <= {
            "evalsha", "smembers", "zrangebylex", "zrevrangebylex", "getrange", "asking",
        }  # fmt: skip
        assert before["smembers"] == 2
        assert before["getrange"] <= 2 * listing[1]

    @pytest.fixture
    def all_servers(self, redis_server) -> list[RedisServer]:
        return [redis_server]

    @pytest.fixture
    def store(self, clock, redis_url) -> Iterator[Store]:
        store = RedisStore(parse_url(redis_url), TOMBSTONE_SECONDS, clock=clock)
        yield store
        store.close()

    def test_a_session_created_again_has_no_tombstone(self, store, clock, settle):
        """Once its maker has seen the tombstone: a store that is shared takes nothing made in ignorance."""
        store.commit(blocks([record("a", 7)]), [])
        store.commit([], [Tombstone("a", 7, "deleted", clock.now)])
        settle()
        assert store.commit(blocks([record("a", 1)]), []) == {"a": None}
        store.load(["a"])
        assert store.commit(blocks([record("a", 1)]), []) == {}
        settle()
        assert store.load(["a"]) == ([record("a", 1)], {})

    def test_tombstones_are_bounded_in_number(self, store, clock, settle):
        """By time alone: a bound in number would need an order of burials across all servers."""
        store.commit(blocks([record("a")]), [])
        store.commit([], [Tombstone("a", 1, "expired", clock.now)])
        settle()
        kept = store._servers.primaries()[0].ask("PTTL", "carryover:{a}")
        assert 0 < kept <= 1000 * TOMBSTONE_SECONDS
