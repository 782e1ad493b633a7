"""The SQLite store: what it refuses at start, what damage does, and what happens when the disk fails."""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from app.errors import ConfigError, SessionDamaged, StoreFailed
from app.stores import NamesQuery, Record, Tombstone
from app.stores.sqlite import schema
from app.stores.sqlite import store as module
from app.stores.sqlite.check import check_file
from app.stores.sqlite.commit_mark import mark_path, read_mark
from app.stores.sqlite.journal import APPEND
from app.stores.sqlite.store import SqliteStore
from tests.helpers.faults import until
from tests.helpers.records import blocks, labelled, list_sessions

NEVER = float("inf")
PRINT = "f" * 64
NORMAL, FULL = 1, 2  # of SQLite's PRAGMA synchronous

Opened = Callable[..., SqliteStore]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "carryover.sqlite"


@pytest.fixture
def open_store(path) -> Iterator[Opened]:
    stores: list[SqliteStore] = []

    def opened(period: float = 0.0, *, accept_loss: bool = False) -> SqliteStore:
        stores.append(SqliteStore(path, 100, NEVER, period, accept_loss=accept_loss))
        return stores[-1]

    yield opened
    for store in stores:
        with suppress(StoreFailed, sqlite3.ProgrammingError):
            store.close()


def record(session: str, position: int = 1, size: int = 700) -> Record:
    return Record(session, PRINT, NEVER, f"{session}:{position};".encode().ljust(size, b"."), position)


def timed(session: str, position: int, deadline: float) -> Record:
    return Record(session, PRINT, deadline, b"a body", position)


def take_log_in(store: SqliteStore) -> None:
    """Upkeep of a store that rests: its write-ahead log goes into the file."""
    for _ in range(2):
        store.tend()


def change_file(path: Path, *statements: str) -> None:
    """Change the file as a person with the sqlite3 shell would."""
    database = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        database.execute(statement)
    database.close()


# What is refused at start.


def test_a_second_process_on_the_same_file_is_refused(open_store, path):
    open_store().commit(blocks([record("a")]), [])
    script = (
        "import sys; from pathlib import Path\n"
        "from app.stores.sqlite import schema; schema.LOCK_SECONDS = 0.1\n"
        "from app.errors import ConfigError; from app.stores.sqlite.store import SqliteStore\n"
        "try: SqliteStore(Path(sys.argv[1]), 9, 9.0)\n"
        "except ConfigError as error: print(error)"
    )
    second = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert f"store {path}" in second.stdout
    assert "another process has it open" in second.stdout


