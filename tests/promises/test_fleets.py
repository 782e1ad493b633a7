"""Sessions of a network of many series, through the service: by every kind of job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artifact.artifact import Artifact
from models.artifact.files import save
from models.artifact.fleet import Fleet
from models.data.scaling import Scaling
from models.forecaster import Forecaster
from tests.helpers.services import JOB_WAYS, Start, starter
from tests.helpers.ways import check_problem
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
LOUD = Scaling(np.array([1000.0, -50.0]), np.array([200.0, 5.0]))
CLOSE = 1e-5


@pytest.fixture(scope="module")
def fleet(artifacts) -> Artifact:
    mean, std = LOUD.mean[None].astype(np.float32), LOUD.std[None].astype(np.float32)
    of_many = Fleet(("loud",), mean, std, (4, 9), (3.0, 1.5))
    return replace(artifacts["adaptive"], name="fleet", fleet=of_many)


@pytest.fixture(scope="module")
def folder(fleet, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fleets")
    save(fleet, folder / "fleet")
    return folder


@pytest.fixture(params=JOB_WAYS, ids=lambda way: way.name)
def start(request, folder, clock, tmp_path, monkeypatch) -> Start:
    """So little memory that sessions come back from the store."""
    begin = starter(request.param, "sqlite", folder, clock, tmp_path, monkeypatch)
    small = {"resident_sessions": 2, "batch_sessions": 2, "bulk_sessions": 2, "default_model": "fleet"}
    return lambda **changes: begin(**(small | changes))


def rows(steps: int = 30) -> np.ndarray:
    return LOUD.unscale(series("adaptive", steps)).astype(np.float32)


def predicted(forecaster: Forecaster, name: str | None) -> np.ndarray:
    carry = forecaster.new_carry
    if name is not None:
        assert forecaster.begin_series(carry, name)
    return forecaster.observe(rows(), np.array([30]), carry[None]).predictions


async def test_a_session_with_the_id_of_a_series_or_its_name_has_its_scale(start, fleet):
    want, forecaster = predicted(Forecaster(fleet), "loud"), Forecaster(fleet)
    async with start() as service:
        got = await service.stream("loud", rows(), [1, 7, 3, 19])
        np.testing.assert_allclose(got, want, rtol=CLOSE, atol=1e-2)
        created = await service.http.post("/sessions", json={"id": "mine", "series": "loud"})
        assert created.status_code == 201, created.text
        got = await service.stream("mine", rows(), [30])
        np.testing.assert_allclose(got, want, rtol=CLOSE, atol=1e-2)
        got = await service.stream("stranger", rows(), [2, 3, 25])
        np.testing.assert_allclose(got, predicted(forecaster, None), rtol=CLOSE, atol=1e-2)
        model = (await service.http.get("/models/fleet")).json()
        assert model["series"] == 1


async def test_alarms_are_counted_in_the_units_of_each_series(start, fleet):
    """The first alarm needs a hundred observations, of which none is counted while a scale is sought."""
    values = LOUD.unscale(series("adaptive", 400)).astype(np.float32)
    values[300:330] += 5 * LOUD.std.astype(np.float32)
    async with start() as service:
        found = {}
        for session, scale in (("small", 1e-6), ("usual", 1.0), ("large", 1e6)):
            alert = {"alarms_per_week": 8, "refractory": "5h", "step": "1h"}
            body = {"id": session, "model": "fleet", "alert": alert}
            assert (await service.http.post("/sessions", json=body)).status_code == 201
            await service.stream(session, values * np.float32(scale), [7, 3, 250, 140])
            past = [alert.event for alert in service.app.state.alerts._past]
            found[session] = [
                (event["event"], event["position"]) for event in past if event["session"] == session
            ]
        assert any(event == "alert" and 300 < position <= 330 for event, position in found["usual"])
        assert found["small"] == found["usual"] == found["large"]


async def test_a_series_that_the_model_does_not_have_is_refused(start):
    async with start() as service:
        refused = await service.http.post("/sessions", json={"id": "s", "series": "quiet"})
        problem = check_problem(refused)
        assert (problem["status"], problem["field"]) == (422, "series")
        assert problem["detail"] == "'fleet' was not trained on a series 'quiet'; it was trained on: loud"
        assert (await service.http.get("/sessions/s")).status_code == 404


async def test_a_session_that_finds_its_scale_survives_export_fork_and_the_store(start, fleet):
    want = predicted(Forecaster(fleet), None)
    async with start() as service:
        await service.stream("s", rows()[:6], [6])  # between two stages
        state = await service.http.get("/sessions/s/state")
        await service.http.put("/sessions/copy/state", content=state.content, headers=dict(state.headers))
        await service.http.post("/sessions/s/fork", json={"id": "twin"})
        for other in ("x", "y", "z"):  # evict all of them
            await service.stream(other, rows()[:2], [2])
        for session in ("s", "copy", "twin"):
            got = await service.advance(session, rows()[6:], 6)
            np.testing.assert_allclose(got.predictions, want[6:], rtol=CLOSE, atol=1e-2)
