"""`carryover sessions check`, and `carryover serve --accept-loss`."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from app.cli import run
from app.stores import Record
from app.stores.sqlite.store import SqliteStore
from tests.helpers.records import blocks

NEVER = float("inf")


@pytest.fixture
def killed(tmp_path) -> Path:
    """A store whose server was killed, with its last two batches only in the write-ahead log."""
    path = tmp_path / "running" / "sessions.sqlite"
    path.parent.mkdir()
    store = SqliteStore(path, 100, NEVER)
    for position in (1, 2):
        record = Record("pump-7", "f" * 64, NEVER, b"a body", position)
        store.commit(blocks([record]), [])
    shutil.copytree(path.parent, tmp_path / "killed")
    store.close()
    return tmp_path / "killed" / path.name


def test_check_reports_a_sound_store_and_changes_nothing(killed, capsys):
    before = {file.name: file.read_bytes() for file in killed.parent.iterdir()}
    assert run(["sessions", "check", str(killed)]) == 0
    assert capsys.readouterr().out == ("1 session: 1 sound, 0 damaged, 0 not found\nno commits were lost\n")
    assert {file.name: file.read_bytes() for file in killed.parent.iterdir()} == before


def test_check_reports_lost_commits_and_damage(killed, capsys):
    killed.with_name("sessions.sqlite-wal").unlink()
    assert run(["sessions", "check", str(killed), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["sessions"], report["sound"]) == (0, False)
    assert "batch 2 was committed at" in report["loss"]


def test_check_names_damaged_sessions(killed, capsys):
    SqliteStore(killed, 100, NEVER).close()  # writes what is in the journal to the tables
    database = sqlite3.connect(killed)
    database.execute("UPDATE sessions SET position = 9")
    database.commit()
    database.close()
    assert run(["sessions", "check", str(killed)]) == 1
    assert "damaged: pump-7" in capsys.readouterr().out


def test_check_reports_a_damaged_journal(killed, capsys):
    database = sqlite3.connect(killed)
    database.execute("UPDATE journal SET changes = replace(changes, 'body', 'bode') WHERE sequence = 2")
    database.commit()
    database.close()
    assert run(["sessions", "check", str(killed)]) == 1
    assert "lost commits: batch 2 of its journal is damaged" in capsys.readouterr().out


def test_serve_refuses_a_store_that_lost_commits_unless_that_is_accepted(killed, monkeypatch, capsys):
    accepted: list[bool] = []

    def serving(settings: object, *, accept_loss: bool = False) -> int:
        store = SqliteStore(killed, 100, NEVER, accept_loss=accept_loss)
        accepted.append(accept_loss)
        store.close()
        return 0

    monkeypatch.setattr("app.server.run", serving)
    killed.with_name("sessions.sqlite-wal").unlink()
    assert run(["serve"]) == 2
    assert "--accept-loss" in capsys.readouterr().err
    assert run(["serve", "--accept-loss"]) == 0
    assert run(["serve"]) == 0  # the next start needs it no more
    assert accepted == [True, False]