def test_the_lock_is_gone_with_its_process(open_store, path):
    script = (
        "import os, signal, sys; from pathlib import Path; from app.stores import Block\n"
        "from app.stores.sqlite.store import SqliteStore\n"
        "store = SqliteStore(Path(sys.argv[1]), 9, 9.0)\n"
        "store.commit([Block('f' * 64, ['a'], [3], [float('inf')], [b'kept'])], [])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False)
    assert open_store().load(["a"])[0][0].body == b"kept"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (f"PRAGMA user_version = {schema.LAYOUT + 1}", "newer version"),
        ("PRAGMA application_id = 7", "another program"),
        ("DROP TABLE sessions", "no such table"),
        ("DELETE FROM state", "table of state is damaged"),
        ("UPDATE state SET sequence = 4", "table of state is damaged"),
        ("UPDATE state SET sequence = 'x'", "table of state is damaged"),
        ("UPDATE state SET sessions = 2", "at least 1 cannot be found"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_by_name_and_reason(open_store, path, statement, reason):
    store = open_store()
    for position in (1, 2, 3):
        store.commit(blocks([record("a", position)]), [])
    store.close()
    change_file(path, statement)
    with pytest.raises(ConfigError, match=f"{path}.*{reason}"):
        open_store()


def test_a_file_that_is_no_database_is_refused_and_not_changed(open_store, path):
    path.write_bytes(b"no database at all, and long enough to be one" * 100)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="not a SQLite database"):
        open_store()
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_not_changed(open_store, path):
    change_file(path, "CREATE TABLE foreign_table (x)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        open_store()
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["missing/carryover.sqlite", "."])
def test_a_path_that_cannot_hold_a_file_is_refused(tmp_path, place):
    with pytest.raises(ConfigError, match="folder"):
        SqliteStore(tmp_path / place, 9, 9.0)


def test_a_file_cut_short_is_refused(open_store, path):
    store = open_store()
    store.commit(blocks([record(f"s{i}") for i in range(200)]), [])
    take_log_in(store)
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


def test_a_damaged_session_is_refused_alone(open_store, path):
    store = open_store()
    store.commit(blocks([record(name) for name in "abc"]), [])
    store.close()
    data = path.read_bytes()
    assert b"b:1;" in data
    path.write_bytes(data.replace(b"b:1;", b"b:9;"))
    for _ in range(2):
        store = open_store()
        records, others = store.load(["a", "b", "c", "d"])
        assert records == [record("a"), record("c")]
        assert list(others) == ["b"]
        assert isinstance(others["b"], SessionDamaged)
        take_log_in(store)
        store.close()


@pytest.mark.parametrize("seed", range(12))
def test_no_flipped_bit_is_taken_for_a_state(open_store, path, seed):
    """Twelve bits a file: every session that is served is right, however much else is refused."""
    store = open_store()
    right = {f"s{i:03}": record(f"s{i:03}", i + 1) for i in range(100)}
    store.commit(blocks(list(right.values())), [])
    take_log_in(store)
    store.commit(blocks(list(right.values())[:20]), [])
    store.close()
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(12):
        data[draw.randrange(schema.PAGE_BYTES, len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    try:
        store = open_store()
        records, others = store.load(right)
    except (ConfigError, StoreFailed):
        return
    assert [found for found in records if found != right[found.session]] == []
    assert len(records) + len(others) == len(right)  # and none is taken for one that was never there


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
            with pytest.raises(StoreFailed, match=r"could not keep a batch"):
                store.commit(
                    blocks([record("a", 2, 50_000), record("c")]), [Tombstone("b", 1, "deleted", 1.0)]
                )
            with pytest.raises(StoreFailed, match="could not write a trial"):
                store.tend()
        assert sorted(found.session for found in store.load(["a", "b", "c"])[0]) == ["a", "b"]
    store.tend()  # the fault is gone
    store.commit(blocks([record("a", 2), record("c")]), [])
    store.close()
    again = open_store()
    found = sorted(again.load(["a", "b", "c"])[0], key=lambda found: found.session)
    assert found == [record("a", 2), record("b"), record("c")]
    assert len(again) == 3


def test_on_a_full_file_system_nothing_kept_is_lost_and_it_goes_on_once_there_is_room(small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_200_000))
    store = SqliteStore(small_disk / "carryover.sqlite", 100, NEVER)
    kept: dict[str, Record] = {}
    with suppress(StoreFailed):
        for i in range(1000):
            store.commit(blocks([record(f"s{i}", 1, 20_000)]), [])
            kept[f"s{i}"] = record(f"s{i}", 1, 20_000)
    with pytest.raises(StoreFailed, match=r"could not keep a batch.*full"):
        store.commit(blocks([record("more", 1, 20_000)]), [])
    with pytest.raises(StoreFailed, match="could not write a trial"):
        store.tend()
    ballast.unlink()
    store.tend()
    kept["late"] = record("late")
    store.commit(blocks([kept["late"]]), [])
    store.close()
    again = SqliteStore(small_disk / "carryover.sqlite", 100, NEVER)
    assert {found.session: found for found in again.load(kept)[0]} == kept
    assert len(again) == len(kept) > 10
    again.close()


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


def test_a_flush_that_fails_is_reported_and_after_a_while_nothing_more_is_accepted(open_store, monkeypatch):
    store = open_store(0.25)
    store.commit(blocks([record("a")]), [])
    with read_only(store):
        with pytest.raises(StoreFailed):
            store.tend()
        store.commit(blocks([record("a", 2)]), [])  # the fault may pass
        monkeypatch.setattr(module, "PATIENCE_SECONDS", -1.0)
        with pytest.raises(StoreFailed, match="accepts no more"):
            store.commit(blocks([record("a", 3)]), [])
    store.tend()
    store.commit(blocks([record("a", 3)]), [])
    store.close()
    assert open_store().load(["a"])[0] == [record("a", 3)]


# What is written.


def test_the_log_stays_bounded_under_load(open_store, path, monkeypatch):
    """As the engine does it: upkeep after a tick's replies, whenever it is due."""
    monkeypatch.setattr(module, "CHECKPOINT_BYTES", 1_000_000)
    store = open_store()
    for batch in range(200):
        store.commit(blocks([record(f"s{(batch * 7 + i) % 500}", batch) for i in range(16)]), [])
        if store.upkeep_due:
            store.tend()
    assert Path(f"{path}-wal").stat().st_size < 3_000_000
    assert path.stat().st_size < 3_000_000
    assert len(store) == 500


def test_a_chunk_of_a_known_session_writes_no_index(open_store):
    """Its name and its model stay, and its deadline is looked at only when the one before has passed."""
    store = open_store()
    store.commit(blocks([timed("a", 1, 5.0)]), [])
    list_sessions(store, "", 1)
    expiries = "SELECT due, session FROM expiries"
    before = store._database.execute(expiries).fetchall()
    changes = store._database.total_changes
    store.commit(blocks([timed("a", 2, 6.0)]), [])
    assert store._database.total_changes - changes == 1  # a row of the journal
    list_sessions(store, "", 1)  # writes it to the tables
    assert store._database.total_changes - changes == 4  # also the session, the state, and the row is deleted
    assert store._database.execute(expiries).fetchall() == before == [(5_000_000, 1)]
    assert store.expired(5.5, 10) == []
    assert store._database.execute(expiries).fetchall() == [(6_000_000, 1)]
    assert store.expired(6.5, 10) == ["a"]


def test_a_session_whose_deadline_moves_nearer_expires_at_the_nearer_one(open_store):
    store = open_store()
    store.commit(blocks([timed("a", 1, 50.0), timed("b", 1, NEVER)]), [])
    store.commit(blocks([timed("a", 2, 5.0), timed("b", 2, 6.0)]), [])
    assert store.expired(7.0, 10) == ["a", "b"]


def test_a_deadline_may_move_away_and_back_and_a_session_may_come_again(open_store):
    store = open_store()
    for position, deadline in enumerate((5.0, 9.0, 5.0, 9.0, 5.0), 1):
        store.commit(blocks([timed("a", position, deadline)]), [])
    store.commit([], [Tombstone("a", 5, "deleted", 1.0)])
    store.load(["a"])
    store.commit(blocks([timed("a", 1, 5.0)]), [])
    assert store.expired(6.0, 10) == ["a"]


def test_every_commit_waits_for_the_disk(open_store):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    assert store._database.execute("PRAGMA synchronous").fetchone()[0] == FULL
    take_log_in(store)
    assert store._database.execute("PRAGMA synchronous").fetchone()[0] == FULL


@pytest.mark.parametrize("failure", ["none", "refused", "interrupted"])
def test_a_write_to_the_tables_does_not_wait_and_the_next_commit_does(open_store, monkeypatch, failure):
    """Whether it succeeds, is refused before it begins, or fails within its transaction."""
    store = open_store()
    synchronous = lambda: store._database.execute("PRAGMA synchronous").fetchone()[0]  # noqa: E731
    write, during = store._tables.write, []

    def watched(*arguments: object) -> None:
        during.append(synchronous())
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store._tables, "write", watched)
    store.commit(blocks([record("a"), record("b")]), [])
    if failure == "none":
        list_sessions(store, "", 9)
    else:
        fault = (
            read_only(store) if failure == "refused" else interrupted_after(store, 60, in_transaction=True)
        )
        with fault, pytest.raises(StoreFailed):
            list_sessions(store, "", 9)
        assert not store._database.in_transaction
    assert (during, synchronous()) == ([NORMAL], FULL)
    store.commit(blocks([record("a", 2)]), [])
    assert synchronous() == FULL


class FailingRollback:
    """A database that refuses the next few ROLLBACKs. Nothing else ends a transaction that has failed."""

    def __init__(self, store: SqliteStore, refusals: int) -> None:
        self._real, self.refusals, self.levels = store._database, refusals, list[int]()
        for owner in (store, store._tables, store._journal):
            owner._database = self  # type: ignore[assignment]

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "ROLLBACK" and self.refusals:
            self.refusals -= 1
            raise sqlite3.OperationalError("disk I/O error")
        if statement == APPEND:
            self.levels.append(self._real.execute("PRAGMA synchronous").fetchone()[0])
        return self._real.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.mark.parametrize("refusals", [1, 2, 3])
def test_a_commit_waits_for_the_disk_though_a_rollback_has_failed(open_store, path, tmp_path, refusals):
    """Of a write to the tables, which does not wait: by it, behind it, and at the next call."""
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    database = FailingRollback(store, refusals)
    with interrupted_after(store, 60, in_transaction=True), pytest.raises(StoreFailed):
        list_sessions(store, "", 9)
    for _ in range(refusals - 2):
        with pytest.raises(StoreFailed):
            store.commit(blocks([record("a", 2)]), [])
    assert (database.refusals, database.levels) == (0, [])
    store.commit(blocks([record("a", 2)]), [])
    assert database.levels == [FULL]
    with closing(SqliteStore(copy_of(path, tmp_path / "crashed"), 100, NEVER)) as crashed:
        assert {found.session: found.position for found in crashed.load(["a", "b"])[0]} == {"a": 2, "b": 1}
    assert [name for name, _ in list_sessions(store, "", 9)] == ["a", "b"]


def test_a_write_to_the_tables_that_a_crash_undoes_loses_nothing(open_store, path, tmp_path):
    """It waits for no disk, so a crash may leave any part of it: of the log, each frame is the last once."""
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    list_sessions(store, "", 1)
    store.commit(blocks([record("a", 2), record("c")]), [])
    store.commit(blocks([record("a", 3)]), [Tombstone("b", 1, "deleted", 1.0)])
    on_disk = wal(path).stat().st_size
    list_sessions(store, "", 1)
    written = wal(path).stat().st_size
    assert store._database.execute("SELECT count(*) FROM journal").fetchone() == (0,)
    batches = []
    for end in range(on_disk, written + 1, schema.PAGE_BYTES + 24):  # a frame has a header of 24 bytes
        crashed = copy_of(path, tmp_path / f"crash-{end}")
        os.truncate(wal(crashed), end)
        with schema.reading(crashed) as database:
            batches += database.execute("SELECT count(*) FROM journal").fetchone()
        again = open_killed(crashed)
        records, others = again.load("abc")
        assert {found.session: found.position for found in records} == {"a": 3, "c": 1}
        assert (others, len(again)) == ({"b": Tombstone("b", 1, "deleted", 1.0)}, 2)
        assert [name for name, _ in list_sessions(again, "", 9)] == ["a", "c"]
        again.close()
    assert end == written
    assert batches == [2] * (len(batches) - 1) + [0]
    assert len(batches) > 3


def test_tombstones_leave_the_file_with_their_time(path):
    now = 1e9
    store = SqliteStore(path, 100, 60.0, clock=lambda: now)
    for session in ("a", "b"):
        store.commit([], [Tombstone(session, 1, "deleted", now)])
        take_log_in(store)
        now += 61
    assert store._database.execute("SELECT id FROM tombstones").fetchall() == [(b"b",)]
    store.close()


def test_the_files_are_for_their_owner_alone(open_store, path):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    store.save_no_expiry_before(1e9)
    for file in (path, mark_path(path), Path(f"{path}-wal"), Path(f"{path}-held")):
        assert file.stat().st_mode & 0o077 == 0


@contextmanager
def interrupted_after(store: SqliteStore, steps: int, *, in_transaction: bool) -> Iterator[None]:
    """SQLite is interrupted at this step of its virtual machine.

    Parameters
    ----------
    in_transaction : count only steps of a transaction: SQLite also calls the handler when COMMIT is done
    """
    left = iter(range(steps, -(10**6), -1))
    is_counted = lambda: store._database.in_transaction or not in_transaction  # noqa: E731
    store._database.set_progress_handler(lambda: is_counted() and next(left) == 0, 1)
    try:
        yield
    finally:
        store._database.set_progress_handler(None, 1)


def test_a_commit_that_is_interrupted_at_any_step_keeps_nothing(open_store):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    for steps in range(1, 2000):
        try:
            with interrupted_after(store, steps, in_transaction=False):
                store.commit(blocks([record("a", 2), record("c")]), [Tombstone("b", 1, "deleted", 1.0)])
        except StoreFailed:
            assert (store.load(["a"])[0][0].position, len(store)) == (1, 2)
            (count,) = store._database.execute("SELECT count(*) FROM journal").fetchone()
            if count == 2:  # SQLite also calls the handler when the statement is done
                break
    assert steps > 10


def test_a_write_to_the_tables_that_is_interrupted_at_any_step_loses_nothing(open_store):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    list_sessions(store, "", 1)
    store.commit(blocks([record("a", 2), record("c")]), [Tombstone("b", 1, "deleted", 1.0)])
    for steps in range(1, 2000):
        try:
            with interrupted_after(store, steps, in_transaction=True):
                list_sessions(store, "", 1)
        except StoreFailed:
            assert ([found.position for found in store.load(["a", "b", "c"])[0]], len(store)) == ([2, 1], 2)
            assert store._database.execute("SELECT count(*) FROM journal").fetchone() == (1,)
        else:
            break
    assert steps > 50
    assert [name for name, _ in list_sessions(store, "", 9)] == ["a", "c"]
    assert store._database.execute("SELECT count(*) FROM journal").fetchone() == (0,)


def test_the_error_of_a_failure_does_not_name_the_file(open_store, path):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    with read_only(store), pytest.raises(StoreFailed) as failed:
        store.commit(blocks([record("a", 2)]), [])
    moved = path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreFailed) as lost:
        store.tend()
    moved.rename(path)
    for error in (failed.value, lost.value):
        assert path.name not in error.detail
        assert str(path.parent) not in error.detail


