"""The SQLite store: what it refuses at start, what damage does, and what happens when the disk fails."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from app.errors import ConfigError, SessionDamaged, StoreFailed
from app.stores import Record, Tombstone
from app.stores.sqlite import schema
from app.stores.sqlite import store as module
from app.stores.sqlite.store import SqliteStore
from tests.helpers.faults import until
from tests.helpers.records import blocks

NEVER = float("inf")
PRINT = "f" * 64

Opened = Callable[..., SqliteStore]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "carryover.sqlite"


@pytest.fixture
def open_store(path) -> Iterator[Opened]:
    stores: list[SqliteStore] = []

    def opened(period: float = 0.0) -> SqliteStore:
        stores.append(SqliteStore(path, 100, NEVER, period))
        return stores[-1]

    yield opened
    for store in stores:
        with suppress(StoreFailed, sqlite3.ProgrammingError):
            store.close()


def record(session: str, position: int = 1, size: int = 700) -> Record:
    return Record(session, PRINT, NEVER, f"{session}:{position};".encode().ljust(size, b"."), position)


def fold(store: SqliteStore) -> None:
    for _ in range(5):
        store.tend()


def changed(path: Path, *statements: str) -> None:
    """Change the file as somebody with the sqlite3 shell would."""
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


# What is refused at start.


def test_a_second_process_on_the_same_file_is_refused(open_store, path):
    open_store().commit(blocks([record("a")]), [])
    script = (
        "import sys; from pathlib import Path; from app.stores import layout; layout.LOCK_SECONDS = 0.1\n"
        "from app.errors import ConfigError; from app.stores.sqlite import SqliteStore\n"
        "try: SqliteStore(Path(sys.argv[1]), 9, 9.0)\n"
        "except ConfigError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert f"store {path}" in told.stdout
    assert "another process has it open" in told.stdout


def test_the_lock_is_gone_with_its_process(open_store, path):
    script = (
        "import os, signal, sys; from pathlib import Path; from app.stores import Block\n"
        "from app.stores.sqlite import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), 9, 9.0)\n"
        "store.commit([Block('f' * 64, ['a'], [3], [float('inf')], [b'kept'])], [])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert open_store().load(["a"])[0][0].body == b"kept"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        (f"PRAGMA user_version = {schema.LAYOUT + 1}", "newer version"),
        ("PRAGMA application_id = 7", "another program"),
        ("DELETE FROM journal WHERE sequence = 2", "wave 2 of its journal is missing"),
        ("DELETE FROM journal WHERE sequence = 1", "wave 1 of its journal is missing"),
        ("UPDATE journal SET heads = replace(heads, 'a', 'c') WHERE sequence = 2", "wave 2 .* is damaged"),
        ("UPDATE journal SET bodies = substr(bodies, 1, 99) WHERE sequence = 2", "wave 2 .* cut short"),
        ("DROP TABLE sessions", "no such table"),
        ("DELETE FROM carryover", "cannot be used"),
        ("UPDATE carryover SET folded = 2", "says of its tables is damaged"),
        ("UPDATE carryover SET folded = 'x'", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_by_name_and_reason(open_store, path, statement, told):
    store = open_store()
    for position in (1, 2, 3):
        store.commit(blocks([record("a", position)]), [])
    store.close()
    changed(path, statement)
    with pytest.raises(ConfigError, match=f"{path}.*{told}"):
        open_store()


def test_a_file_of_something_else_is_refused_and_left_as_it_is(open_store, path):
    path.write_bytes(b"no database at all, and long enough to be one" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a SQLite database"):
        open_store()
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(open_store, path):
    changed(path, "CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        open_store()
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["missing/carryover.sqlite", "."])
def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path, place):
    with pytest.raises(ConfigError, match="folder"):
        SqliteStore(tmp_path / place, 9, 9.0)


def test_a_file_cut_short_is_refused(open_store, path):
    store = open_store()
    store.commit(blocks([record(f"s{i}") for i in range(200)]), [])
    fold(store)
    store.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ConfigError, match="damaged or cut short"):
        open_store()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to anything")
def test_a_read_only_file_is_refused(open_store, path):
    open_store().close()
    path.chmod(0o400)
    with pytest.raises(ConfigError, match="readonly"):
        open_store()


# Damage.


@pytest.mark.parametrize("where", ["journal", "table"])
def test_a_damaged_session_is_refused_alone(open_store, path, where):
    store = open_store()
    store.commit(blocks([record(name) for name in "abc"]), [])
    if where == "table":
        fold(store)
    store.close()
    held = path.read_bytes()
    assert b"b:1;" in held  # twice, where a folded wave is not overwritten yet
    path.write_bytes(held.replace(b"b:1;", b"b:9;"))
    for _ in range(2):  # folding a damaged record makes it no better
        store = open_store()
        records, others = store.load(["a", "b", "c", "d"])
        assert records == [record("a"), record("c")]
        assert list(others) == ["b"]
        assert isinstance(others["b"], SessionDamaged)
        fold(store)
        store.close()


@pytest.mark.parametrize("seed", range(12))
def test_no_flipped_bit_is_taken_for_a_state(open_store, path, seed):
    """Twelve bits a file: every session that is served is right, however much else is refused."""
    store = open_store()
    right = {f"s{i:03}": record(f"s{i:03}", i + 1) for i in range(100)}
    store.commit(blocks(list(right.values())), [])
    fold(store)
    store.commit(blocks(list(right.values())[:20]), [])
    store.close()
    held, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(12):
        held[draw.randrange(schema.PAGE_BYTES, len(held))] ^= 1 << draw.randrange(8)
    path.write_bytes(held)
    try:
        store = open_store()
        records, _ = store.load(right)
    except (ConfigError, StoreFailed):
        return
    assert [one for one in records if one != right[one.session]] == []


# A disk that fails.


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """No file of this process grows beyond what the write-ahead log is now."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = Path(f"{path}-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a file system is not allowed here: {error}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def read_only(store: SqliteStore) -> Iterator[None]:
    store._database.execute("PRAGMA query_only = ON")
    yield
    store._database.execute("PRAGMA query_only = OFF")


