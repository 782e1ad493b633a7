"""One contract, every store: what the engine may count on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.stores import Record, Store, Tombstone
from app.stores.memory import MemoryStore
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from app.stores.sqlite.store import SqliteStore
from tests.helpers.records import blocks
from tests.helpers.redis_server import needs_redis

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

    def test_what_is_committed_is_loaded(self, store, settle):
        records = [record("a"), record("b", deadline=2e9 + 0.125), record("c", fingerprint="0" * 64)]
        store.commit(blocks(records), [])
        settle()
        assert sorted(store.load(["c", "a", "b"])[0], key=lambda found: found.session) == records

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
        assert store.names("", 3) == [("b", PRINT), ("c", "0" * 64), ("d", PRINT)]
        assert store.names("d", 3) == [("e", PRINT)]
        assert store.names("e", 3) == []

    def test_the_expired_are_found_and_no_others(self, store, clock, settle):
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


class TestMemory(StoreContract):
    @pytest.fixture
    def store(self, clock) -> Store:
        return MemoryStore(MOST_TOMBSTONES, TOMBSTONE_SECONDS, clock)

    def test_a_loaded_record_leaves_the_store(self, store):
        store.commit(blocks([record("a")]), [])
        store.load(["a"])
        assert (len(store), store.load(["a"])) == (0, ([], {}))


@pytest.fixture(params=[0.0, 0.25], ids=["commit", "250ms"])
def period(request) -> float:
    return request.param


class TestSqlite(StoreContract):
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
        result = again.load(["a", "b", "c"]), again.names("", 9), again.expired(9.0, 9), len(again)
        again.close()
        names = [("b", PRINT), ("c", PRINT), ("d", PRINT)]
        assert result == (([record("b", 2), record("c")], {"a": tombstone}), names, ["d"], 3)


@needs_redis
class TestRedis(StoreContract):
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
