"""Forecasts that sessions learn, through the service: by every way in, over every store."""

from __future__ import annotations

import numpy as np
import pytest

from app.engine import time_budget
from models.forecaster import Forecaster
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
CLOSE = 1e-5


def one_pass(artifact, observations):
    """The predictions and the carry of one session that observed all of it at once."""
    forecaster = Forecaster(artifact)
    passed = forecaster.observe(observations, np.array([len(observations)]), forecaster.new_carry[None])
    return forecaster, passed


async def forecast(service, session, **body):
    response = await service.http.post(f"/sessions/{session}/forecast", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_a_forecast_is_what_one_pass_has_learned(start, artifacts):
    whole = series("seasonal", 60)
    forecaster, passed = one_pass(artifacts["seasonal"], whole)
    want, _ = forecaster.roll_out(passed.carries, 20)
    widths = forecaster.forecast_widths(passed.carries, 20)[0, :, 1]
    async with start() as service:
        got = await service.stream("s", whole, [1, 7, 1, 30, 20, 1], model="seasonal")
        np.testing.assert_allclose(got, passed.predictions, rtol=CLOSE, atol=CLOSE)
        answer = await forecast(service, "s", steps=20, level=0.9)
        assert answer["position"] == 60
    np.testing.assert_allclose(answer["forecast"], want[0], rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(answer["lower"], want[0] - widths, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(answer["upper"], want[0] + widths, rtol=CLOSE, atol=CLOSE)


async def test_a_forecast_in_slices_is_the_whole(start_http, artifacts, monkeypatch):
    monkeypatch.setattr(time_budget.TimeBudget, "max_steps", lambda *_: 7)
    whole = series("seasonal", 30)
    forecaster, passed = one_pass(artifacts["seasonal"], whole)
    want, _ = forecaster.roll_out(passed.carries, 700)
    async with start_http() as service:
        await service.advance("s", whole, 0, model="seasonal")
        answer = await forecast(service, "s", steps=700)
    np.testing.assert_allclose(answer["forecast"], want[0], rtol=CLOSE, atol=CLOSE)


async def test_a_copy_a_moved_session_and_one_that_comes_back_from_the_store_forecast_the_same(
    start_http, artifacts
):
    whole = series("seasonal", 40)
    async with start_http(resident_sessions=2, batch_sessions=2) as service:
        await service.advance("s", whole, 0, model="seasonal")
        want = (await forecast(service, "s", steps=12))["forecast"]
        await service.http.post("/sessions/s/fork", json={"id": "copy"})
        state = (await service.http.get("/sessions/s/state")).content
        assert (await service.http.put("/sessions/moved/state", content=state)).status_code < 300
        for name in ("u", "v", "w"):  # they take the rows of the others
            await service.advance(name, whole[:3], 0, model="seasonal")
        for name in ("s", "copy", "moved"):
            assert (await forecast(service, name, steps=12))["forecast"] == want, name
        await service.http.post("/sessions/s/reset")
        await service.advance("s", whole[:5], model="seasonal")
        again = await forecast(service, "s", steps=12)
    forecaster, passed = one_pass(artifacts["seasonal"], whole[:5])
    np.testing.assert_allclose(again["forecast"], forecaster.roll_out(passed.carries, 12)[0][0], atol=CLOSE)


async def test_a_damaged_state_of_forecasts_is_refused(start_http, artifacts):
    """Its clock says where in the season the session is: it must be a place."""
    forecaster, passed = one_pass(artifacts["seasonal"], series("seasonal", 20))
    carry = passed.carries[0].copy()
    forecaster.check(carry)
    learned = forecaster.learner.layout
    clock = forecaster.layout.learned.start + learned.start("clock")
    for place, value in ((0, -1.0), (1, 4.0), (1, 0.5), (2, 6.0), (3, 1.0), (4, 3.0)):
        damaged = carry.copy()
        damaged[clock + place] = value
        with pytest.raises(ValueError, match="clock"):
            forecaster.check(damaged)
    sizes = forecaster.layout.learned.start + learned.start("sizes")
    damaged = carry.copy()
    damaged[sizes] = -1
    with pytest.raises(ValueError, match="below 0"):
        forecaster.check(damaged)