@contextmanager
def no_more_pages(store: SqliteStore) -> Iterator[None]:
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    yield
    store._database.execute("PRAGMA max_page_count = 1073741823")


FAULTS = {
    "file limit": lambda store: full_disk(store.path),
    "full": no_more_pages,
    "read-only": read_only,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_commit_that_fails_keeps_nothing_and_the_next_one_works(open_store, fault):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    with FAULTS[fault](store):
        for _ in range(2):
            with pytest.raises(StoreFailed, match=r"could not keep a wave"):
                store.commit(
                    blocks([record("a", 2, 50_000), record("c")]), [Tombstone("b", 1, "deleted", 1.0)]
                )
            with pytest.raises(StoreFailed, match="could not keep a trial"):
                store.tend()
        assert sorted(one.session for one in store.load(["a", "b", "c"])[0]) == ["a", "b"]
    store.tend()  # well again
    store.commit(blocks([record("a", 2), record("c")]), [])
    store.close()
    again = open_store()
    found = sorted(again.load(["a", "b", "c"])[0], key=lambda one: one.session)
    assert found == [record("a", 2), record("b"), record("c")]
    assert len(again) == 3


def test_on_a_full_file_system_nothing_kept_is_lost_and_it_goes_on_once_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))
    store = SqliteStore(small_disk / "carryover.sqlite", 100, NEVER)
    kept: dict[str, Record] = {}
    with suppress(StoreFailed):
        for i in range(1000):
            store.commit(blocks([record(f"s{i}", 1, 20_000)]), [])
            kept[f"s{i}"] = record(f"s{i}", 1, 20_000)
    with pytest.raises(StoreFailed, match=r"could not keep a wave.*full"):
        store.commit(blocks([record("more", 1, 20_000)]), [])
    with pytest.raises(StoreFailed, match="could not keep a trial"):
        store.tend()
    ballast.unlink()
    store.tend()
    kept["late"] = record("late")
    store.commit(blocks([kept["late"]]), [])
    store.close()
    again = SqliteStore(small_disk / "carryover.sqlite", 100, NEVER)
    assert {one.session: one for one in again.load(kept)[0]} == kept
    assert len(again) == len(kept) > 10
    again.close()


def test_a_fold_that_fails_loses_nothing(open_store):
    store = open_store()
    store.commit(blocks([record(f"s{i}") for i in range(300)]), [])
    store.tend()
    with read_only(store), pytest.raises(StoreFailed, match="fold"):
        store.tend()
    assert len(store.load([f"s{i}" for i in range(300)])[0]) == 300
    fold(store)
    assert not store._unfolded.waves
    assert len(store.load([f"s{i}" for i in range(300)])[0]) == 300


def test_a_file_removed_under_a_running_server_is_noticed(open_store, path):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    moved = path.rename(path.with_suffix(".away"))
    for call in (store.tend, lambda: store.commit(blocks([record("a", 2)]), [])):
        with pytest.raises(StoreFailed, match="removed or replaced"):
            call()
    moved.rename(path)
    store.tend()
    store.commit(blocks([record("a", 2)]), [])


def test_a_flush_that_fails_is_told_and_after_a_while_nothing_more_is_taken(open_store, monkeypatch):
    store = open_store(0.25)
    store.commit(blocks([record("a")]), [])
    with read_only(store):
        with pytest.raises(StoreFailed):
            store.tend()
        store.commit(blocks([record("a", 2)]), [])  # it may pass
        monkeypatch.setattr(module, "PATIENCE_SECONDS", -1.0)
        with pytest.raises(StoreFailed, match="nothing more is taken"):
            store.commit(blocks([record("a", 3)]), [])
    store.tend()
    store.commit(blocks([record("a", 3)]), [])
    store.close()
    assert open_store().load(["a"])[0] == [record("a", 3)]