# A file of the version before, which kept batches in a journal.

LEGACY = Path(__file__).parent / "data" / "layout-1.sqlite"


def test_a_file_of_layout_1_opens_with_all_that_it_held(open_store, path):
    """Written by commit 69504d8: some batches were folded into its tables, and some were not."""
    path.write_bytes(LEGACY.read_bytes())
    for _ in range(2):
        store = open_store()
        found = {one.session: (one.position, one.body, one.deadline) for one in store.load(LEGACY_NAMES)[0]}
        assert found == {
            "s0": (3, b"s0 at 3", NEVER),
            "s1": (2, b"s1 at 2", 1.5e9),
            "s2": (3, b"s2 at 3", NEVER),
            "s3": (1, b"s3 at 1", NEVER),
            "new": (1, b"new at 1", NEVER),
            "acme/s0": (4, b"acme/s0 at 4", 2e9),
        }
        assert store.load(["s4", "s5"])[1] == {
            "s4": Tombstone("s4", 1, "expired", 1e9 + 0.25),
            "s5": Tombstone("s5", 1, "deleted", 1e9),
        }
        assert len(store) == 6
        assert [name for name, _ in list_sessions(store, "", 9)] == ["acme/s0", "new", "s0", "s1", "s2", "s3"]
        assert list_sessions(store, "", 9)[4] == ("s2", "0" * 64)
        assert store.expired(1.9e9, 9) == ["s1"]
        store.close()


