"""`carryover events` prints the alerts of a server, a line for each."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import carryover
import pytest

from app.cli import connect, run
from tests.helpers.faults import until
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


async def test_each_alert_is_a_line_and_the_command_ends_after_some(start_hot, capsys):
    async with start_hot() as service:
        url = f"http://127.0.0.1:{service.port}"

        async def printed(*options: str) -> list[str]:
            capsys.readouterr()
            assert await asyncio.to_thread(run, ["events", *options, "--url", url]) == 0
            return capsys.readouterr().out.splitlines()

        reading = asyncio.create_task(printed("--count", "3"))
        await until(lambda: bool(service.app.state.alerts._readers))
        body = {"id": "pump-7", "model": "adaptive", "alert": {"score_above": 0.5, "clear_after": 2}}
        assert (await service.http.post("/sessions", json=body)).status_code == 201
        await service.advance("pump-7", series("adaptive", 120), 0)
        live = await reading
        events = [json.loads(line) for line in await printed("--remembered", "--json", "--count", "3")]
        last = ["--last-event-id", events[0]["id"], "--count", "2"]
        assert await printed(*last) == live[1:]
    assert live[0] == (
        f"2023-11-14 22:13:20Z  alert  pump-7 at {events[0]['position']}: "
        f"surprise {events[0]['score']:.6g}, above 0.5"
    )
    assert live[1] == f"2023-11-14 22:13:20Z  clear  pump-7 at {events[1]['position']}"
    assert [event["event"] for event in events] == ["alert", "clear", "alert"]


def test_the_interrupt_of_an_endless_stream_is_no_failure(monkeypatch, capsys):
    def interrupted(*_: Any) -> Any:
        time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        yield carryover.Event("s", "alert", "why", 3, time, "a", {"session": "s", "tenant": "north"})
        raise KeyboardInterrupt

    monkeypatch.setattr(carryover.Carryover, "events", interrupted)
    assert run(["events"]) == 0
    assert capsys.readouterr().out == "2026-01-02 03:04:05Z  alert  north/s at 3: why\n"


def test_a_command_that_waits_for_a_server_says_how_long(monkeypatch, caplog, capsys):
    monkeypatch.setattr(connect, "PATIENCE_SECONDS", 0.2)
    assert run(["events", "--url", "http://127.0.0.1:1"]) == 1
    assert caplog.messages[0].startswith("trying again for up to 0.2 s: no answer from http://127.0.0.1:1: ")
    assert "no answer from http://127.0.0.1:1" in capsys.readouterr().err


def test_two_ways_to_begin_are_refused(capsys):
    assert run(["events", "--remembered", "--last-event-id", "a"]) == 2
    assert "goes without --remembered" in capsys.readouterr().err
