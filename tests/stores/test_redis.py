"""The shared store: who is behind is refused, and no answer rests on a state that is no more."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from app.config import Settings
from app.engine.engine import Engine
from app.errors import CarryoverError, ConfigError, OutOfStep, SessionDamaged, SessionGone, StoreFailed
from app.jobs.jobs import (
    Advance,
    AdvanceMany,
    Create,
    Delete,
    Expire,
    Export,
    Forecast,
    Fork,
    Inspect,
    ReadHistory,
    Reset,
)
from app.jobs.session_list import SessionList
from app.stores import NamesQuery, Record, SharedStore, Tombstone
from app.stores.redis import scripting, scripts, values
from app.stores.redis.scripting import WriteConcern
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from benchmarks.failover.checker import check
from benchmarks.ports import free_port
from models.forecaster import Forecaster
from tests.helpers.records import blocks
from tests.helpers.redis_server import RedisServer, needs_redis
from tests.helpers.zoo import artifacts

pytestmark = [pytest.mark.anyio, needs_redis]

NEVER = float("inf")
PRINT = "f" * 64
FORECASTER = Forecaster(artifacts()["sine"])


def record(session: str, position: int = 1, deadline: float = NEVER) -> Record:
    return Record(session, PRINT, deadline, f"{session} at {position}".encode() * 50, position)


@pytest.fixture
def stores(redis_url) -> Iterator[list[RedisStore]]:
    """Two replicas' stores on one server."""
    both = [RedisStore(parse_url(redis_url), 1000.0) for _ in range(2)]
    yield both
    for store in both:
        store.close()


class TestCompareAndSet:
    def test_the_redis_store_is_a_shared_store(self, stores):
        assert isinstance(stores[0], SharedStore)

    def test_a_replica_that_is_behind_is_refused_and_changes_nothing(self, stores):
        here, there = stores
        here.commit(blocks([record("a", 1), record("b", 1)]), [])
        there.load(["a"])
        there.commit(blocks([record("a", 2)]), [])
        assert here.commit(blocks([record("a", 3), record("b", 2)]), []) == {"a": None}
        assert sorted(here.load(["a", "b"])[0], key=lambda it: it.session) == [record("a", 2), record("b", 2)]
        assert (here.fenced, there.fenced) == (1, 0)

    def test_a_commit_from_the_same_position_but_another_revision_is_refused(self, stores):
        here, there = stores
        here.commit(blocks([record("a", 5)]), [])
        there.load(["a"])
        there.commit(blocks([record("a", 5)]), [])
        assert here.commit(blocks([record("a", 6)]), []) == {"a": None}

    def test_after_loading_again_a_replica_that_was_behind_may_commit(self, stores):
        here, there = stores
        here.commit(blocks([record("a", 1)]), [])
        there.load(["a"])
        there.commit(blocks([record("a", 2)]), [])
        here.commit(blocks([record("a", 2)]), [])
        here.load(["a"])
        assert here.commit(blocks([record("a", 3)]), []) == {}

    def test_of_two_replicas_that_create_a_session_the_second_is_refused(self, stores):
        here, there = stores
        assert (here.load(["a"]), there.load(["a"])) == (([], {}), ([], {}))
        assert there.commit(blocks([record("a")]), []) == {}
        assert here.commit(blocks([record("a")]), []) == {"a": None}

    def test_a_removal_by_a_replica_that_is_behind_is_refused(self, stores):
        here, there = stores
        here.commit(blocks([record("a", 1)]), [])
        there.load(["a"])
        there.commit(blocks([record("a", 2)]), [])
        assert here.commit([], [Tombstone("a", 1, "expired", 1e9)]) == {"a": None}
        assert here.load(["a"])[0] == [record("a", 2)]

    def test_the_number_of_sessions_is_never_below_zero(self, stores):
        here, there = stores
        here.commit(blocks([record("a")]), [])
        there.load(["a"])
        assert there.commit([], [Tombstone("a", 1, "deleted", 1e9)]) == {}
        assert len(there) == 0

    def test_a_session_is_confirmed_only_at_its_last_known_revision(self, stores):
        here, there = stores
        here.commit(blocks([record("a"), record("b")]), [])
        there.load(["a", "b"])
        assert there.confirm(["a", "b"]) == {}
        here.commit(blocks([record("a", 2)]), [])
        assert there.confirm(["a", "b"]) == {"a": None}

    def test_a_commit_whose_answer_was_lost_is_recognised_when_sent_again(self, stores, monkeypatch):
        here = stores[0]
        link = here._servers.primaries()[0]
        receive, lost = link.receive, []

        def losing(count):
            replies = receive(count)
            if not lost:
                lost.append(replies)
                link.disconnect()
                raise scripting.Unreachable("the connection broke behind the commit")
            return replies

        monkeypatch.setattr(link, "receive", losing)
        assert here.commit(blocks([record("a", 1)]), []) == {}
        assert lost
        assert here.commit(blocks([record("a", 2)]), []) == {}

    def test_scripts_that_the_server_forgot_are_loaded_again(self, stores, redis_server):
        stores[0].commit(blocks([record("a")]), [])
        redis_server.ask("SCRIPT", "FLUSH")
        assert stores[0].commit(blocks([record("a", 2)]), []) == {}

    def test_a_batch_is_one_round_trip_and_no_read(self, stores, redis_server):
        here = stores[0]
        here.commit(blocks([record(f"s{i}") for i in range(64)]), [])
        redis_server.ask("CONFIG", "RESETSTAT")
        here.commit(blocks([record(f"s{i}", 2) for i in range(64)]), [])
        result = redis_server.ask("INFO", "commandstats")
        assert "cmdstat_evalsha:calls=1," in result
        assert "cmdstat_get:" not in result