LEGACY_NAMES = ("s0", "s1", "s2", "s3", "s4", "s5", "new", "acme/s0")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM journal WHERE sequence = 4", "batch 4 of its journal is missing"),
        ("UPDATE journal SET heads = replace(heads, 's0', 's9') WHERE sequence = 3", "batch 3 .* is damaged"),
        ("UPDATE journal SET bodies = substr(bodies, 1, 9) WHERE sequence = 3", "batch 3 .* cut short"),
        ("UPDATE carryover SET folded = 3", "says of its tables is damaged"),
    ],
)
def test_a_damaged_file_of_layout_1_is_refused_and_left_as_it_is(open_store, path, statement, reason):
    path.write_bytes(LEGACY.read_bytes())
    change_file(path, statement)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=f"{path}.*{reason}"):
        open_store()
    assert path.read_bytes() == before


# A file of layout 2, which had no journal.


def as_layout_2(path: Path) -> None:
    """Make a file that was closed in order what the version before had written."""
    change_file(path, "DROP TABLE journal", "DROP TABLE labels", "PRAGMA user_version = 2")


def test_a_file_of_layout_2_opens_with_all_that_it_held(open_store, path):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [Tombstone("c", 4, "deleted", 1e9)])
    store.commit(blocks([record("a", 2)]), [])
    store.close()
    as_layout_2(path)
    for position in (2, 3):
        store = open_store()
        assert store.load(["a", "b", "c"]) == (
            [record("a", position), record("b")],
            {"c": Tombstone("c", 4, "deleted", 1e9)},
        )
        store.commit(blocks([record("a", position + 1)]), [])
        store.close()


