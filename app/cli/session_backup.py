"""Moving house: every session of a running server into a folder, and back into the same or another server.

The folder holds a line of JSON a session in `sessions.jsonl`, in the order of their ids, and the state of
each in `states/`. Both ways can be interrupted and go on where they stopped: an export behind the last line
that it wrote, an import behind the last line that it noted in `imported.SERVER`.
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

LIST, STATES = "sessions.jsonl", "states"


class MoveFailed(CarryoverError):
    """A folder is not what it should be."""

    title = "Move failed"


def exported(server: Carryover, folder: Path) -> Iterator[str]:
    """Write every session that is not in the folder yet, one a turn; yields their ids.

    A session that is deleted meanwhile is passed over.

    Raises
    ------
    MoveFailed, OSError, carryover.CarryoverError
    """
    (folder / STATES).mkdir(parents=True, exist_ok=True)
    done = [line["session"] for line in lines(folder)]
    with (folder / LIST).open("a", encoding="utf-8") as out:
        for told in server.sessions(after=done[-1] if done else ""):
            session = told["session"]
            try:
                state = server.session(session).state()
            except (UnknownSession, SessionGone):
                continue
            finally:
                server.forget(session)
            path = _place(folder, session)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(state)
            # The line is written behind the file: an interrupted export never names a file that is not whole.
            out.write(json.dumps(told | {"file": str(path.relative_to(folder))}) + "\n")
            out.flush()
            yield session


def imported(server: Carryover, folder: Path) -> Iterator[str]:
    """Send every session of the folder that was not sent to this server yet; yields their ids.

    Raises
    ------
    MoveFailed, OSError, carryover.CarryoverError
    """
    mark = folder / f"imported.{re.sub('[^A-Za-z0-9.]+', '-', server.url.partition('://')[2])}"
    last = mark.read_text(encoding="utf-8") if mark.exists() else ""
    for line in lines(folder):
        session = line["session"]
        if session <= last:
            continue
        server.session(session).load(_place(folder, session))
        server.forget(session)
        mark.write_text(session, encoding="utf-8")
        yield session


def lines(folder: Path) -> list[dict[str, Any]]:
    """What the folder's list says; a last line that was cut off in mid-write is taken away.

    Raises
    ------
    MoveFailed : it is no such list
    """
    path = folder / LIST
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    try:
        told = [json.loads(line) for line in whole.splitlines()]
        if any(not isinstance(line["session"], str) for line in told):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise MoveFailed(f"{path} is no list of sessions") from None
    return told


def _place(folder: Path, session: str) -> Path:
    """Where a session's state lies: in one of 256 folders, so that a million of them stay manageable."""
    shard = hashlib.sha256(session.encode()).hexdigest()[:2]
    return folder / STATES / shard / f"{session}.safetensors"
