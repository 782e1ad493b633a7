"""Backup: export every session of a running server to a folder, and import them into a server.

The folder has a JSON line for each session in `sessions.jsonl`, in the order of their ids, and the state of
each session in `states/`. After an interruption, both continue where they stopped: an export after the last
line that it wrote, an import after the session that it noted in `imported.SERVER`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carryover import Carryover, SessionGone, UnknownSession

from app.errors import CarryoverError

LIST_FILE, STATES_FOLDER = "sessions.jsonl", "states"


class BackupFailed(CarryoverError):
    """The folder is not a backup."""

    title = "Backup failed"


def export_sessions(server: Carryover, folder: Path) -> Iterator[str]:
    """Write each session that is not in the folder yet, and yield its id.

    A session that is deleted meanwhile is skipped.

    Raises
    ------
    BackupFailed, OSError, carryover.CarryoverError
    """
    (folder / STATES_FOLDER).mkdir(parents=True, exist_ok=True)
    done = [line["session"] for line in read_session_list(folder)]
    with (folder / LIST_FILE).open("a", encoding="utf-8") as out:
        for entry in server.sessions(after=done[-1] if done else ""):
            session = entry["session"]
            try:
                state = server.session(session).state()
            except (UnknownSession, SessionGone):
                continue
            finally:
                server.forget(session)
            path = _state_file(folder, session)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(state)
            # After the file: a line of an interrupted export never names an incomplete file.
            out.write(json.dumps(entry | {"file": str(path.relative_to(folder))}) + "\n")
            out.flush()
            yield session


def import_sessions(server: Carryover, folder: Path) -> Iterator[str]:
    """Send each session of the folder that was not sent to this server yet, and yield its id.

    Raises
    ------
    BackupFailed, OSError, carryover.CarryoverError
    """
    mark = folder / f"imported.{re.sub('[^A-Za-z0-9.]+', '-', server.url.partition('://')[2])}"
    last = mark.read_text(encoding="utf-8") if mark.exists() else ""
    for line in read_session_list(folder):
        session = line["session"]
        if session <= last:
            continue
        server.session(session).load(_state_file(folder, session))
        server.forget(session)
        mark.write_text(session, encoding="utf-8")
        yield session


def read_session_list(folder: Path) -> list[dict[str, Any]]:
    """The entries of the folder's list; an incomplete last line is removed from the file.

    Raises
    ------
    BackupFailed : the file is not such a list
    """
    path = folder / LIST_FILE
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    try:
        entries = [json.loads(line) for line in whole.splitlines()]
        if any(not isinstance(entry["session"], str) for entry in entries):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise BackupFailed(f"{path} is not a list of sessions") from None
    return entries


def _state_file(folder: Path, session: str) -> Path:
    """The file of a session's state, in one of 256 folders, because a folder of a million files is slow."""
    shard = hashlib.sha256(session.encode()).hexdigest()[:2]
    return folder / STATES_FOLDER / shard / f"{session}.safetensors"