def test_a_file_of_layout_3_which_had_no_labels_is_listed_by_those_it_gets(open_store, path):
    store = open_store()
    store.commit(blocks([record("a"), record("b")]), [])
    store.close()
    change_file(path, "DROP TABLE labels", "PRAGMA user_version = 3")
    for _ in range(2):
        store = open_store()
        assert [found.session for found in store.load(["a", "b"])[0]] == ["a", "b"]
        store.commit(blocks([labelled("b", "site:north")]), [])
        assert store.names(NamesQuery("", 9, labels=("site:north",))).found == [("b", PRINT)]
        store.close()


# Batches that are in the journal and not in the tables.


def copy_of(path: Path, folder: Path) -> Path:
    """The files of an open store, as a crash at this moment would leave them."""
    folder.mkdir()
    for file in path.parent.glob("carryover.sqlite*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / path.name


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_between_any_two_batches_leaves_all_of_them(open_store, path, tmp_path, monkeypatch, seed):
    """Few sessions may be pending, so that the tables often have a part of what is in the journal."""
    monkeypatch.setattr(module, "PENDING_SESSIONS", 8)
    monkeypatch.setattr(module, "WRITTEN_AT_ONCE", 3)
    draw, store = random.Random(seed), open_store()
    right: dict[str, Record] = {}
    gone: dict[str, Tombstone] = {}
    partial = 0
    for batch in range(1, 120):
        names = draw.sample([f"s{i}" for i in range(24)], draw.randrange(1, 6))
        removed = [name for name in names if name in right and draw.random() < 0.2]
        changed = {name: record(name, batch) for name in names if name not in removed}
        tombstones = [Tombstone(name, right[name].position, "deleted", 1.0) for name in removed]
        store.commit(blocks(list(changed.values())), tombstones)
        right |= changed
        gone = {name: gone[name] for name in gone if name not in changed}
        gone |= {tombstone.session: tombstone for tombstone in tombstones}
        for name in removed:
            del right[name]
        assert len(store) == len(right)
        if store.upkeep_due:
            store.tend()
            partial += bool(store._pending)
        if batch % 10 == 0:
            crashed = copy_of(path, tmp_path / f"crash-{batch}")
            report = check_file(crashed)
            assert (report.sessions, report.readable, report.is_sound) == (len(right), len(right), True)
            again = open_killed(crashed)
            records, others = again.load(f"s{i}" for i in range(24))
            assert {found.session: found for found in records} == right
            assert (others, len(again)) == (gone, len(right))
            assert [name for name, _ in list_sessions(again, "", 99)] == sorted(right)
            again.close()
    assert partial > 5


def test_sessions_that_change_often_are_written_to_the_tables_seldom(open_store, monkeypatch):
    monkeypatch.setattr(module, "JOURNAL_BYTES", 50_000)
    store = open_store()
    for position in range(1, 101):
        store.commit(blocks([record(f"s{i}", position) for i in range(10)]), [])
        if store.upkeep_due:
            store.tend()
        assert store._journal.nbytes < 60_000
    rows = store._database.execute("SELECT position FROM sessions").fetchall()
    assert len(rows) == 10
    changes = store._database.total_changes
    assert changes < 100 + 100 + 15 * 10 * 3  # the rows of the journal, and few of the sessions


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            "UPDATE journal SET changes = zeroblob(length(changes)) WHERE sequence = 4",
            "batch 4 .* is damaged",
        ),
        ("UPDATE journal SET changes = 'text' WHERE sequence = 4", "batch 4 .* is damaged"),
        ("UPDATE journal SET crc = crc + 1 WHERE sequence = 4", "batch 4 .* is damaged"),
        ("DELETE FROM journal WHERE sequence = 4", "batch 4 .* is missing"),
    ],
)
def test_a_damaged_journal_is_refused_and_left_as_it_is(killed, statement, reason):
    change_file(killed, statement)
    before = killed.read_bytes()
    with pytest.raises(ConfigError, match=f"{killed} is damaged: {reason}.*--accept-loss"):
        open_killed(killed)
    assert killed.read_bytes() == before
    assert "batch 4 of its journal" in check_file(killed).loss
    store = open_killed(killed, accept_loss=True)
    assert store.load(["s0"])[0] == [record("s0", 6)]
    store.close()
    open_killed(killed).close()


