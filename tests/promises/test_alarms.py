"""Alerts by `alarms_per_week` are raised once, wherever the session runs and however its chunks are sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from app.alerts.alerts_file import read_alerts_file
from app.errors import ConfigError
from app.session.notes import Alert
from models.adaptation.alarm_kernels import CLEARED, RAISED
from models.adaptation.alarms import rates
from models.forecaster import Forecaster
from tests.helpers.services import Start, starter
from tests.helpers.ways import AsgiRoute, BulkBinary, HotRoute, Way, check_problem
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
STEPS, SHIFTED = 300, 200
ALERT = {"alarms_per_week": 8, "refractory": "5h", "step": "1h"}


@pytest.fixture(scope="module")
def whole() -> Any:
    values = series("adaptive", STEPS)
    for place in (120, 160, 260):
        values[place] += 6
    values[SHIFTED : SHIFTED + 20] += 4
    return values


@pytest.fixture(scope="module")
def expected(artifacts, whole) -> list[tuple[str, int]]:
    forecaster = Forecaster(artifacts["adaptive"])
    scores = forecaster.observe(whole, np.array([STEPS]), forecaster.new_carry[None]).scores
    alarms = forecaster.alarms
    changes = alarms.follow(
        alarms.new_state[None],
        np.array([STEPS]),
        scores,
        rates("any", 8, 3600.0)[None],
        np.array([5]),
        np.array([24]),
    ).changes
    names = {RAISED: "alert", CLEARED: "clear"}
    found = [(names[change], row + 1) for row, change in enumerate(changes.tolist()) if change]
    assert len(found) > 3  # or the tests below show little
    return found


def sent(service: Way) -> list[tuple[str, int]]:
    """What has left the engine."""
    return [(event["event"], event["position"]) for event in events(service)]


def events(service: Way) -> list[dict[str, Any]]:
    return [alert.event for alert in service.app.state.alerts._past]


async def create(service: Way, session: str = "s", alert: Any = ALERT) -> None:
    body = {"id": session, "model": "adaptive", "alert": alert}
    response = await service.http.post("/sessions", json=body)
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("way", [BulkBinary], ids=lambda way: way.name)
@pytest.mark.parametrize("store", ["sqlite"])
async def test_each_is_sent_once_though_each_chunk_is_sent_twice(start, whole, expected):
    cuts = [1, 99, 3, 60, 30, 6, 101]
    async with start(resident_sessions=2, batch_sessions=2, bulk_sessions=2) as service:
        await create(service)
        at = 0
        for size in cuts:
            for _ in range(2):
                assert (await service.advance("s", whole[at : at + size], at)).status == 200
            at += size
            for name in ("x", "y", "z"):  # the session leaves memory, and comes back
                await service.advance(name, [[0.1]], model="sine")
        assert sent(service) == expected
        assert (await service.session("s"))["alert_raised"] == (expected[-1][0] == "alert")


@pytest.mark.parametrize("way", [AsgiRoute], ids=lambda way: way.name)
@pytest.mark.parametrize("store", ["sqlite"])
async def test_what_is_known_of_a_stream_survives_a_restart(start, whole, expected):
    async with start() as service:
        await create(service)
        await service.advance("s", whole[:SHIFTED], 0)
        first = sent(service)
    async with start() as service:
        await service.advance("s", whole[:SHIFTED], 0)
        assert sent(service) == []  # the retry of what was sent before
        await service.advance("s", whole[SHIFTED:], SHIFTED)
        assert first + sent(service) == expected


@pytest.fixture
def begin(zoo_folder, clock, tmp_path, monkeypatch) -> Start:
    """A server over loopback, over memory."""
    return starter(HotRoute, "memory", zoo_folder, clock, tmp_path, monkeypatch)


async def test_the_alarm_of_a_model_says_why(begin, tmp_path, whole, expected):
    path = tmp_path / "alerts.json"
    path.write_text(json.dumps({"models": {"adaptive": ALERT | {"kind": "any"}}}))
    async with begin(alerts_file=path) as service:
        await service.advance("s", whole, 0, model="adaptive")
        assert sent(service) == expected
        by_position = {event["position"]: event for event in events(service) if event["event"] == "alert"}
        shift = by_position[min(position for position in by_position if position > SHIFTED)]
        assert shift["alarms_per_week"] == 8
        assert shift["cause"].startswith(shift["output"])
        assert shift["kind"] in ("value", "level shift")
        assert shift["side"] in ("above", "below")
        assert shift["deviations"] > 2
        assert 0 <= shift["expected_per_week"] < 8


async def test_forks_keep_what_is_known_and_resets_do_not(begin, whole, expected):
    async with begin() as service:
        await create(service)
        await service.advance("s", whole[:SHIFTED], 0)
        before = sent(service)
        await service.http.post("/sessions/s/fork", json={"id": "forked"})
        await create(service, "reset")
        await service.advance("reset", whole[:SHIFTED], 0)
        await service.http.post("/sessions/reset/reset")
        service.app.state.alerts._past.clear()
        for name in ("forked", "reset"):
            await service.advance(name, whole[SHIFTED : SHIFTED + 20], SHIFTED)
        raised = [event["session"] for event in events(service) if event["event"] == "alert"]
        assert "forked" in raised
        assert "reset" not in raised  # it has to observe for a while first
        assert before == expected[: len(before)]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"alarms_per_week": 1, "score_above": 0.9, "step": "1h"}, "not both"),
    ({"alarms_per_week": 1, "clear_after": 3, "step": "1h"}, "not both"),
    ({"alarms_per_week": 0, "step": "1h"}, "alarms_per_week"),
    ({"alarms_per_week": 1, "kind": "other", "step": "1h"}, "kind"),
    ({"alarms_per_week": 1, "refractory": "soon", "step": "1h"}, "not a step"),
    ({"alarms_per_week": 1, "step": "1000d"}, "at most 366 days"),
    ({"alarms_per_week": 1}, 'such as "step": "10min"'),
    ({"score_above": 0.9, "refractory": "6h"}, "is for an alert with alarms_per_week"),
]


async def test_an_alarm_that_cannot_be_is_refused(begin):
    async with begin() as service:
        for alert, word in REFUSED:
            body = {"id": "b", "model": "adaptive", "alert": alert}
            problem = check_problem(await service.http.post("/sessions", json=body))
            assert problem["status"] == 422, alert
            assert word in problem["detail"]


@pytest.mark.parametrize("alert", [{"alarms_per_week": -1}, {"alarms_per_week": 1, "kind": "other"}])
def test_a_file_with_an_alarm_that_cannot_be_is_refused(tmp_path, alert):
    path = tmp_path / "alerts.json"
    path.write_text(json.dumps({"models": {"sine": alert}}))
    with pytest.raises(ConfigError, match="the alert of 'sine'"):
        read_alerts_file(path)


def test_the_records_of_alerts_without_a_rate_are_read():
    """As older servers wrote them."""
    old = msgspec.msgpack.encode([0.9, None, 3, "ops"])
    assert msgspec.msgpack.decode(old, type=Alert) == Alert(0.9, None, 3, "ops")
