"""A store's files belong to a number of workers: another number is refused, and `divide` loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli import run
from app.errors import ConfigError
from app.stores import Record, Tombstone
from app.stores.sqlite.store import SqliteStore
from app.workers import store_files
from app.workers.place import owner_of
from app.workers.store_files import claim, divide, stored_workers, worker_path, worker_paths
from tests.helpers.records import blocks, list_sessions

NAMES = [f"tenant/session-{i}" for i in range(2500)]


def record(name: str) -> Record:
    """A session of its name, in one of two models."""
    return Record(name, f"model-{len(name) % 2}", 2e9, f"carry of {name}".encode(), len(name))


def opened(path: Path) -> SqliteStore:
    return SqliteStore(path, 10_000, float("inf"))


@pytest.fixture
def path(tmp_path) -> Path:
    """A store of one worker."""
    path = tmp_path / "store.sqlite"
    store = opened(path)
    store.commit(blocks([record(name) for name in NAMES]), [])
    store.commit([], [Tombstone(f"gone-{i}", i, "deleted", 1e9) for i in range(1500)])
    store.save_no_expiry_before(123.5)
    store.close()
    return path


def check(path: Path, workers: int) -> None:
    """Every session and tombstone is in its worker's file."""
    found, gone = set(), set()
    for index, file in enumerate(worker_paths(path, workers)):
        store = opened(file)
        names = [name for name, _ in list_sessions(store, "", 10_000)]
        records, _ = store.load(names)
        assert sorted(records, key=lambda each: each.session) == sorted(
            (record(name) for name in names), key=lambda each: each.session
        )
        removed = [tombstone for page in store.all_tombstones(100) for tombstone in page]
        assert all(owner_of(name, workers) == index for name in names)
        assert all(owner_of(tombstone.session, workers) == index for tombstone in removed)
        found.update(names)
        gone.update((tombstone.session, tombstone.position, tombstone.removed) for tombstone in removed)
        assert store.no_expiry_before == 123.5
        store.close()
    assert found == set(NAMES)
    assert gone == {(f"gone-{i}", i, 1e9) for i in range(1500)}


def test_dividing_to_and_fro_loses_nothing_and_leaves_no_file(path):
    before = {file.name for file in path.parent.iterdir()}
    for workers in (2, 5, 3, 1):
        assert sum(divide(path, workers)) == len(NAMES)
        assert stored_workers(path) == workers
        check(path, workers)
    assert {file.name for file in path.parent.iterdir()} == before


def test_another_number_of_workers_is_refused_and_says_what_to_do(path):
    claim(path, 1)
    with pytest.raises(ConfigError, match=r"belong to 1 worker: start with --workers 1, or .* divide .* 4"):
        claim(path, 4)
    list(divide(path, 4))
    claim(path, 4)
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="belong to 4 workers"):
            claim(path, workers)


def test_a_new_store_belongs_to_the_workers_of_its_first_start(tmp_path):
    path = tmp_path / "new.sqlite"
    assert stored_workers(path) is None
    claim(path, 3)
    assert stored_workers(path) == 3
    with pytest.raises(ConfigError, match="belong to 3 workers"):
        claim(path, 1)


@pytest.mark.parametrize("commits", [0, 1, 3])
def test_an_interrupted_division_has_changed_nothing_and_can_be_repeated(path, commits):
    division = divide(path, 4)
    for _ in range(commits):
        next(division)
    division.close()
    assert stored_workers(path) == 1
    check(path, 1)
    list(divide(path, 3))
    check(path, 3)


def test_a_division_that_fails_before_its_last_step_has_changed_nothing(path, monkeypatch):
    def fail(*_: object) -> None:
        raise ConfigError("the disk is full")

    monkeypatch.setattr(store_files, "_write_count", fail)
    with pytest.raises(ConfigError, match="full"):
        list(divide(path, 4))
    check(path, 1)


def test_a_store_that_is_open_is_not_divided(path):
    store = opened(path)
    with pytest.raises(ConfigError, match="has it open"):
        list(divide(path, 2))
    store.close()
    check(path, 1)


def test_the_command_divides(path, capsys):
    assert run(["sessions", "divide", str(path), "2"]) == 0
    assert "2500 sessions divided among 2 workers: store.sqlite.0-of-2, " in capsys.readouterr().out
    check(path, 2)
    assert run(["sessions", "divide", str(path.with_name("nothing")), "2"]) == 2
    assert "there is no store" in capsys.readouterr().err


def test_a_check_of_a_store_of_workers_names_the_file_to_check(path, capsys):
    assert run(["sessions", "divide", str(path), "2"]) == 0
    assert run(["sessions", "check", str(path)]) == 2
    assert f"belong to 2 workers, each with a file of its own: check each, such as {path}.0-of-2" in (
        capsys.readouterr().err
    )
    assert run(["sessions", "check", f"{path}.0-of-2"]) == 0
    assert run(["sessions", "check", f"{path}-none"]) == 2
    assert f"path '{path}-none' does not exist" in capsys.readouterr().err


def test_a_file_of_a_worker_has_its_place_in_its_name():
    assert worker_path(Path("/data/a.sqlite"), 0, 1) == Path("/data/a.sqlite")
    assert worker_path(Path("/data/a.sqlite"), 2, 4) == Path("/data/a.sqlite.2-of-4")


def test_sessions_are_spread_evenly():
    for workers in (2, 3, 4, 7, 16):
        for names in (NAMES, [f"s{i}" for i in range(2500)], [f"plant-{i}/main" for i in range(2500)]):
            counts = [0] * workers
            for name in names:
                counts[owner_of(name, workers)] += 1
            assert max(counts) < 1.25 * len(names) / workers, (workers, names[0], counts)
