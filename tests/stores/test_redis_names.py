"""The index of names in Redis: what other replicas list, what is repaired, and which servers are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.errors import ConfigError, StoreFailed
from app.stores import NamesQuery, Record, Tombstone
from app.stores.redis import name_index, values
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from benchmarks.ports import free_port
from tests.helpers.records import blocks, labelled, list_sessions
from tests.helpers.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

NEVER = float("inf")
PRINT, OTHER = "f" * 64, "0" * 64


def record(session: str, position: int = 1, fingerprint: str = PRINT, deadline: float = NEVER) -> Record:
    return Record(session, fingerprint, deadline, b"a body", position)


@pytest.fixture
def stores(redis_url) -> Iterator[list[RedisStore]]:
    """Two replicas' stores on one server."""
    both = [RedisStore(parse_url(redis_url), 1000.0) for _ in range(2)]
    yield both
    for store in both:
        store.close()


def listed(store: RedisStore) -> list[str]:
    return [name for name, _ in list_sessions(store, "", 100)]


def walk(store: RedisStore) -> None:
    """One look at every key, as the sweep takes it slice by slice."""
    while True:
        store.expired(0.0, 10)
        if not store._scan._cursor:
            return


def test_sessions_that_one_replica_creates_or_deletes_appear_in_the_others_list_at_once(stores):
    here, there = stores
    here.commit(blocks([record("a"), record("b"), record("c", fingerprint=OTHER)]), [])
    assert list_sessions(there, "", 9) == [("a", PRINT), ("b", PRINT), ("c", OTHER)]
    there.load(["a"])
    there.commit([], [Tombstone("a", 1, "deleted", 1e9)])
    assert listed(here) == listed(there) == ["b", "c"]


def test_a_session_that_another_replica_moved_to_another_model_is_listed_once(stores):
    here, there = stores
    here.commit(blocks([record("a"), record("b")]), [])
    there.load(["a"])
    there.commit(blocks([record("a", 2, OTHER)]), [])
    assert list_sessions(here, "", 9) == [("a", OTHER), ("b", PRINT)]
    assert list_sessions(here, "", 9, fingerprint_filter=PRINT.__eq__) == [("b", PRINT)]


def test_a_commit_of_known_sessions_writes_no_names(stores, redis_server):
    store = stores[0]
    store.commit(blocks([record("a"), record("b")]), [])
    redis_server.ask("CONFIG", "RESETSTAT")
    store.commit(blocks([record("a", 2), record("b", 2)]), [])
    assert "cmdstat_zadd" not in redis_server.ask("INFO", "commandstats")


def test_sessions_of_a_version_without_an_index_are_listed_from_the_start(stores, redis_url, redis_server):
    names = [f"s{i:03}" for i in range(300)]
    stores[0].commit(blocks([record(name) for name in names]), [])
    for key in (values.names_key(PRINT), values.MODELS, values.INDEXED):
        redis_server.ask("DEL", key)
    store = RedisStore(parse_url(redis_url), 1000.0)
    assert [name for name, _ in list_sessions(store, "", 1000)] == names
    assert len(store) == 300
    store.close()


def test_names_that_a_server_has_lost_come_back_with_the_walk_over_all_keys(stores, redis_server):
    store = stores[0]
    store.commit(blocks([record("a"), record("b")]), [])
    for key in (values.names_key(PRINT), values.MODELS):
        redis_server.ask("DEL", key)
    assert listed(store) == []
    walk(store)
    assert listed(store) == ["a", "b"]


def test_a_name_without_a_session_fills_no_place_of_a_page_and_leaves_after_a_while(
    stores, redis_server, monkeypatch
):
    store = stores[0]
    store.commit(blocks([record(f"s{i}") for i in range(6)]), [])
    for name in ("s0", "s2", "s5"):
        redis_server.ask("DEL", values.key(name))
    assert [name for name, _ in list_sessions(store, "", 2)] == ["s1", "s3"]
    assert listed(store) == ["s1", "s3", "s4"]
    walk(store)
    assert redis_server.ask("ZCARD", values.names_key(PRINT)) == ":6"  # one may be just being committed
    monkeypatch.setattr(name_index, "STALE_SECONDS", 0.0)
    stores[1].commit(blocks([record("s2")]), [])  # as this one was
    walk(store)
    assert redis_server.ask("ZCARD", values.names_key(PRINT)) == ":4"
    assert listed(store) == ["s1", "s2", "s3", "s4"]


def test_a_server_that_may_evict_sessions_is_refused_unless_the_url_accepts_it(tmp_path):
    with RedisServer(tmp_path / "own", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(ConfigError, match=r"allkeys-lru.*noeviction.*allow_eviction=true"):
            RedisStore(parse_url(server.url), 1000.0)
        store = RedisStore(parse_url(f"{server.url}?allow_eviction=true"), 1000.0)
        store.commit(blocks([record("a")]), [])
        store.close()


def test_the_error_of_a_failure_does_not_name_the_redis_server(tmp_path):
    with RedisServer(tmp_path / "own") as server:
        store = RedisStore(parse_url(server.url), 1000.0)
        store.commit(blocks([record("a")]), [])
        server.kill()
        for call in (
            lambda: store.commit(blocks([record("a", 2)]), []),
            lambda: list_sessions(store, "", 9),
            store.tend,
        ):
            with pytest.raises(StoreFailed) as failed:
                call()
            assert "127.0.0.1" not in failed.value.detail
            assert str(server.port) not in failed.value.detail
            assert "cannot be reached" in failed.value.detail
        store.close()


def test_an_unreachable_server_is_named_at_start():
    port = free_port()
    with pytest.raises(ConfigError, match=f"redis://127.0.0.1:{port}"):
        RedisStore(parse_url(f"redis://127.0.0.1:{port}"), 1.0, timeout=0.2)


def test_labels_that_were_lost_with_a_server_are_listed_again_with_the_next_commit(stores, redis_server):
    here, there = stores
    here.commit(blocks([labelled("a", "site:north"), labelled("b", "site:north")]), [])
    redis_server.ask("DEL", values.label_key("site:north"))
    there.load(["a"])
    there.commit(blocks([labelled("a", "site:north")]), [])
    assert here.names(NamesQuery("", 9, labels=("site:north",))).found == [("a", PRINT)]


def test_a_label_too_many_is_left_out_of_a_page(stores, redis_server):
    here, there = stores
    here.commit(blocks([labelled("a", "site:north"), labelled("b", "site:north")]), [])
    there.load(["b"])
    there.commit(blocks([labelled("b", "site:south")]), [])
    redis_server.ask("ZADD", values.label_key("site:north"), "0", "b", "0", "nobody")
    assert here.names(NamesQuery("", 9, labels=("site:north",))).found == [("a", PRINT)]
    assert here.names(NamesQuery("", 9, labels=("site:south",))).found == [("b", PRINT)]


def test_commits_of_sessions_whose_labels_stay_write_no_names(stores, redis_server):
    stores[0].commit(blocks([labelled("a", "site:north")]), [])
    redis_server.ask("CONFIG", "RESETSTAT")
    stores[0].commit(blocks([labelled("a", "site:north")]), [])
    assert "cmdstat_zadd" not in redis_server.ask("INFO", "commandstats")
