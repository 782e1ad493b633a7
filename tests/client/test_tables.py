"""Answers, forecasts and histories as DataFrames and in notebooks, by either client."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from carryover import Answer, Forecast, History, ModelInfo
from carryover.tables import HTML_ROWS, table_html
from numpy.testing import assert_allclose, assert_array_equal

from tests.client.test_client import connected, kind, store
from tests.helpers.zoo import series

__all__ = ["connected", "kind", "store"]  # fixtures
pytestmark = pytest.mark.anyio

HOUR = 3600
START = datetime(1970, 1, 1, tzinfo=UTC)


async def test_the_frame_of_an_answer_is_indexed_at_what_is_predicted(connected):
    async with connected() as (_, call):
        rows = series("pair", 4)
        first = await call(lambda client: client.session("a", "pair").advance(rows))
        frame = first.to_frame()
        assert (frame.index.name, frame.index.tolist()) == ("position", [2, 3, 4, 5])
        assert_array_equal(frame.to_numpy(np.float32), first.predictions)
        labelled = pd.Series([0.1, 0.2, 0.3], pd.date_range("2026-01-01", periods=3, freq="h"), name="value")
        second = await call(lambda client: client.session("b", "sine").advance(labelled))
        frame = second.to_frame()
        assert (frame.index.name, frame.columns.tolist()) == ("time", ["value"])
        assert frame.index.tolist() == pd.date_range("2026-01-01 01:00", periods=3, freq="h").tolist()
        assert "<td>" in second._repr_html_()


@pytest.mark.parametrize(
    ("first", "step", "zone"),
    [
        ("2026-01-01", "MS", None),
        ("2026-01-31", "ME", None),
        ("2026-01-02", "B", None),
        ("2026-10-22", "D", "Europe/Berlin"),
        ("2026-10-25", "h", "Europe/Berlin"),
    ],
)
def test_what_is_predicted_last_is_a_step_of_the_calendar_later(first, step, zone):
    times = pd.date_range(first, periods=5, freq=step, tz=zone)
    for labels in (times[:4], times[:2].append(times[2:4])):
        raw = {"predictions": np.zeros(4, np.float32)}
        frame = Answer("a", "sine", 4, "1", False, raw, labels).to_frame()
        assert frame.index.tolist() == times[1:].tolist()


def test_no_column_hides_another_of_its_name():
    raw = {"predictions": np.array([[0.5, 7.0]], np.float32)}
    answer = Answer("a", "valve", 4, "1", False, raw, None, ("position", "flow"))
    assert answer.to_frame("polars").to_dicts() == [{"position": 5, "position_2": 0.5, "flow": 7.0}]
    rows = np.ones((1, 1), np.float32)
    history = History("a", "m", 1, 0, ("score",), ("score",), 3 * rows, rows, scores=np.array([0.25]))
    assert history.to_frame().iloc[0][["score", "score_2"]].tolist() == [3.0, 0.25]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_without_its_library_a_table_says_what_to_install(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    forecast = Forecast("a", "sine", 3, np.zeros((2, 1), np.float32), None, None)
    with pytest.raises(ImportError, match=f"^{library} is not installed: pip install {library}$"):
        forecast.to_frame(library=library)


async def test_one_of_a_thing_is_told_in_the_singular(connected):
    async with connected() as (_, call):
        answer = await call(lambda client: client.session("a", "sine").advance([0.1]))
        assert repr(answer) == "<Answer 'a' at 1: 1 prediction>"
        assert "1 prediction of session a" in answer._repr_html_()
        assert repr(await call(lambda client: client.session("a").forecast(1))).endswith(": 1 step>")
        assert repr(await call(lambda client: client.session("a").forecast(2))).endswith(": 2 steps>")


async def test_the_frame_of_a_forecast_has_its_interval(connected):
    async with connected() as (_, call):
        await call(lambda client: client.session("a", "adaptive", level=0.9).advance(series("adaptive", 50)))
        forecast = await call(lambda client: client.session("a").forecast(3))
        frame = forecast.to_frame()
        assert frame.index.tolist() == [51, 52, 53]
        names = [f"forecast_{i}{end}" for end in ("", "_lower", "_upper") for i in range(2)]
        assert frame.columns.tolist() == names
        assert_array_equal(
            frame[["forecast_0_lower", "forecast_1_lower"]].to_numpy(np.float32), forecast.lower
        )
        assert "Forecast of session a" in forecast._repr_html_()


async def test_the_frame_of_a_forecast_has_both_ends_of_every_level(connected):
    async with connected() as (_, call):
        await call(lambda client: client.session("a", "adaptive").advance(series("adaptive", 50)))
        forecast = await call(lambda client: client.session("a").forecast(3, levels=[0.8, 0.9]))
        assert list(forecast.quantiles) == ["0.05", "0.1", "0.9", "0.95"]
        frame = forecast.to_frame()
        ends = ("", "-lo-90", "-lo-80", "-hi-80", "-hi-90")
        assert frame.columns.tolist() == [f"forecast_{i}{end}" for end in ends for i in range(2)]
        assert_array_equal(
            frame[["forecast_0-hi-80", "forecast_1-hi-80"]].to_numpy(np.float32), forecast.quantiles["0.9"]
        )
        assert (frame["forecast_0-lo-90"] <= frame["forecast_0-lo-80"]).all()


async def test_the_frame_of_a_history_has_each_prediction_beside_what_came(connected):
    whole = series("adaptive", 30)
    async with connected(history_observations=20) as (_, call):
        answer = await call(lambda client: client.session("a", "adaptive", level=0.9).advance(whole))
        past = await call(lambda client: client.session("a").history())
        assert repr(past) == "<History 'a': 20 observations from 10 to 30>"
        assert_array_equal(past.observations, whole[10:])
        frame = past.to_frame()
        assert (frame.index.name, frame.index.tolist()) == ("position", list(range(11, 32)))
        assert_array_equal(frame[["a", "b"]].to_numpy(np.float32)[:-1], whole[10:])
        assert_array_equal(
            frame[["b_predicted", "a_predicted"]].to_numpy(np.float32)[1:], answer.predictions[10:]
        )
        assert_array_equal(frame[["b_upper", "a_upper"]].to_numpy(np.float32)[1:], answer.upper[10:])
        assert frame.iloc[0].isna().tolist() == [
            name.endswith(("_predicted", "_lower", "_upper")) for name in frame
        ]
        newest = await call(lambda client: client.session("a").history(3))
        part = await call(lambda client: client.session("a").history(start=12, limit=2))
        assert (newest.first, len(newest), part.first, len(part)) == (27, 3, 12, 2)


async def test_times_are_those_that_are_predicted(connected):
    async with connected() as (service, call):
        rows = series("planned", 3)[:, :2].tolist()
        chunk = {"observations": rows, "timestamps": [0, HOUR, 2 * HOUR], "model": "planned"}
        assert (await service.http.post("/sessions/a/observations", json=chunk)).status_code == 200
        answer = await call(lambda client: client.session("a").advance([[0.1, 0.2, 0.0, 1.0]]))
        assert answer.times == [START + timedelta(hours=4)]
        assert answer.to_frame().index.tolist() == [pd.Timestamp("1970-01-01T04:00Z")]
        many = await call(lambda client: client.advance({"a": [[0.1, 0.2, 0.0, 1.0]]}))
        assert many["a"].times == [START + timedelta(hours=5)]
        forecast = await call(lambda client: client.session("a").forecast(2, future=[[0.1], [0.2]]))
        assert forecast.times == [START + timedelta(hours=hour) for hour in (5, 6)]
        past = await call(lambda client: client.session("a").history())
        frame = past.to_frame()
        assert frame.index.tolist() == [pd.Timestamp(hour * HOUR, unit="s", tz="UTC") for hour in range(6)]
        assert frame["a"].isna().tolist() == [False] * 5 + [True]


async def test_sessions_and_models_say_what_they_are(connected, kind):
    async with connected() as (service, call):
        await call(lambda client: client.session("a", "sine").advance([0.1]))
        sessions: list[Any] = []
        await call(lambda client: sessions.append(client.session("a")))
        name = "Session" if kind == "blocking" else "AsyncSession"
        assert repr(sessions[0]) == f"<{name} 'a' of model 'sine' at 1, http://127.0.0.1:{service.port}>"
        assert "<td>sine</td>" in sessions[0]._repr_html_()
        sine = next(model for model in await call(lambda client: client.models()) if model.name == "sine")
        assert repr(sine) == "<ModelInfo 'sine': value -> value>"
        assert "<td>value</td>" in sine._repr_html_()


def test_polars_has_the_index_as_its_first_column():
    pl = pytest.importorskip("polars")
    answer = Answer("a", "m", 2, "e", False, {"predictions": [[0.5], [0.25]], "lower": [[0.0], [0.0]]})
    frame = answer.to_frame(library="polars")
    assert isinstance(frame, pl.DataFrame)
    assert frame.to_dict(as_series=False) == {
        "position": [2, 3],
        "prediction": [0.5, 0.25],
        "prediction_lower": [0.0, 0.0],
    }
    timed = Forecast("a", "m", 2, [0.5], times=[START]).to_frame("polars")
    assert timed["time"].to_list() == [START]


def test_another_library_is_refused():
    with pytest.raises(ValueError, match="pandas or polars, not 'arrow'"):
        Forecast("a", "m", 2, [0.5]).to_frame(library="arrow")


def test_several_outputs_and_wide_ones_have_a_column_for_each_number():
    outputs = {"logits": np.zeros((2, 3), np.float32), "best": np.ones(2, np.int64)}
    past = History("a", "m", 2, 0, ("token",), (), np.ones((2, 1)), outputs=outputs)
    assert past.to_frame().columns.tolist() == [
        "token", "logits_0_predicted", "logits_1_predicted", "logits_2_predicted", "best_predicted",
    ]  # fmt: skip
    assert len(Forecast("a", "m", 2, outputs)) == 2


def test_an_empty_history_is_an_empty_frame():
    past = History("a", "m", 7, 7, ("x",), ("x",), [], predictions=[])
    assert past.to_frame().empty
    assert "<table>" in past._repr_html_()


def test_a_table_in_a_notebook_is_short_and_safe():
    table = table_html("<b>", range(1000), "position", {"<i>": [0.5] * 1000})
    assert table.count("<tr>") == 1 + HTML_ROWS + 1
    assert "&lt;b&gt;" in table
    assert "<i>" not in table
    model = ModelInfo("<m>", ("x",), ("x",), (None,))
    assert "&lt;m&gt;" in model._repr_html_()
    assert_allclose(np.array(Forecast("a", "m", 2, [0.5, 0.25])), [0.5, 0.25])
