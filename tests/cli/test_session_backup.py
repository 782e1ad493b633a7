"""Export and import: every session goes to a folder and comes back, and an interruption loses nothing."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from carryover import Carryover, Session, SessionDamaged

from app.cli import run, session_backup
from app.cli.session_backup import BackupFailed, ExportCounts
from tests.helpers.commands import ran

pytestmark = pytest.mark.anyio

NAMES = [f"s{i:02}" for i in range(4)] + ["...", "a:b"]
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; each client would load the system's anew


async def moved(service: Any, work: Callable[[Carryover], Any]) -> Any:
    """The result of `work` with a client of the service, on another thread."""

    def call() -> Any:
        with Carryover(f"http://127.0.0.1:{service.port}", verify=PLAIN) as server:
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


async def exported(service: Any, folder: Path, *, prune: bool = False) -> ExportCounts:
    counts = ExportCounts()
    await moved(
        service, lambda server: list(session_backup.export_sessions(server, folder, counts, prune=prune))
    )
    return counts


def taken(sessions: Iterator[str], count: int) -> None:
    """Interrupt after some sessions, without the end of the export or import."""
    for _ in range(count):
        next(sessions)
    sessions.close()


def parsed(state: bytes) -> tuple[Any, bytes]:
    """The header of a safetensors file, whose fields have no order, and its numbers."""
    end = 8 + int.from_bytes(state[:8], "little")
    return json.loads(state[8:end]), state[end:]


async def states(service: Any) -> dict[str, Any]:
    return await moved(
        service,
        lambda server: {
            entry["session"]: parsed(server.session(entry["session"]).state()) for entry in server.sessions()
        },
    )


def states_in(folder: Path) -> dict[str, Any]:
    return {
        path.name.removesuffix(".safetensors"): parsed(path.read_bytes())
        for path in folder.rglob("*.safetensors")
    }


async def test_an_export_interrupted_at_each_session_writes_only_the_others(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)
        for count in range(len(NAMES) + 1):
            folder = tmp_path / str(count)
            await moved(
                service,
                lambda server, f=folder, c=count: taken(session_backup.export_sessions(server, f), c),
            )
            if count:
                with (folder / session_backup.LIST_FILE).open("a") as lines:
                    lines.write('{"session": "cut o')  # killed in mid-write
            assert await exported(service, folder) == ExportCounts(len(NAMES) - count, count)
            assert await exported(service, folder) == ExportCounts(0, len(NAMES))


async def test_a_damaged_session_is_named_and_the_others_are_exported(
    start_hot, tmp_path: Path, monkeypatch, capsys
):
    read = Session.state

    def state(session: Session) -> bytes:
        if session.id == "s01":
            raise SessionDamaged("session 's01' cannot be read", 500)
        return read(session)

    async with start_hot() as service:
        await filled(service)
        with monkeypatch.context() as broken:
            broken.setattr(Session, "state", state)
            counts = await exported(service, tmp_path / "new")
        assert (counts.written, list(counts.unreadable)) == (len(NAMES) - 1, ["s01"])
        assert set(states_in(tmp_path / "new")) == set(NAMES) - {"s01"}
        await exported(service, tmp_path / "old")
        await service.advance("s01", [[0.5]])
        monkeypatch.setattr(Session, "state", state)
        counts = await exported(service, tmp_path / "old", prune=True)
        assert (counts.unchanged, list(counts.unreadable)) == (len(NAMES) - 1, ["s01"])
        assert set(states_in(tmp_path / "old")) == set(NAMES)
        assert await ran(service, "sessions", "export", tmp_path / "old") == 1
    printed = capsys.readouterr().err
    assert "carryover: s01 was not exported: session 's01' cannot be read" in printed


async def test_a_second_export_refreshes_what_has_moved(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)
        await exported(service, tmp_path)
        await service.advance("s01", [0.5, 0.6])
        await service.http.post("/sessions/s02/reset")
        await service.http.delete("/sessions/s03")
        await service.advance("s03", [0.25])  # another session of the same id, at the same position
        await service.http.delete("/sessions/s00")
        await service.advance("new", [0.1])
        assert await exported(service, tmp_path) == ExportCounts(4, len(NAMES) - 4, kept=1)
        assert await exported(service, tmp_path) == ExportCounts(0, len(NAMES), kept=1)
        listed = [entry["session"] for entry in session_backup.read_session_list(tmp_path)]
        assert listed == sorted([*NAMES, "new"])
        now = await states(service)
        assert await exported(service, tmp_path, prune=True) == ExportCounts(0, len(NAMES), removed=1)
        assert states_in(tmp_path) == now


async def test_an_import_interrupted_at_each_session_sends_the_others_and_the_next_sends_all(
    start_hot, tmp_path: Path
):
    async with start_hot() as service:
        await filled(service)
        before = await positions(service)
        await exported(service, tmp_path)
        for count in range(len(NAMES) + 1):
            for name in before:
                await service.http.delete(f"/sessions/{name}")
            await moved(
                service, lambda server, c=count: taken(session_backup.import_sessions(server, tmp_path), c)
            )
            rest = await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path)))
            assert len(rest) == len(NAMES) - count
            assert await positions(service) == before
        # A later import restores every session: a mark is only for an interrupted one.
        await service.advance("s01", [0.5])
        again = await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path)))
        assert again == sorted(NAMES)
        assert await positions(service) == before


async def test_what_the_server_has_lost_since_an_interrupted_import_is_sent_again(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)
        before = await positions(service)
        await exported(service, tmp_path)
        await moved(service, lambda server: taken(session_backup.import_sessions(server, tmp_path), 4))
        for name in before:
            await service.http.delete(f"/sessions/{name}")
        await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path)))
        assert await positions(service) == before


async def test_an_interrupted_import_of_an_older_export_starts_again(start_hot, tmp_path: Path):
    async with start_hot() as service:
        await filled(service)
        await exported(service, tmp_path)
        await moved(service, lambda server: taken(session_backup.import_sessions(server, tmp_path), 4))
        await service.advance("s00", [0.5])
        await exported(service, tmp_path)
        again = await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path)))
        assert again == sorted(NAMES)


async def test_a_folder_that_is_not_an_export_is_refused(tmp_path: Path):
    (tmp_path / session_backup.LIST_FILE).write_text("not json\n")
    with pytest.raises(BackupFailed, match="not a list of sessions"):
        session_backup.read_session_list(tmp_path)
    (tmp_path / session_backup.LIST_FILE).write_bytes(b"\xff\n")
    with pytest.raises(BackupFailed, match="not a list of sessions"):
        session_backup.read_session_list(tmp_path)


def test_an_import_of_a_folder_that_is_no_backup_says_what_one_has(tmp_path: Path, capsys):
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file"):  # before the server is asked, which does not exist
        assert run(["sessions", "import", str(place), "--url", "http://127.0.0.1:1"]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"{place} is no backup: it has no sessions.jsonl. A backup is a folder with" in captured.err


async def test_the_backup_of_a_server_without_sessions_is_one(start_hot, tmp_path: Path):
    async with start_hot() as service:
        assert await exported(service, tmp_path) == ExportCounts()
        assert (
            await moved(service, lambda server: list(session_backup.import_sessions(server, tmp_path))) == []
        )