# Commits that were lost.


@pytest.fixture
def killed(open_store, path) -> Path:
    """The files of a store that was killed with five batches in its log and none of them in the file."""
    store = open_store()
    store.commit(blocks([record(f"s{i}") for i in range(20)]), [])
    take_log_in(store)
    for position in range(2, 7):
        store.commit(blocks([record("s0", position)]), [])
    folder = path.parent / "killed"
    folder.mkdir()
    for file in path.parent.glob("carryover.sqlite*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / path.name


def open_killed(path: Path, *, accept_loss: bool = False) -> SqliteStore:
    return SqliteStore(path, 100, NEVER, accept_loss=accept_loss)


def wal(path: Path) -> Path:
    return Path(f"{path}-wal")


def damaged_log(path: Path, damage: str, seed: int) -> None:
    """Damage the part of the write-ahead log that holds batches which are nowhere else."""
    data, draw = bytearray(wal(path).read_bytes()), random.Random(seed)
    frame = schema.PAGE_BYTES + 24
    if damage == "removed":
        wal(path).unlink()
        return
    if damage == "cut":
        del data[32 + frame * draw.randrange(4) + draw.randrange(frame) :]
    elif damage == "bit":
        data[32 + draw.randrange(2 * frame)] ^= 1 << draw.randrange(8)
    else:
        start = 32 + frame * draw.randrange(3)
        data[start : start + frame] = bytes(frame)
    wal(path).write_bytes(data)


def test_a_store_that_was_killed_opens_with_all_of_its_batches(killed):
    store = open_killed(killed)
    assert store.load(["s0"])[0] == [record("s0", 6)]
    store.close()


@pytest.mark.parametrize("period", [0.0, 0.25])
def test_what_is_on_disk_is_not_refused_though_its_mark_cannot_be_written(
    open_store, path, monkeypatch, period
):
    store = open_store(period)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(module.CommitMark, "_write", full)
        store.commit(blocks([record("a", 1)]), [])
        with pytest.raises(StoreFailed, match="commit mark"):  # so the server is not ready
            store.tend()
        store.commit(blocks([record("a", 2)]), [])
    assert store.load(["a"])[0] == [record("a", 2)]
    take_log_in(store)
    assert read_mark(path).sequence == 2
    store.close()
    assert open_store().load(["a"])[0] == [record("a", 2)]


@pytest.mark.parametrize("damage", ["removed", "cut", "bit", "zeroed"])
@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_or_missing_log_is_refused_with_what_was_lost(killed, damage, seed):
    damaged_log(killed, damage, seed)
    before = {file: file.read_bytes() for file in killed.parent.glob("carryover.sqlite*")}
    for _ in range(2):  # to refuse a store does not make it look sound
        with pytest.raises(ConfigError, match=rf"{killed}.*batch 6 was committed at 20.*: \d are missing"):
            open_killed(killed)
    after = {file: file.read_bytes() for file in killed.parent.glob("carryover.sqlite*")}
    assert {file: after[file] for file in before if not file.name.endswith("-shm")} == {
        file: data for file, data in before.items() if not file.name.endswith("-shm")
    }
    assert "are missing" in check_file(killed).loss
    store = open_killed(killed, accept_loss=True)
    assert len(store.load([f"s{i}" for i in range(20)])[0]) == 20
    store.commit(blocks([record("s0", 9)]), [])
    store.close()
    open_killed(killed).close()  # what was accepted once is no reason to refuse the next start


@pytest.mark.parametrize("remove_log", [True, False])
def test_a_file_whose_mark_is_missing_after_a_crash_is_refused(killed, remove_log):
    mark_path(killed).unlink()
    if remove_log:
        wal(killed).unlink()
    with pytest.raises(ConfigError, match=r"carryover.sqlite-mark is missing"):
        open_killed(killed)
    open_killed(killed, accept_loss=True).close()


def test_a_damaged_mark_is_refused_and_one_whose_last_write_was_cut_short_is_not(killed):
    data = bytearray(mark_path(killed).read_bytes())
    data[6 % 2 * 32 + 9] ^= 1
    mark_path(killed).write_bytes(data)
    open_killed(killed).close()
    mark_path(killed).write_bytes(bytes(64))
    with pytest.raises(ConfigError, match="mark is damaged"):
        open_killed(killed)
    open_killed(killed, accept_loss=True).close()


def test_the_mark_of_another_file_is_refused(killed, tmp_path):
    other = tmp_path / "other.sqlite"
    open_killed(other).close()
    mark_path(killed).write_bytes(mark_path(other).read_bytes())
    with pytest.raises(ConfigError, match="belongs to another file"):
        open_killed(killed)


def test_a_file_that_was_closed_in_order_may_be_copied_alone(open_store, path, tmp_path):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    store.close()
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    store = open_killed(copy)
    assert store.load(["a"])[0] == [record("a")]
    store.close()


@pytest.mark.parametrize("layout", [2, 3])
def test_an_older_copy_in_the_place_of_a_newer_file_is_refused(open_store, path, layout):
    store = open_store()
    store.commit(blocks([record("a")]), [])
    store.close()
    if layout == 2:
        as_layout_2(path)
    older = path.read_bytes()
    store = open_store()
    store.commit(blocks([record("a", 2)]), [])
    store.close()
    path.write_bytes(older)
    with pytest.raises(ConfigError, match="batch 2 was committed"):
        open_store()


# Sessions that a damaged index no longer finds.


def damage_index(path: Path, table: str, old: bytes, new: bytes) -> None:
    """Change an id on the one page of an index, and nowhere else."""
    database = sqlite3.connect(path)
    (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    database.close()
    data = bytearray(path.read_bytes())
    start = (page - 1) * schema.PAGE_BYTES
    part = bytes(data[start : start + schema.PAGE_BYTES])
    assert part.count(old) == 1
    data[start : start + schema.PAGE_BYTES] = part.replace(old, new)
    path.write_bytes(data)


@pytest.mark.parametrize("index", ["sqlite_autoindex_sessions_1", "sessions_by_model"])
def test_a_session_that_a_damaged_index_hides_is_counted_and_never_begins_anew(open_store, path, index):
    store = open_store()
    store.commit(blocks([record(f"pump-{i:02}") for i in range(20)]), [])
    store.close()
    damage_index(path, index, b"pump-07", b"pump-0w")
    with pytest.raises(ConfigError, match=f"{path} is damaged: of its 20 sessions at least 1"):
        open_store()
    report = check_file(path)
    assert not report.is_sound
    assert (report.sessions, report.damaged + report.missing >= 1) == (20, True)
    open_store(accept_loss=True)


def test_the_check_counts_sessions_that_are_sound_damaged_and_missing(open_store, path):
    store = open_store()
    store.commit(blocks([record(f"s{i}") for i in range(9)]), [])
    store.close()
    assert check_file(path).is_sound
    path.write_bytes(path.read_bytes().replace(b"s3:1;", b"s3:2;"))
    change_file(path, "PRAGMA writable_schema = 1", "UPDATE state SET sessions = 10")
    report = check_file(path)
    assert (report.sessions, report.readable, report.damaged, report.missing) == (10, 8, 1, 1)
    assert report.examples == ("s3",)


# Under the engine.


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_store_that_fails_turns_readiness_red_and_back_by_itself(start_http, store):
    async with start_http() as service:
        kept = service.engine.residents.store
        kept.upkeep_seconds = 0.01
        await service.advance("a", [[0.5]], 0)
        with read_only(kept):
            refused = await service.advance("a", [[0.6]], 1)
            assert (refused.status, refused.problem["title"]) == (503, "Store failed")
            answer = await service.http.get("/health/ready")
            assert answer.status_code == 503
            assert "readonly" in answer.json()["reasons"][0]
            service.engine.draining = True  # the failing store counts for more: a balancer closes the sockets
            assert (await service.http.get("/health/balancer")).status_code == 503
            service.engine.draining = False
        await until(lambda: not service.engine.readiness_problems())
        assert (await service.advance("a", [[0.6]], 1)).status == 200


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_sessions_that_cannot_be_served_are_refused_and_the_others_go_on(start_http, store):
    async with start_http() as service:
        kept = service.engine.residents.store
        kept.commit(blocks([record("theirs", 3)]), [])
        kept.commit(blocks([record("broken", 3)]), [])
        list_sessions(kept, "", 1)  # writes them to the tables
        kept._database.execute("UPDATE sessions SET crc = crc + 1 WHERE id = 'broken'")
        for at in (None, 0, 3):
            theirs = await service.advance("theirs", [[0.5]], at)
            broken = await service.advance("broken", [[0.5]], at)
            assert (theirs.status, broken.status) == (503, 500)
        assert (await service.advance("a", [[0.5]], 0)).status == 200
        listed = (await service.http.get("/sessions")).json()["sessions"]
        assert [session["session"] for session in listed] == ["a", "broken", "theirs"]