# The journal.


def test_the_journal_and_the_log_stay_bounded_under_load(open_store, path, monkeypatch):
    """As the engine does it: upkeep behind a tick's replies, whenever it is due."""
    for name, most in (("FOLD_BYTES", 200_000), ("FOLD_RECORDS", 32), ("CHECKPOINT_BYTES", 1_000_000)):
        monkeypatch.setattr(module, name, most)
    store = open_store()
    most = 0
    for wave in range(200):
        store.commit(blocks([record(f"s{(wave * 7 + i) % 500}", wave) for i in range(16)]), [])
        if store.due:
            store.tend()
        most = max(most, store._unfolded.size)
    (waves,) = store._database.execute("SELECT count(*) FROM journal").fetchone()
    assert most < 300_000
    assert waves < 60  # of 200: the folded ones leave with the commits that follow
    assert Path(f"{path}-wal").stat().st_size < 3_000_000
    assert path.stat().st_size < 3_000_000
    assert len(store) == 500


def test_a_fold_waits_for_no_disk_and_every_commit_does(open_store, monkeypatch):
    store = open_store()

    def waits() -> bool:
        return store._database.execute("PRAGMA synchronous").fetchone()[0] == 2

    store.commit(blocks([record("a"), record("b")]), [])
    assert waits()
    fold(store)
    assert not waits()
    store.commit(blocks([record("a", 2)]), [])
    assert waits()

    def failing(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store._tables, "fold", failing)
    with pytest.raises(StoreFailed):
        fold(store)
    assert not waits()
    store.commit(blocks([record("a", 3)]), [])
    assert waits()


def test_tombstones_leave_the_file_with_their_time(path):
    now = 1e9
    store = SqliteStore(path, 100, 60.0, clock=lambda: now)
    for session in ("a", "b"):
        store.commit([], [Tombstone(session, 1, "deleted", now)])
        fold(store)
        now += 61
    assert store._database.execute("SELECT id FROM tombstones").fetchall() == [(b"b",)]
    store.close()


def test_a_wave_that_was_folded_is_never_read_again_though_it_is_still_there(open_store, path):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    fold(store)
    store.commit(blocks([record("a", 2)]), [])
    fold(store)
    store.close()
    changed(path, "UPDATE journal SET heads = x'00', bodies = x'00'")
    assert open_store().load(["a"])[0] == [record("a", 2)]


def test_waves_that_were_overtaken_are_not_written_twice(open_store):
    store = open_store()
    for position in range(1, 100):
        store.commit(blocks([record("a", position)]), [])
    waves, records, graves = store._unfolded.oldest(10, 50)
    assert (len(waves), records, graves) == (50, [], [])


def test_many_sessions_on_disk_are_not_loaded_at_start(open_store):
    store = open_store()
    for start in range(0, 3000, 500):
        store.commit(blocks([record(f"s{i}") for i in range(start, start + 500)]), [])
        fold(store)
    store.close()
    again = open_store()
    assert (len(again), len(again._unfolded.alive)) == (3000, 0)


# Under the engine.


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_store_that_fails_turns_readiness_red_and_back_by_itself(start_http, store):
    async with start_http() as service:
        kept = service.engine.sessions.store
        kept.tend_seconds = 0.01
        await service.advance("a", [[0.5]], 0)
        with read_only(kept):
            refused = await service.advance("a", [[0.6]], 1)
            assert (refused.status, refused.problem["title"]) == (503, "Store failed")
            answer = await service.http.get("/health/ready")
            assert answer.status_code == 503
            assert "readonly" in answer.json()["reasons"][0]
            service.engine.draining = True  # a store that fails wins: a balancer cuts the sockets off
            assert (await service.http.get("/health/balancer")).status_code == 503
            service.engine.draining = False
        await until(lambda: not service.engine.unready())
        assert (await service.advance("a", [[0.6]], 1)).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_sessions_that_cannot_be_served_are_refused_and_the_others_go_on(start_http, store):
    async with start_http() as service:
        kept = service.engine.sessions.store
        kept.commit(blocks([record("theirs", 3)]), [])
        kept.commit(blocks([record("broken", 3)]), [])
        block, i = kept._unfolded.alive["broken"]
        block.crcs[i] ^= 1
        for at in (None, 0, 3):
            theirs = await service.advance("theirs", [[0.5]], at)
            broken = await service.advance("broken", [[0.5]], at)
            assert (theirs.status, broken.status) == (503, 500)
        assert (await service.advance("a", [[0.5]], 0)).status == 200
        listed = (await service.http.get("/sessions")).json()["sessions"]
        assert [one["session"] for one in listed] == ["a", "broken", "theirs"]