class TestValues:
    def test_a_changed_value_is_reported_as_damage(self, stores, redis_server):
        here = stores[0]
        here.commit(blocks([record("a"), record("b")]), [])
        redis_server.ask("SETRANGE", values.key("a"), "100", "x")
        records, others = here.load(["a", "b"])
        assert [it.session for it in records] == ["b"]
        assert isinstance(others["a"], SessionDamaged)

    def test_a_value_whose_fingerprint_is_damaged_keeps_no_other_from_being_listed_or_expired(self, stores):
        here = stores[0]
        here.commit(blocks([record("a", deadline=5.0), record("b", deadline=5.0)]), [])
        link = here._servers.primaries()[0]
        link.ask("SETRANGE", values.key("a"), values.HEAD.size + 3, b"\xff")
        found = []
        for listed in (lambda: here.names(NamesQuery("", 10)).found, lambda: here.expired(10.0, 10)):
            try:
                found.append(listed())
            except UnicodeDecodeError as error:
                found.append(error)
        assert found == [[("b", PRINT)], ["b"]]
        assert isinstance(here.load(["a"])[1]["a"], SessionDamaged)

    def test_a_value_copied_under_another_name_is_damage(self, stores, redis_server):
        stores[0].commit(blocks([record("a")]), [])
        redis_server.ask("COPY", values.key("a"), values.key("b"))
        assert isinstance(stores[0].load(["b"])[1]["b"], SessionDamaged)

    def test_an_expired_session_leaves_the_server_after_its_tombstone_time(self, stores):
        now = stores[0]._clock()
        stores[0].commit(blocks([record("a", deadline=now + 50), record("b")]), [])
        link = stores[0]._servers.primaries()[0]
        assert 1_040_000 < link.ask("PTTL", values.key("a")) <= 1_050_000
        assert link.ask("PTTL", values.key("b")) == -1

    def test_the_name_of_a_session_is_the_hash_tag_of_its_key(self):
        assert values.key("acme/pump-7") == "carryover:{acme/pump-7}"
        assert values.session_of(values.key("acme/pump-7")) == "acme/pump-7"


