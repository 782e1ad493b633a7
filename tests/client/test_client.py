"""The client against a real server, blocking and awaited, over requests and over the socket."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import carryover
import numpy as np
import pandas as pd
import polars as pl
import pytest
from carryover import AsyncCarryover, Carryover, connection, plans, session_socket

from models.artifact.files import save
from tests.helpers import graphs
from tests.helpers.zoo import TARGETS, TOLERANCE, one_pass, rolled_out, series

pytestmark = pytest.mark.anyio

RETRY = carryover.RetryPolicy(20.0, max_pause=0.05)
Call = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


@pytest.fixture(params=["blocking", "awaited"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def connected(start_hot, kind):
    """`async with connected() as (service, call)`: `await call(lambda client: ...)`, by either client."""

    @asynccontextmanager
    async def connect(**settings: Any) -> AsyncIterator[tuple[Any, Call]]:
        async with start_hot(**settings) as service:
            url = f"http://127.0.0.1:{service.port}"
            if kind == "blocking":
                with Carryover(url, retry=RETRY) as client:
                    yield service, lambda work: asyncio.to_thread(work, client)
            else:
                async with AsyncCarryover(url, retry=RETRY) as client:
                    yield service, lambda work: awaited(work(client))

    return connect


async def awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


@pytest.fixture(params=[False, True], ids=["requests", "socket"])
def socket(request) -> bool:
    return request.param


# One pass.


async def test_chunks_equal_one_pass_and_count_positions(connected, artifacts):
    whole = series("sine", 90)
    async with connected() as (_, call):
        parts = [
            await call(lambda c, s=start: c.session("a").advance(whole[s : s + 30])) for start in (0, 30, 60)
        ]
    assert [part.position for part in parts] == [30, 60, 90]
    predictions = np.concatenate([part.predictions for part in parts])
    np.testing.assert_allclose(predictions, one_pass(artifacts["sine"], whole), atol=TOLERANCE)


@pytest.mark.parametrize("model", ["sine", "pair", "partial"])
@pytest.mark.parametrize("chunk", [1, 7, 200])
async def test_a_stream_equals_one_pass(connected, socket, artifacts, model, chunk):
    whole = series(model, 100)
    async with connected() as (_, call):
        answer = await call(lambda c: c.session("a", model).stream(whole, chunk, socket=socket).collect())
    np.testing.assert_allclose(answer.predictions, one_pass(artifacts[model], whole), atol=3 * TOLERANCE)
    assert (answer.position, answer.replayed) == (100, False)


async def test_a_stream_continues_at_the_session_s_position(connected, socket, artifacts):
    whole = series("sine", 60)
    async with connected() as (_, call):
        await call(lambda c: c.session("a").advance(whole[:20]))
        await call(lambda c: c.session("a").stream(whole[20:40], 5, socket=socket).collect())
        answer = await call(lambda c: c.session("a").stream(whole[40:], 5, socket=socket).collect())
    np.testing.assert_allclose(answer.predictions, one_pass(artifacts["sine"], whole)[40:], atol=TOLERANCE)


async def test_every_observation_of_a_stream_has_its_prediction(connected, socket):
    whole = series("sine", 10)[:, 0]

    def streamed(client: Any) -> Any:
        predictions = client.session("a").stream(whole, 4, socket=socket)
        if isinstance(client, Carryover):
            return list(predictions)
        return collect(predictions)

    async with connected() as (service, call):
        predictions = await call(streamed)
        want = (await service.advance("b", whole.tolist())).numbers[:, 0]
    assert [prediction.position for prediction in predictions] == list(range(1, 11))
    np.testing.assert_allclose([float(prediction) for prediction in predictions], want, atol=TOLERANCE)


async def collect(items: Any) -> list[Any]:
    return [item async for item in items]


# Exactly once.


@pytest.fixture
def lossy(monkeypatch) -> None:
    """Lose every third answer, after the server has sent it."""
    counts = {"requests": 0, "reads": 0}

    def lost(what: str) -> None:
        counts[what] += 1
        if counts[what] % 3 == 0:
            raise carryover.Unreachable("lost on purpose")

    performed, awaiting = Carryover._perform, AsyncCarryover._perform
    read, reading = connection.Connection.read, connection.AsyncConnection.read

    def perform(self, effect):
        result = performed(self, effect)
        lost("requests") if result is not None else None
        return result

    async def perform_awaited(self, effect):
        result = await awaiting(self, effect)
        lost("requests") if result is not None else None
        return result

    def read_lossy(self):
        data = read(self)
        lost("reads")
        return data

    async def reading_lossy(self):
        data = await reading(self)
        lost("reads")
        return data

    monkeypatch.setattr(Carryover, "_perform", perform)
    monkeypatch.setattr(AsyncCarryover, "_perform", perform_awaited)
    monkeypatch.setattr(connection.Connection, "read", read_lossy)
    monkeypatch.setattr(connection.AsyncConnection, "read", reading_lossy)


@pytest.mark.usefixtures("lossy")
@pytest.mark.parametrize("as_text", [False, True])
async def test_every_chunk_is_applied_once_although_answers_are_lost(connected, socket, artifacts, as_text):
    whole = series("sine", 120)
    rows = whole[:, 0].tolist() if as_text else whole
    async with connected() as (service, call):
        answer = await call(lambda c: c.session("a").stream(rows, 3, socket=socket).collect())
        assert (await service.session("a"))["position"] == 120
    assert answer.replayed
    predictions = np.array(answer.predictions).reshape(-1, 1)
    np.testing.assert_allclose(predictions, one_pass(artifacts["sine"], whole), atol=TOLERANCE)


@pytest.mark.usefixtures("lossy")
async def test_a_server_that_stores_one_answer_gets_one_chunk_at_a_time(connected, artifacts):
    whole = series("sine", 24)
    async with connected(recent_chunks=1) as (_, call):
        answer = await call(lambda c: c.session("a").stream(whole, 3, socket=True).collect())
    np.testing.assert_allclose(answer.predictions, one_pass(artifacts["sine"], whole), atol=TOLERANCE)


@pytest.mark.usefixtures("lossy")
async def test_no_call_is_applied_twice_when_its_answer_is_lost(connected):
    async with connected() as (service, call):
        for place in range(6):
            await call(lambda c, p=place: c.session("a").advance([0.1 * p]))
            fork = await call(lambda c: c.session("a").fork())
            await call(lambda c: c.session("a").reset())
            await awaited(await call(lambda c, f=fork: c.session(f.id).delete()))
        assert (await service.session("a"))["position"] == 6
        assert await call(lambda c: c.count()) == 1


async def test_a_chunk_of_another_client_is_detected_and_not_overwritten(connected, socket):
    async with connected() as (service, call):
        await call(lambda c: c.session("a").advance([0.1, 0.2]))
        await service.advance("a", [0.5])
        with pytest.raises(carryover.OutOfStep) as error:
            await call(lambda c: c.session("a").stream([0.3], socket=socket).collect())
        assert error.value.position == 3
        assert (await call(lambda c: c.session("a").refresh())).position == 3
        assert (await call(lambda c: c.session("a").advance([0.3]))).position == 4


async def test_a_session_deleted_in_the_middle_of_a_stream_does_not_start_again(connected, socket):
    async with connected() as (service, call):
        await call(lambda c: c.session("a").advance([0.1, 0.2]))
        await service.http.delete("/sessions/a")
        with pytest.raises(carryover.SessionGone):
            await call(lambda c: c.session("a").stream([0.3], socket=socket).collect())
        await call(lambda c: c.session("b").advance([0.1]))
        assert (await call(lambda c: c.count())) == 1


async def test_after_a_stream_was_left_early_the_session_continues_at_the_server_s_position(
    connected, artifacts
):
    whole = series("sine", 60)

    def left_early(client: Any) -> Any:
        stream = client.session("a").stream(whole[:40], 2, socket=True)
        return first(stream) if isinstance(client, Carryover) else first_awaited(stream)

    async with connected() as (service, call):
        assert (await call(left_early)).position == 10
        done = (await service.session("a"))["position"]
        assert 10 <= done <= 40
        answer = await call(lambda c: c.session("a").advance(whole[done:]))
    np.testing.assert_allclose(answer.predictions, one_pass(artifacts["sine"], whole)[done:], atol=TOLERANCE)


def first(stream: Any) -> Any:
    with stream:
        return next(prediction for prediction in stream if prediction.position == 10)


async def first_awaited(stream: Any) -> Any:
    async with stream:
        return await anext(prediction async for prediction in stream if prediction.position == 10)


async def test_an_iterator_is_read_further_only_after_its_predictions_are_seen(connected, socket, kind):
    seen: list[int] = []
    pulled: list[int] = []

    def readings() -> Iterator[float]:
        for place in range(6):
            assert len(seen) >= place // 2 * 2  # both predictions of the chunk before
            pulled.append(place)
            yield 0.1

    def streamed(client: Any) -> Any:
        stream = client.session("a").stream(readings(), 2, socket=socket)
        if isinstance(client, Carryover):
            return [seen.append(prediction.position) for prediction in stream]
        return note_positions(stream)

    async def note_positions(stream: Any) -> None:
        async for prediction in stream:
            seen.append(prediction.position)  # noqa: PERF401

    async with connected() as (_, call):
        await call(streamed)
    assert (len(pulled), seen) == (6, [1, 2, 3, 4, 5, 6])


async def test_an_async_iterable_is_streamed(start_hot, socket):
    async def readings() -> AsyncIterator[float]:
        for place in range(5):
            await asyncio.sleep(0)
            yield 0.1 * place

    async with start_hot() as service, AsyncCarryover(f"http://127.0.0.1:{service.port}") as client:
        answer = await client.session("a").stream(readings(), 2, socket=socket).collect()
    assert (answer.position, len(answer)) == (5, 5)


# Types of answers.


async def test_answers_have_the_type_of_the_observations(connected, socket):
    numbers = [0.1, 0.2, 0.3]
    async with connected() as (_, call):
        got = {}
        for name, rows in {
            "list": numbers,
            "rows": [[number] for number in numbers],
            "array": np.array(numbers),
            "columns": np.array(numbers)[:, None],
            "integers": np.array([0, 1, 1]),
        }.items():
            stream = await call(
                lambda c, n=name, r=rows: c.session(n).stream(r, 2, socket=socket, horizon=2).collect()
            )
            got[name] = stream
    assert isinstance(got["list"].predictions[2], float)
    assert len(got["rows"].predictions[2]) == 1
    assert got["array"].predictions.shape == got["integers"].predictions.shape == (3,)
    assert got["columns"].predictions.shape == (3, 1)
    arrays = [answer.predictions for answer in got.values() if hasattr(answer.predictions, "dtype")]
    assert {predictions.dtype for predictions in arrays} == {np.dtype("float32")}
    assert np.shape(got["list"].forecast) == np.shape(got["array"].forecast) == (2,)
    assert np.shape(got["columns"].forecast) == (2, 1)
    np.testing.assert_allclose(got["list"].predictions, got["array"].predictions, atol=TOLERANCE)


async def test_a_series_keeps_its_index_and_name(connected, socket):
    hours = pd.date_range("2024-01-01", periods=5, freq="h")
    readings = pd.Series([0, 1, 2, 3, 4], hours, name="flow")
    async with connected() as (_, call):
        answer = await call(lambda c: c.session("a").stream(readings, 2, socket=socket).collect())
        single = await call(lambda c: c.session("b").advance(readings))
    for result in (answer, single):
        assert result.predictions.index.equals(hours)
        assert result.predictions.name == "flow"
        assert result[-1].label == hours[-1]


async def test_the_columns_of_a_frame_are_put_into_the_model_s_order(connected, artifacts, socket):
    whole = series("pair", 6)
    frame = pd.DataFrame(whole, columns=["a", "b", "c"])
    mixed = frame[["c", "a", "b"]].assign(note=1.0)
    async with connected() as (_, call):
        answer = await call(lambda c: c.session("x", "pair").stream(mixed, 4, socket=socket).collect())
    assert list(answer.predictions.columns) == TARGETS["pair"]
    np.testing.assert_allclose(
        answer.predictions.to_numpy(), one_pass(artifacts["pair"], whole), atol=3 * TOLERANCE
    )


async def test_every_table_goes_by_name_alone_streamed_and_in_bulk(connected, artifacts, socket):
    whole = series("pair", 6)
    columns = dict(zip("cab", whole[:, [2, 0, 1]].T.tolist(), strict=True))
    dicts = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    want = one_pass(artifacts["pair"], whole)
    sources = {"columns": columns, "polars": pl.DataFrame(columns), "dicts": dicts}
    async with connected() as (service, call):
        for name, source in (sources | {"iterator": iter(dicts)}).items():
            stream = await call(
                lambda c, n=name, s=source: c.session(n, "pair").stream(s, 4, socket=socket).collect()
            )
            np.testing.assert_allclose(np.array(stream.predictions), want, atol=3 * TOLERANCE, err_msg=name)
        bulk = await call(lambda c: c.advance({f"b-{name}": rows for name, rows in sources.items()}, "pair"))
        for name in sources:
            answer = bulk[f"b-{name}"]
            np.testing.assert_allclose(np.array(answer.predictions), want, atol=3 * TOLERANCE, err_msg=name)
        for source in (columns, iter(dicts)):
            with pytest.raises(ValueError, match="takes value; the observations have c, a, b"):
                await call(lambda c, s=source: c.session("new", "sine").stream(s, socket=socket).collect())
        assert (await service.http.get("/sessions/new")).status_code == 404
        mapped = await call(lambda c: c.session("new", "sine").advance(columns, columns={"a": "value"}))
    np.testing.assert_allclose(mapped.predictions, one_pass(artifacts["sine"], whole[:, :1]), atol=TOLERANCE)


async def test_a_model_of_times_and_known_inputs_is_streamed_and_forecast(
    connected, socket, capsys, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # so that there is a progress bar
    hours = pd.date_range("2026-01-01", periods=12, freq="h", tz="UTC")
    frame = pd.DataFrame({"plan": np.arange(12.0), "a": np.sin(np.arange(12.0))}, index=hours)
    rows = frame[["a", "plan"]].to_numpy()
    async with connected() as (_, call):
        await call(
            lambda c: c.session("x", "planned").stream(frame, 5, socket=socket, progress=True).collect()
        )
        shown = await call(lambda c: c.session("x").info())
        await call(lambda c: c.session("y", "planned").advance(rows, timestamps=hours))
        await call(
            lambda c: (
                c.session("z", "planned")
                .stream(iter(rows.tolist()), 5, timestamps=list(hours), socket=socket)
                .collect()
            )
        )
        future = {"plan": [1.0, 2.0, 3.0], "note": ["", "", ""]}
        forecasts = [
            await call(lambda c, n=name: c.session(n).forecast(3, future=future)) for name in ("x", "y", "z")
        ]
        with pytest.raises(ValueError, match="makes inputs from the time of each observation"):
            await call(lambda c: c.session("new", "planned").advance(frame.reset_index(drop=True)))
        last = await call(
            lambda c: c.session("w", "planned").advance(
                frame, horizon=3, future=np.array([[1.0], [2.0], [3.0]])
            )
        )
        with pytest.raises(ValueError, match="has no timestamps"):
            await call(lambda c: c.advance({"x": frame}))
    assert shown.time == hours[-1].to_pydatetime()
    for forecast in forecasts:
        np.testing.assert_allclose(forecast.values, last.forecast.reshape(forecast.values.shape), atol=1e-6)
    assert "12" in capsys.readouterr().err


async def test_a_forecast_is_an_array_and_leaves_the_session_unchanged(connected, artifacts):
    whole = series("sine", 20)
    async with connected() as (_, call):
        await call(lambda c: c.session("a").advance(whole))
        forecast = await call(lambda c: c.session("a").forecast(9))
        assert (await call(lambda c: c.session("a").info())).position == 20
    np.testing.assert_allclose(np.asarray(forecast), rolled_out(artifacts["sine"], whole, 9)[:, 0], atol=1e-5)
    assert (len(forecast), forecast.position) == (9, 20)


# The other calls.


async def test_a_session_is_saved_loaded_forked_reset_and_deleted(connected, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    async with connected() as (_, call):
        await call(lambda c: c.session("a").advance([0.1, 0.2, 0.3]))
        await call(lambda c: c.session("a").save(path))
        fork = await call(lambda c: c.session("a").fork("b"))
        assert (fork.id, fork.position) == ("b", 3)
        assert (await call(lambda c: c.session("a").reset())).observations_since_reset == 0
        assert (await call(lambda c: c.session("a").load(path))).observations_since_reset == 3
        together = [await call(lambda c, n=name: c.session(n).advance([0.4])) for name in "ab"]
        assert together[0].predictions == together[1].predictions
        with pytest.raises(carryover.SessionExists):
            await call(lambda c: c.session("a").fork("b"))
        await call(lambda c: c.session("b").delete())
        with pytest.raises(carryover.SessionGone) as error:
            await call(lambda c: c.session("b").info())
    assert error.value.position == 4


async def test_a_session_is_created_with_its_options(connected):
    async with connected() as (_, call):
        answer = await call(lambda c: c.session("a", "pair", ttl_seconds=60).advance([[1.0, 2.0, 3.0]]))
        info = await call(lambda c: c.session("a").info())
        assert (answer.model, info.ttl_seconds, info.position) == ("pair", 60, 1)
        created = await call(lambda c: c.session("b", "pair").create())
        assert (created.position, created.model, created.updated.tzinfo is not None) == (0, "pair", True)


async def test_a_session_of_another_model_is_refused(connected, socket):
    async with connected() as (_, call):
        await call(lambda c: c.session("a", "sine").advance([0.1]))
        with pytest.raises(carryover.SessionExists, match="runs model 'sine'"):
            await call(lambda c: c.session("a", "partial").stream(np.zeros((2, 2)), socket=socket).collect())
    async with connected() as (service, call):
        await service.advance("a", [0.5])
        with pytest.raises(carryover.SessionExists, match="runs model 'sine'"):
            await call(lambda c: c.session("a", "partial").stream(np.zeros((2, 2)), socket=socket).collect())


async def test_sessions_are_listed_beyond_a_page(connected, monkeypatch):
    monkeypatch.setattr(plans, "PAGE", 2)
    async with connected() as (service, call):
        for name in ("a", "b", "c..", "d", "e"):
            await service.http.post("/observations", json={"sessions": [name], "observations": [0.1]})

        def listed(client: Any, **chosen: Any) -> Any:
            found = client.sessions(**chosen)
            return list(found) if isinstance(client, Carryover) else collect(found)

        assert [entry["session"] for entry in await call(listed)] == ["a", "b", "c..", "d", "e"]
        names = [entry["session"] for entry in await call(lambda c: listed(c, descending=True))]
        assert names == ["e", "d", "c..", "b", "a"]
        up, down = [
            await call(lambda c, d=descending: listed(c, order="last_seen", descending=d, detail=True))
            for descending in (False, True)
        ]
        assert [entry["session"] for entry in up] == [entry["session"] for entry in down][::-1]
        assert sorted(entry["session"] for entry in up) == ["a", "b", "c..", "d", "e"]
        assert [entry["updated"] for entry in up] == sorted(entry["updated"] for entry in up)
        with pytest.raises(ValueError, match="after= is an id"):
            await call(lambda c: listed(c, order="error", after="a"))
        for name in "bde":
            info = await call(lambda c, name=name: c.session(name).set_labels({"site": "nörth", "line": "4"}))
        assert info.labels == {"site": "nörth", "line": "4"}
        await call(lambda c: c.session("d").set_labels({"site": None}))
        north = await call(lambda c: listed(c, labels={"line": "4", "site": "nörth"}))
        assert [entry["session"] for entry in north] == ["b", "e"]
        assert (await call(lambda c: c.session("c..").info())).position == 1
        assert {model.name for model in await call(lambda c: c.models())} >= {"sine", "pair", "partial"}


@pytest.mark.parametrize("over", ["advance", "requests", "socket", "bulk"])
async def test_a_session_that_was_deleted_begins_anew_with_its_model(connected, over):
    async with connected() as (_, call):
        await call(lambda c: c.session("a", "tokens").advance([1]))
        await call(lambda c: c.session("a").delete())
        if over == "bulk":
            await call(lambda c: c.advance({"a": [2]}))
        elif over == "advance":
            await call(lambda c: c.session("a").advance([2]))
        else:
            await call(lambda c: c.session("a").stream([2], socket=over == "socket").collect())
        info = await call(lambda c: c.session("a").info())
        assert (info.model, info.position) == ("tokens", 1)


# Many sessions in one request.


async def test_bulk_creates_a_session_as_it_was_named_and_feeds_no_other_model(connected):
    async with connected() as (service, call):
        for name in ("there", "known"):
            await service.advance(name, [0.5])
        await call(lambda c: c.session("known").info())

        def advanced(client: Any) -> Any:
            client.session("new", "tokens", ttl_seconds=60)
            client.session("there", "tokens")
            client.session("known", "tokens").rewind(1)
            return client.advance({"new": [1], "plain": [0.5], "there": [1], "known": [1]})

        answers = await call(advanced)
        info = await call(lambda c: c.session("new").info())
        assert (info.model, info.ttl_seconds, info.position) == ("tokens", 60, 1)
        assert answers["plain"].position == 1
        assert {name: str(error) for name, error in answers.errors.items()} == {
            name: f"session {name!r} runs model 'sine', not 'tokens'" for name in ("there", "known")
        }
        assert (await service.session("there"))["position"] == 1


async def test_bulk_advances_every_session_from_its_position(connected, artifacts):
    whole = {name: series("sine", 30, seed) for seed, name in enumerate("abc")}
    async with connected() as (service, call):
        await service.advance("b", whole["b"][:10])
        start = {"a": 0, "b": 10, "c": 0}
        for step in (1, 5, 9):
            chunks = {name: rows[start[name] : start[name] + step] for name, rows in whole.items()}
            answers = await call(lambda c, x=chunks: c.advance(x))
            start = {name: at + step for name, at in start.items()}
            assert {name: answer.position for name, answer in answers.items()} == start
            for name, answer in answers.items():
                want = one_pass(artifacts["sine"], whole[name])[start[name] - step : start[name]]
                np.testing.assert_allclose(answer.predictions, want, atol=TOLERANCE)


async def test_in_bulk_a_bad_neighbour_fails_alone(connected):
    async with connected() as (_, call):
        answers = await call(lambda c: c.advance({"a": 0.1, "b": [[1.0, 2.0]], "c": np.array([0.1, 0.2])}))
        again = await call(lambda c: c.advance({"a": 0.1, "c": 0.3}))
    assert [answers["a"].position, answers["c"].position] == [1, 2]
    assert (len(answers), list(answers.errors)) == (3, ["b"])
    with pytest.raises(carryover.Unprocessable):
        answers["b"]
    assert (again["a"].position, again["c"].position) == (2, 3)
    assert isinstance(answers["c"].predictions, np.ndarray)


# Models that learn.


@pytest.mark.parametrize("way", ["advance", "requests", "socket", "bulk", "bulk of one"])
async def test_intervals_residuals_and_scores_come_with_the_predictions(connected, way):
    whole = series("adaptive", 60)
    whole[40, 1] = np.nan
    async with connected() as (_, call):
        await call(lambda c: c.session("a", "adaptive").advance(whole[:50]))
        rows = whole[50:51] if way == "bulk of one" else whole[50:]
        if way == "advance":
            answer = await call(
                lambda c: c.session("a").advance(rows, level=0.9, levels=[0.8, 0.9], score=True, horizon=3)
            )
        elif way.startswith("bulk"):
            answers = await call(lambda c: c.advance({"a": rows}, level=0.9, levels=[0.8, 0.9], score=True))
            answer = answers["a"]
        else:
            over = way == "socket"
            answer = await call(
                lambda c: (
                    c.session("a")
                    .stream(rows, 4, level=0.9, levels=(0.8, 0.9), score=True, horizon=3, socket=over)
                    .collect()
                )
            )
        forecast = await call(lambda c: c.session("a").forecast(5, level=0.9))
        info = await call(lambda c: c.session("a").info())
    for numbers in (answer.predictions, answer.lower, answer.upper, answer.residuals):
        assert numbers.shape == (len(rows), 2)
    assert answer.scores.shape == (len(rows),)
    assert (answer.lower < answer.upper).all()
    assert (answer[-1].residual == answer.residuals[-1]).all()
    assert list(answer.quantiles) == ["0.05", "0.1", "0.9", "0.95"]
    np.testing.assert_array_equal(answer.quantiles["0.05"], answer.lower)
    np.testing.assert_array_equal(answer[-1].quantiles["0.95"], answer.upper[-1])
    if not way.startswith("bulk"):
        np.testing.assert_array_equal(answer.forecast_quantiles["0.95"], answer.forecast_upper)
    assert "prediction_0-lo-90" in answer.to_frame().columns
    assert np.asarray(forecast).shape == forecast.lower.shape == (5, 2)
    assert info.errors["observations"] > 0
    assert info.learning["readout"] == "rls"


async def test_a_missing_value_is_marked_and_a_skip_advances_over_many(connected):
    async with connected() as (_, call):
        answer = await call(
            lambda c: c.session("a", "adaptive").advance(np.array([[1, 2], [np.nan, 3], [4, 5]]), level=0.9)
        )
        assert answer.observed.tolist() == [[True, True], [False, True], [True, True]]
        hole = np.array([[1, 2]] * 4 + [[np.nan, 3], [4, 5]])
        for rows, name in ((hole, "b"), ([[None if x != x else x for x in row] for row in hole], "c")):
            whole = await call(lambda c, r=rows, n=name: c.session(n, "adaptive").stream(r, 2).collect())
            assert np.array_equal(whole.observed, ~np.isnan(hole))
        flat = await call(lambda c: c.session("d").stream([0.1, 0.2, None], 1).collect())
        assert flat.observed == [True, True, False]
        skipped = await call(lambda c: c.session("a").skip(7))
        assert (skipped.position, len(skipped)) == (10, 7)


@pytest.mark.usefixtures("lossy")
async def test_bulk_applies_nothing_twice_when_answers_are_lost(connected):
    async with connected() as (_, call):
        for place in range(1, 6):
            answers = await call(lambda c: c.advance({"a": 0.1, "b": [0.2, 0.3]}))
            assert (answers["a"].position, answers["b"].position) == (place, 2 * place)


# Connections.


async def test_without_websockets_a_stream_uses_requests(connected, monkeypatch):
    monkeypatch.setattr(session_socket, "ClientProtocol", None)
    async with connected() as (_, call):
        answer = await call(lambda c: c.session("a").stream([0.1, 0.2], 1).collect())
        assert answer.position == 2
        with pytest.raises(carryover.SocketUnavailable, match="pip install websockets"):
            await call(lambda c: c.session("a").stream([0.1], socket=True).collect())


@pytest.mark.parametrize(("bypass", "opened"), [("", False), ("127.0.0.1", True)])
async def test_behind_a_proxy_a_stream_uses_requests(connected, monkeypatch, bypass, opened):
    found: list[str] = []

    def count(target: type[Any]) -> None:
        opening = target.open

        def open_(self: Any) -> Any:
            found.append(self.url)
            return opening(self)

        monkeypatch.setattr(target, "open", open_)

    count(connection.Connection)
    count(connection.AsyncConnection)
    async with connected() as (_, call):
        # The client is there already: its requests go past the proxy.
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, "http://proxy.invalid:3128")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, bypass)
        answer = await call(lambda c: c.session("a").stream([0.1, 0.2], 1).collect())
        assert (answer.position, bool(found)) == (2, opened)


async def test_a_refusal_is_raised_with_the_row_that_caused_it(connected, socket):
    async with connected() as (_, call):
        rows = [0.1, 0.2, float("inf")]
        for name, given in (("a", rows), ("b", iter(rows))):
            with pytest.raises(carryover.Unprocessable, match=r"row 2 of the stream, column 0 is") as error:
                await call(lambda c, n=name, g=given: c.session(n).stream(g, 2, socket=socket).collect())
            assert (error.value.status, error.value.extra["row"]) == (422, 2)
        named = [{"a": 1, "b": 2, "c": 3}] * 3 + [{"a": 1}]
        with pytest.raises(ValueError, match=r"row 3 of the stream has no 'b'"):
            await call(lambda c: c.session("p", "pair").stream(iter(named), 2, socket=socket).collect())
        answer = await call(lambda c: c.session("a").stream([0.3], socket=socket).collect())
    assert answer.position == 3


async def test_an_error_of_the_source_comes_behind_the_predictions_of_what_was_sent(connected, socket, kind):
    def readings() -> Iterator[float]:
        yield from (0.1, 0.2, 0.3, 0.4, 0.5)
        raise ValueError("a bad row")

    def streamed(client: Any) -> Any:
        return client.session("a").stream(readings(), 2, max_in_flight=8, socket=socket)

    async def collect_async(client: Any) -> list[Any]:
        got: list[Any] = []
        try:
            async for prediction in streamed(client):
                got += [prediction.position]
        except ValueError as error:
            got += [str(error)]
        return got

    def collect_blocking(client: Any) -> list[Any]:
        got: list[Any] = []
        try:
            for prediction in streamed(client):
                got += [prediction.position]
        except ValueError as error:
            got += [str(error)]
        return got

    async with connected() as (service, call):
        got = await call(collect_blocking if kind == "blocking" else collect_async)
        assert got == [1, 2, 3, 4, "a bad row"]
        assert (await service.session("a"))["position"] == 4


async def test_without_retries_an_unreachable_server_is_an_error_at_once(kind):
    async def advance() -> None:
        if kind == "blocking":
            with Carryover("http://127.0.0.1:1", retry=0) as client:
                client.session("a").advance([0.1])
        else:
            async with AsyncCarryover("http://127.0.0.1:1", retry=0) as client:
                await client.session("a").stream([0.1], socket=True).collect()

    with pytest.raises(carryover.Unreachable, match="is the server running"):
        await advance()


# Graphs.


async def test_whole_numbers_and_named_outputs_come_back_as_they_are(connected, socket, tmp_path):
    for make in (graphs.counter, graphs.characters):
        save(make(), tmp_path / "graphs" / make.__name__)
    numbers, tokens = np.array([2**40 + 1, -5, 2**50]), np.array([3, 1, 4, 1, 5])
    want = graphs.reference("characters", tokens[:, None])
    async with connected(models=(tmp_path / "graphs",), default_model="counter") as (_, call):
        answer = await call(lambda c: c.session("a").stream(numbers, 2, socket=socket).collect())
        assert answer.predictions.dtype == np.int64
        assert answer.predictions.ravel().tolist() == (-3 + np.cumsum(numbers)).tolist()
        for name, rows in (("c", numbers.astype(np.float64)), ("d", pd.Series(numbers))):
            floats = await call(lambda c, n=name, r=rows: c.session(n).stream(r, 2, socket=socket).collect())
            assert np.ravel(floats.predictions).tolist() == (-3 + np.cumsum(numbers)).tolist()
        named = await call(lambda c: c.session("b", "characters").stream(tokens, 2, socket=socket).collect())
    assert named.predictions is None
    assert len(named) == 5
    np.testing.assert_allclose(named.outputs["logits"], want[:, :30], atol=TOLERANCE)
    np.testing.assert_array_equal(named.outputs["best"], want[:, 30])
    assert named[2].value["best"] == want[2, 30]
