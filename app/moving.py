"""Moving house: every session of a running server into a folder, and back into the same or another server.

The folder holds a line of JSON a session in `sessions.jsonl`, in the order of their ids, and the state of
each in `states/`. Both ways can be interrupted and go on where they stopped: an export behind the last line
that it wrote, an import behind the last line that it noted in `imported.SERVER`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from app.errors import CarryoverError

LIST, STATES = "sessions.jsonl", "states"
PAGE = 500
GONE = (404, 410)


class MoveFailed(CarryoverError):
    """A server refused, or a folder is not what it should be."""

    title = "Move failed"


def listed(server: httpx.Client, after: str = "", model: str | None = None) -> Iterator[dict[str, Any]]:
    """Every session behind `after`, in order: `session`, `model`.

    Raises
    ------
    MoveFailed
    """
    cursor: str | None = after
    while cursor is not None:
        query = {"after": cursor, "limit": str(PAGE)} | ({} if model is None else {"model": model})
        page = _asked(server, "GET", "/sessions", params=query).json()
        yield from page["sessions"]
        cursor = page["next"]


def total(server: httpx.Client) -> int:
    """How many sessions the server has."""
    count: int = _asked(server, "GET", "/sessions", params={"limit": "1"}).json()["total"]
    return count


def exported(server: httpx.Client, folder: Path) -> Iterator[str]:
    """Write every session that is not in the folder yet, one a turn; yields their ids.

    A session that is deleted meanwhile is passed over.

    Raises
    ------
    MoveFailed, OSError
    """
    (folder / STATES).mkdir(parents=True, exist_ok=True)
    done = [line["session"] for line in lines(folder)]
    with (folder / LIST).open("a", encoding="utf-8") as out:
        for told in listed(server, done[-1] if done else ""):
            session = told["session"]
            response = server.get(_state_of(session))
            if response.status_code in GONE:
                continue
            _check(response)
            path = _place(folder, session)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(response.content)
            # The line is written behind the file: an interrupted export never names a file that is not whole.
            out.write(json.dumps(told | {"file": str(path.relative_to(folder))}) + "\n")
            out.flush()
            yield session


def imported(server: httpx.Client, folder: Path) -> Iterator[str]:
    """Send every session of the folder that was not sent to this server yet; yields their ids.

    Raises
    ------
    MoveFailed, OSError
    """
    mark = folder / f"imported.{server.base_url.host}-{server.base_url.port or 80}"
    last = mark.read_text(encoding="utf-8") if mark.exists() else ""
    for line in lines(folder):
        session = line["session"]
        if session <= last:
            continue
        state = _place(folder, session).read_bytes()
        _asked(server, "PUT", _state_of(session), content=state)
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


def _state_of(session: str) -> str:
    """The path of a state. `.` and `..` are session ids, and steps to a URL: written out."""
    name = session.replace(".", "%2E") if set(session) == {"."} else session
    return f"/sessions/{name}/state"


def _place(folder: Path, session: str) -> Path:
    """Where a session's state lies: in one of 256 folders, so that a million of them stay manageable."""
    shard = hashlib.sha256(session.encode()).hexdigest()[:2]
    return folder / STATES / shard / f"{session}.safetensors"


def _asked(server: httpx.Client, method: str, path: str, **arguments: Any) -> httpx.Response:
    try:
        return _check(server.request(method, path, **arguments))
    except httpx.HTTPError as error:
        raise MoveFailed(f"{server.base_url} cannot be reached: {error}; is the server running?") from error


def _check(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError):
            detail = response.text[:200]
        raise MoveFailed(f"{response.request.url.path}: {response.status_code}: {detail}")
    return response