class TestTrouble:
    def test_an_unreachable_server_is_reported_at_start_without_the_password(self):
        with pytest.raises(ConfigError, match="cannot be used") as raised:
            RedisStore(parse_url(f"redis://user:secret@127.0.0.1:{free_port()}"), 1.0, timeout=0.2)
        assert "secret" not in str(raised.value)

    def test_a_commit_that_no_replica_holds_fails(self, redis_url):
        store = RedisStore(parse_url(redis_url), 1000.0, WriteConcern(1, False, 50))
        with pytest.raises(StoreFailed, match="0 of 1 replicas"):
            store.commit(blocks([record("a")]), [])
        with pytest.raises(StoreFailed):
            store.tend()
        store.close()

    def test_a_server_without_waitaof_is_refused_at_start(self, redis_url, redis_server):
        if "7.0" not in redis_server.ask("INFO", "server").split("redis_version:")[1][:4]:
            pytest.skip("this server has WAITAOF")
        with pytest.raises(ConfigError, match="WAITAOF"):
            RedisStore(parse_url(redis_url), 1000.0, WriteConcern(0, True))

    def test_a_server_that_hangs_delays_calls_once(self, tmp_path, waits):
        with RedisServer(tmp_path / "own") as server:
            store = RedisStore(parse_url(server.url), 1000.0, timeout=1.0)
            store.commit(blocks([record("a")]), [])
            server.kill(signal.SIGSTOP)
            for _ in range(5):
                with pytest.raises(StoreFailed):
                    store.commit(blocks([record("a", 2)]), [])
            server.kill(signal.SIGCONT)
            assert len(waits) == 1
            store.close()

    def test_a_restarted_server_is_found_again(self, tmp_path):
        server = RedisServer(tmp_path / "own", "--appendonly", "yes", "--appendfsync", "always").start()
        store = RedisStore(parse_url(server.url), 1000.0)
        store.commit(blocks([record("a")]), [])
        server.kill()
        with pytest.raises(StoreFailed):
            store.tend()
        server.start()
        store.tend()
        assert store.load(["a"])[0] == [record("a")]
        store.close()
        server.kill()


@pytest.fixture
async def replicas(stores) -> AsyncIterator[list[Engine]]:
    """Two engines on one store, each with a slab of its own."""
    both = [Engine([FORECASTER], store, Settings(resident_sessions=1024)) for store in stores]
    for engine in both:
        engine.start()
    yield both
    for engine in both:
        await engine.stop()


def chunk(session: str, numbers: list[float], at: int | None) -> Advance:
    return Advance(session, np.array(numbers, np.float32)[:, None], at)


