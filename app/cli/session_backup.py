"""Backup: export every session of a running server to a folder, and import them into a server.

The folder has a JSON line for each session in `sessions.jsonl`, and the state of each session in `states/`.
An export appends the line of each session that has changed since the last export, after its state. Of two
lines of one session the later counts. At its end it sorts the list. So an export after an interruption, and
one a day later, both write only what is missing or has changed.

An import notes in `imported.SERVER` the last session that it sent, so that it continues there after an
interruption; what the server has lost since is sent again. At its end it removes the note: the next import
sends everything again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carryover import Carryover, SessionDamaged, SessionGone, UnknownSession
from carryover.files import replace_file

from app.errors import CarryoverError

LIST_FILE, STATES_FOLDER = "sessions.jsonl", "states"
MOVED_BY = ("model", "fingerprint", "position", "epoch", "observations_since_reset", "updated")
"""A session whose fields are all as in the list has the state that is in the folder."""


class BackupFailed(CarryoverError):
    """The folder is not a backup."""

    title = "Backup failed"


@dataclass
class ExportCounts:
    """What an export did with the sessions.

    written : their states are new in the folder
    unchanged : they have not changed since the folder's last export
    kept : they are in the folder and not on the server any more
    removed : they were removed from the folder, because they are not on the server any more
    unreadable : the server cannot read them; why, by session. What the folder has of them stays
    """

    written: int = 0
    unchanged: int = 0
    kept: int = 0
    removed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def export_sessions(
    server: Carryover, folder: Path, counts: ExportCounts | None = None, *, prune: bool = False
) -> Iterator[str]:
    """Write each session that the folder does not have as it is now, and yield the id of each session.

    A session that is deleted meanwhile is skipped. One that the server cannot read does not keep the others
    from being written.

    Parameters
    ----------
    counts : is counted up, and has the sessions that could not be read
    prune : remove sessions from the folder that are not on the server any more

    Raises
    ------
    BackupFailed, OSError, carryover.CarryoverError
    """
    counts = counts or ExportCounts()
    (folder / STATES_FOLDER).mkdir(parents=True, exist_ok=True)
    gone = {entry["session"]: entry for entry in read_session_list(folder)}
    current: dict[str, dict[str, Any]] = {}
    with (folder / LIST_FILE).open("a", encoding="utf-8") as out:
        for entry in server.sessions(detail=True):
            session = entry["session"]
            line = _line(entry, folder)
            try:
                if gone.get(session) == line:
                    counts.unchanged += 1
                elif _write_state(server, folder, session):
                    # After the file: a line of an interrupted export never names an incomplete file.
                    out.write(json.dumps(line) + "\n")
                    out.flush()
                    counts.written += 1
                else:
                    continue
            except SessionDamaged as error:
                counts.unreadable[session] = str(error)
                if session not in gone:
                    continue
                line = gone[session]
            gone.pop(session, None)
            current[session] = line
            yield session
    if prune:
        counts.removed = len(gone)
    else:
        counts.kept = len(gone)
        current |= gone
    _write_list(folder, current)
    if prune:
        for session in gone:
            _state_file(folder, session).unlink(missing_ok=True)


def import_sessions(server: Carryover, folder: Path) -> Iterator[str]:
    """Send each session of the folder, and yield its id; after an interrupted import, only the others.

    Raises
    ------
    BackupFailed, OSError, carryover.CarryoverError
    """
    check_backup(folder)
    mark = folder / f"imported.{re.sub('[^A-Za-z0-9.]+', '-', server.url.partition('://')[2])}"
    entries = read_session_list(folder)
    last = _interrupted_at(mark, folder)
    # The end of a server that keeps its sessions in memory may be what has interrupted the import.
    present = {entry["session"] for entry in server.sessions()} if last else set()
    for entry in entries:
        session = entry["session"]
        if session <= last and session in present:
            continue
        server.session(session).load(_state_file(folder, session))
        server.forget(session)
        replace_file(mark, json.dumps({"session": session, "list": _list_digest(folder)}).encode())
        yield session
    mark.unlink(missing_ok=True)


def check_backup(folder: Path) -> None:
    """Check that a folder is a backup. That of a server without sessions has a list, too.

    Raises
    ------
    BackupFailed : it has no list of sessions
    """
    if not (folder / LIST_FILE).is_file():
        raise BackupFailed(
            f"{folder} is no backup: it has no {LIST_FILE}. A backup is a folder with {LIST_FILE} and "
            f"{STATES_FOLDER}/, as `carryover sessions export` writes it"
        )


def read_session_list(folder: Path) -> list[dict[str, Any]]:
    """The entries of the folder's list, in the order of the ids; an incomplete last line is removed from it.

    Raises
    ------
    BackupFailed : the file is not such a list
    """
    path = folder / LIST_FILE
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        entries = [json.loads(line) for line in whole.splitlines()]
        if any(not isinstance(entry["session"], str) for entry in entries):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise BackupFailed(f"{path} is not a list of sessions") from None
    latest = {entry["session"]: entry for entry in entries}
    return [latest[session] for session in sorted(latest)]


def _line(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    path = _state_file(folder, entry["session"]).relative_to(folder)
    return {"session": entry["session"]} | {name: entry.get(name) for name in MOVED_BY} | {"file": str(path)}


def _write_state(server: Carryover, folder: Path, session: str) -> bool:
    """Write a session's state; False if it does not exist any more."""
    try:
        state = server.session(session).state()
    except (UnknownSession, SessionGone):
        return False
    finally:
        server.forget(session)
    path = _state_file(folder, session)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, state)
    return True


def _write_list(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    text = "".join(json.dumps(entries[session]) + "\n" for session in sorted(entries))
    replace_file(folder / LIST_FILE, text.encode())


def _interrupted_at(mark: Path, folder: Path) -> str:
    """The last session that an interrupted import of this list has sent; empty if there is none."""
    try:
        noted = json.loads(mark.read_text(encoding="utf-8"))
        return str(noted["session"]) if noted["list"] == _list_digest(folder) else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _list_digest(folder: Path) -> str:
    path = folder / LIST_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _state_file(folder: Path, session: str) -> Path:
    """The file of a session's state, in one of 256 folders, because a folder of a million files is slow."""
    shard = hashlib.sha256(session.encode()).hexdigest()[:2]
    return folder / STATES_FOLDER / shard / f"{session}.safetensors"
