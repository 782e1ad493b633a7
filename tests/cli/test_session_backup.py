"""Export and import: every session goes to a folder and comes back, and an interruption loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from carryover import Carryover

from app.cli import session_backup
from app.cli.session_backup import BackupFailed

pytestmark = pytest.mark.anyio

NAMES = [f"s{i:02}" for i in range(9)] + ["...", "a:b"]


async def moved(service: Any, work: Callable[[Carryover], Any]) -> Any:
    """The result of `work` with a client of the service, on another thread."""

    def call() -> Any:
        with Carryover(f"http://127.0.0.1:{service.port}") as server:
            return work(server)

    return await asyncio.to_thread(call)


async def filled(service: Any) -> None:
    for place, name in enumerate(NAMES):
        await service.http.post("/observations", json={"sessions": [name], "observations": [0.1 * place]})


async def positions(service: Any) -> dict[str, int]:
    listed = (await service.http.get("/sessions")).json()["sessions"]
    found = {}
    for name in (entry["session"] for entry in listed):
        found[name] = (await service.session(name))["position"]
    return found


async def test_an_interrupted_export_continues_where_it_stopped(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)

        def first_four(server: Carryover) -> list[str]:
            left = session_backup.export_sessions(server, tmp_path)
            return [next(left) for _ in range(4)]

        first = await moved(service, first_four)
        with (tmp_path / session_backup.LIST_FILE).open("a") as lines:
            lines.write('{"session": "cut o')  # killed in mid-write
        rest = await moved(service, lambda server: list(session_backup.export_sessions(server, tmp_path)))
        again = await moved(service, lambda server: list(session_backup.export_sessions(server, tmp_path)))
    assert (first + rest, again) == (sorted(NAMES), [])


async def test_an_import_restores_the_export_and_continues_where_it_stopped(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)
        before = await positions(service)
        await moved(service, lambda server: list(session_backup.export_sessions(server, tmp_path)))
        for name in before:
            await service.http.delete(f"/sessions/{name}")

        def first_session(server: Carryover) -> str:
            return next(session_backup.import_sessions(server, tmp_path))

        await moved(service, first_session)
        await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path)))
        assert await positions(service) == before
        assert (
            await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path))) == []
        )


async def test_a_folder_that_is_not_an_export_is_refused(tmp_path: Path):
    (tmp_path / session_backup.LIST_FILE).write_text("not json\n")
    with pytest.raises(BackupFailed, match="not a list of sessions"):
        session_backup.read_session_list(tmp_path)