class TestReplicas:
    async def test_a_stream_continues_on_any_replica(self, replicas):
        here, there = replicas
        numbers = [float(x) for x in np.sin(np.arange(30) / 5)]
        result = []
        for i, number in enumerate(numbers):
            result.append(await (here, there)[i // 3 % 2].ask(chunk("a", [number], i)))
        whole, _ = FORECASTER.advance(
            np.array(numbers, np.float32)[:, None],
            np.array([30]),
            np.zeros((1, FORECASTER.carry_size), np.float32),
        )
        np.testing.assert_allclose(
            np.concatenate([answer.answer["predictions"] for answer in result]), whole, atol=1e-6
        )
        assert here.metrics.fenced + there.metrics.fenced > 0

    async def test_the_history_of_a_replica_has_what_it_applied_itself(self, replicas):
        here, there = replicas
        for session in ("a", "b"):
            await here.ask(chunk(session, [0.1], 0))
        await there.ask(chunk("a", [0.2], 1))
        both = SessionList(["a", "b"]), np.array([[0.3], [0.4]], np.float32), np.array([1, 1])
        answer = await here.ask(AdvanceMany(*both))  # the first of them has moved elsewhere meanwhile
        assert answer.positions.tolist() == [3, 2]
        past = [await here.ask(ReadHistory(session)) for session in ("a", "b")]
        assert [each.first for each in past] == [2, 0]
        np.testing.assert_allclose(past[0].observations, [[0.3]])
        np.testing.assert_allclose(past[1].observations, [[0.1], [0.4]])
        assert (await there.ask(ReadHistory("a"))).first == 3

    async def test_a_retry_that_reaches_another_replica_is_replayed(self, replicas):
        here, there = replicas
        await here.ask(chunk("a", [0.1], 0))
        await there.ask(Inspect("a"))
        first = await here.ask(chunk("a", [0.2], 1))
        again = await there.ask(chunk("a", [0.2], 1))
        assert (first.replayed, again.replayed, again.position) == (False, True, 2)
        np.testing.assert_array_equal(first.answer["predictions"], again.answer["predictions"])

    @pytest.mark.parametrize("what", ["inspect", "forecast", "export", "fork"])
    async def test_a_read_sees_what_another_replica_committed(self, replicas, what):
        here, there = replicas
        await here.ask(chunk("a", [0.1], 0))
        await there.ask(chunk("a", [0.2], 1))
        jobs = {
            "inspect": Inspect("a"),
            "forecast": Forecast("a", 3),
            "export": Export("a"),
            "fork": Fork("a", "b"),
        }
        assert (await here.ask(jobs[what])).position == 2

    async def test_a_delayed_duplicate_from_before_a_reset_elsewhere_is_refused(self, replicas):
        here, there = replicas
        await here.ask(chunk("a", [0.1], 0))
        await there.ask(Reset("a"))
        with pytest.raises(OutOfStep):
            await here.ask(chunk("a", [0.1], 0))

    async def test_a_session_deleted_on_another_replica_is_gone_here(self, replicas):
        here, there = replicas
        await here.ask(chunk("a", [0.1], 0))
        await there.ask(Delete("a"))
        for job in (Inspect("a"), chunk("a", [0.2], 1), Reset("a")):
            with pytest.raises(SessionGone):
                await here.ask(job)
        assert (await here.ask(Create("a"))).position == 0

    async def test_a_session_that_is_in_use_on_another_replica_does_not_expire_here(self, replicas):
        here, there = replicas
        now = here.clock()
        await here.ask(Create("a", None, 100.0))
        there.clock = here.clock = lambda: now + 90
        await there.ask(chunk("a", [0.1], 0))
        there.clock = here.clock = lambda: now + 150
        await here.ask(Expire(["a"]))
        assert (await here.ask(chunk("a", [0.2], 1))).position == 2

    async def test_in_a_bulk_request_only_sessions_that_moved_on_another_replica_are_repeated(self, replicas):
        here, there = replicas
        names = [f"s{i}" for i in range(10)]

        def bulk(at: int) -> AdvanceMany:
            column = np.full((10, 1), 0.1, np.float32)
            return AdvanceMany(SessionList(names), column, np.ones(10, np.int64), np.full(10, at))

        await here.ask(bulk(0))
        for name in names[:3]:
            await there.ask(chunk(name, [0.1], 1))
        result = await here.ask(bulk(1))
        assert (result.positions.tolist(), result.replayed, result.errors) == ([2] * 10, [0, 1, 2], {})
        alone = await there.ask(chunk("s0", [0.1], 2))
        beside = await here.ask(chunk("s9", [0.1], 2))
        np.testing.assert_allclose(alone.answer["predictions"], beside.answer["predictions"], atol=1e-6)

    async def test_a_chunk_without_at_is_applied_after_what_another_replica_committed(self, replicas):
        here, there = replicas
        await here.ask(chunk("a", [0.1], None))
        await there.ask(chunk("a", [0.2], None))
        assert (await here.ask(chunk("a", [0.3], None))).position == 3

    async def test_a_thousand_races_lose_no_chunk_and_apply_none_twice(self, replicas):
        async def drive(engine: Engine) -> None:
            for _ in range(100):
                await engine.ask(chunk("a", [0.1], None))

        await asyncio.gather(*(drive(engine) for engine in replicas for _ in range(5)))
        assert (await replicas[0].ask(Inspect("a"))).position == 1000

    async def test_a_store_that_fails_leaves_no_row_that_may_be_out_of_date(self, replicas, monkeypatch):
        here = replicas[0]
        await here.ask(chunk("a", [0.1], 0))
        commit = here.residents.store.commit

        def kept_and_lost(blocks, tombstones):
            commit(blocks, tombstones)
            raise StoreFailed("the answer was lost")

        monkeypatch.setattr(here.residents.store, "commit", kept_and_lost)
        with pytest.raises(StoreFailed):
            await here.ask(chunk("a", [0.2], 1))
        monkeypatch.undo()
        assert (await here.ask(Inspect("a"))).position == 2
        assert (await here.ask(chunk("a", [0.2], 1))).replayed

    async def test_a_failing_part_of_the_store_affects_only_its_own_sessions(self, replicas, monkeypatch):
        here = replicas[0]
        fail_for(monkeypatch, here, "s1")
        column = np.full((3, 1), 0.1, np.float32)
        names = ["s0", "s1", "s2"]
        result = await here.ask(
            AdvanceMany(SessionList(names), column, np.ones(3, np.int64), np.zeros(3, np.int64))
        )
        assert result.positions.tolist() == [1, -1, 1]
        assert isinstance(result.errors[1], StoreFailed)
        with pytest.raises(StoreFailed):
            await here.ask(chunk("s1", [0.1], 0))
        monkeypatch.undo()
        assert (await here.ask(chunk("s1", [0.1], 0))).position == 1

    async def test_a_removal_that_fails_alone_is_refused_and_not_repeated_forever(
        self, replicas, monkeypatch
    ):
        here = replicas[0]
        now = here.clock()
        await here.ask(Create("a", None, 100.0))
        here.clock = lambda: now + 150
        fail_for(monkeypatch, here, "a")
        with pytest.raises(StoreFailed):
            await here.ask(chunk("a", [0.1], 0))
        monkeypatch.undo()
        with pytest.raises(SessionGone):
            await here.ask(chunk("a", [0.1], 1))

    async def test_a_long_chunk_that_another_replica_overtakes_is_decided_anew(self, replicas):
        here, there = replicas
        await here.ask(chunk("a", [0.1], 0))
        await there.ask(chunk("a", [0.2], 1))
        with pytest.raises(OutOfStep) as raised:
            await here.ask(chunk("a", [0.3] * 3000, 1))
        assert raised.value.extra["position"] == 2
        assert (await here.ask(chunk("a", [0.3] * 3000, 2))).position == 3002

    async def test_only_revisions_of_resident_sessions_are_remembered(self, replicas):
        here = replicas[0]
        for i in range(20):
            with pytest.raises(CarryoverError):
                await here.ask(Inspect(f"nobody-{i}"))
            await here.ask(chunk(f"s{i}", [0.1], 0))
            if i % 2:
                await here.ask(Delete(f"s{i}"))
                with pytest.raises(SessionGone):
                    await here.ask(Inspect(f"s{i}"))
        store = here.residents.store
        assert (len(store._revisions), len(store._tombstone_revisions)) == (10, 0)


def fail_for(monkeypatch, engine: Engine, session: str) -> None:
    """From here on the part of the store that has this session keeps nothing."""
    commit = engine.residents.store.commit

    def failing(blocks, tombstones):
        lost = commit(
            [block.without({session}) for block in blocks],
            [tombstone for tombstone in tombstones if tombstone.session != session],
        )
        return {**lost, session: StoreFailed("its server is gone")}

    monkeypatch.setattr(engine.residents.store, "commit", failing)


def reference(observations):
    rows = np.array(observations, np.float32)[:, None]
    carries = np.zeros((1, FORECASTER.carry_size), np.float32)
    return FORECASTER.advance(rows, np.array([len(rows)]), carries)[0][:, 0].tolist()


class TestPlanted:
    """Bugs planted in the comparison: the checker, which sees what clients see, must notice them."""

    async def story(self, replicas) -> list[str]:
        """A client whose retries and resets reach two replicas, one of which sleeps through some of it."""
        here, there = replicas
        events = []

        async def send(engine: Engine, seq: int, op: str, at: int, numbers: tuple[float, ...] = ()) -> None:
            event = {"session": "a", "seq": seq, "op": op, "at": at, "observations": list(numbers)}
            job = Reset("a", at) if op == "reset" else chunk("a", list(numbers), at)
            try:
                result = await engine.ask(job)
            except CarryoverError as error:
                event |= {"outcome": "refused", "status": str(error), "position": error.extra.get("position")}
            else:
                event |= {"outcome": "applied", "position": result.position, "predictions": []}
                if op == "chunk":
                    event["outcome"] = "replayed" if result.replayed else "applied"
                    event["predictions"] = result.answer["predictions"][:, 0].tolist()
            events.append(event)

        await send(here, 0, "chunk", 0, (0.1, 0.2))
        await send(there, 1, "chunk", 2, (0.9,))
        await send(here, 1, "chunk", 2, (0.9,))  # the retry: `here` slept, and is at 2 still
        await send(there, 2, "chunk", 3, (0.4,))
        await send(here, 3, "reset", 4)
        await send(there, 4, "chunk", 4, (0.7, 0.8))  # `there` is at 4 as well, and knows of no reset
        return check(events, reference)

    async def test_without_a_planted_bug_the_checker_finds_nothing(self, replicas):
        assert await self.story(replicas) == []

    async def test_comparing_nothing_is_noticed(self, replicas, monkeypatch):
        plant(monkeypatch, scripts.COMMIT.source.replace(b"if found == base then", b"if true then"))
        complaints = await self.story(replicas)
        assert any("applied twice" in complaint for complaint in complaints)

    async def test_comparing_positions_in_place_of_revisions_is_noticed(self, replicas, monkeypatch):
        start, end = 16, 23  # of the position in a value
        positions = f"redis.call('GETRANGE', KEYS[i], {start}, {end})"
        source = scripts.COMMIT.source.decode().replace(
            "if found == base then", f"if base == '' or {positions} == base then"
        )
        plant(monkeypatch, source.encode())
        monkeypatch.setattr(
            RedisStore,
            "_known_revisions",
            lambda store, sessions: [before(store).get(session, b"") for session in sessions],
        )
        remember_positions(monkeypatch)
        complaints = await self.story(replicas)
        assert any("off what an uninterrupted run answers" in complaint for complaint in complaints)


def plant(monkeypatch, source: bytes) -> None:
    bad = scripts.Script(source.decode(), 3)
    monkeypatch.setattr("app.stores.redis.store.COMMIT", bad)
    monkeypatch.setitem(scripting.SOURCES, bad.digest, bad.source)


POSITIONS: dict[int, dict[str, bytes]] = {}


def before(store: RedisStore) -> dict[str, bytes]:
    return POSITIONS.setdefault(id(store), {})


def remember_positions(monkeypatch) -> None:
    """What a store would know that compares positions."""
    POSITIONS.clear()
    load, commit = RedisStore.load, RedisStore.commit

    def loading(store, sessions):
        records, others = load(store, sessions)
        before(store).update({it.session: it.position.to_bytes(8, "little") for it in records})
        return records, others

    def committing(store, blocks, tombstones):
        lost = commit(store, blocks, tombstones)
        kept = [it for block in blocks for it in block.records() if it.session not in lost]
        before(store).update({it.session: it.position.to_bytes(8, "little") for it in kept})
        return lost

    monkeypatch.setattr(RedisStore, "load", loading)
    monkeypatch.setattr(RedisStore, "commit", committing)
    monkeypatch.setattr(RedisStore, "confirm", lambda store, sessions: {})
