"""Sessions that learn, through the service: by every way in, over every store, with everything on."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
import websockets

from app.codec.bulk import arrow
from app.session import state_file
from models.forecaster import Forecaster
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio

CLOSE = 1e-5


def reference(artifact, observations, learning=None):
    """One pass in memory: predictions, what was judged, the carry."""
    forecaster = Forecaster(artifact, learning=learning)
    lengths = np.array([len(observations)])
    return forecaster, forecaster.observe(observations, lengths, forecaster.new_carry[None])


async def posted(service, session, status=200, **body):
    response = await service.http.post(f"/sessions/{session}/observations", json=body)
    assert response.status_code == status, response.text
    return response.json()


async def test_chunks_equal_one_pass_with_everything_on(start, artifacts):
    whole = series("adaptive", 60)
    _, passed = reference(artifacts["adaptive"], whole)
    async with start() as service:
        got = await service.stream("s", whole, [1, 7, 1, 30, 20, 1], model="adaptive")
        np.testing.assert_allclose(got, passed.predictions, rtol=CLOSE, atol=CLOSE)
        shown = await service.session("s")
        assert shown["errors"]["observations"] == 59


async def test_sessions_that_share_waves_and_rows_learn_each_as_if_alone(start, artifacts):
    """Two rows in the slab and six sessions: each is put away and brought back again and again."""
    streams = {f"s{i}": series("adaptive", 24, seed=i) for i in range(6)}
    got = {name: [] for name in streams}
    async with start(resident_sessions=2, batch_sessions=2) as service:
        for at in range(0, 24, 4):
            for name, whole in streams.items():
                reply = await service.advance(name, whole[at : at + 4], at, model="adaptive")
                got[name].append(reply.numbers)
    for name, whole in streams.items():
        _, passed = reference(artifacts["adaptive"], whole)
        np.testing.assert_allclose(np.concatenate(got[name]), passed.predictions, rtol=CLOSE, atol=CLOSE)


async def test_intervals_scores_and_residuals_are_told_when_asked_for(start_http, artifacts):
    whole = series("adaptive", 40)
    forecaster, passed = reference(artifacts["adaptive"], whole)
    async with start_http() as service:
        first = await posted(service, "s", observations=whole[:10].tolist(), model="adaptive")
        assert not {"lower", "upper", "scores", "residuals"} & first.keys()
        answer = await posted(service, "s", observations=whole[10:].tolist(), level=0.9, score=True)
    widths = passed.scores.widths[10:, 1]
    np.testing.assert_allclose(answer["lower"], passed.predictions[10:] - widths, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(answer["upper"], passed.predictions[10:] + widths, rtol=CLOSE, atol=CLOSE)
    np.testing.assert_allclose(answer["scores"], passed.scores.scores[10:], atol=CLOSE)
    order = forecaster.learner.target_columns
    before = np.array(first["predictions"] + answer["predictions"])[9:-1]
    np.testing.assert_allclose(answer["residuals"], whole[10:, order] - before, atol=CLOSE)


async def test_the_first_observation_has_no_score(start_http):
    async with start_http() as service:
        answer = await posted(service, "s", observations=[[0.1, 0.2]], model="adaptive", score=True)
        assert answer["scores"] == [None]
        assert answer["residuals"] == [[None, None]]


async def test_a_session_may_want_intervals_with_every_chunk(start, artifacts):
    async with start() as service:
        await service.http.post("/sessions", json={"id": "s", "model": "adaptive", "level": 0.8})
        assert (await service.session("s"))["level"] == 0.8
        answer = await posted(service, "s", observations=series("adaptive", 3).tolist())
        assert np.shape(answer["lower"]) == (3, 2)
        await service.http.post("/sessions/s/reset")
        assert (await service.session("s"))["level"] == 0.8
        reply = await service.advance("s", series("adaptive", 2), 3, model="adaptive")
        assert reply.numbers.shape == (2, 2)


async def test_a_retry_is_answered_with_the_same_intervals_and_moves_nothing(start_http):
    chunk = {"observations": series("adaptive", 4).tolist(), "at": 0, "level": 0.9, "score": True}
    async with start_http() as service:
        first = await posted(service, "s", **chunk, model="adaptive")
        again = await posted(service, "s", **chunk, model="adaptive")
        assert again == first | {"replayed": True}
        other = await posted(service, "s", 409, **(chunk | {"level": 0.8}))
        assert other["position"] == 4
        plain = {name: chunk[name] for name in ("observations", "at")}
        assert (await posted(service, "s", 409, **plain))["position"] == 4


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("adaptive", {"level": 0.7}, "0.8, 0.9, not 0.7"),
        ("adaptive", {"level": 2}, "not 2"),
        ("sine", {"level": 0.9}, "neither intervals nor surprise"),
        ("sine", {"score": True}, "neither intervals nor surprise"),
    ],
)
async def test_options_that_a_session_does_not_keep_are_refused_and_nothing_moves(
    start_http, model, options, reason
):
    async with start_http() as service:
        rows = series(model, 2).tolist()
        problem = await posted(service, "s", 422, observations=rows, model=model, **options)
        assert reason in problem["detail"]
        await posted(service, "t", observations=rows, model=model)
        await posted(service, "t", 422, observations=rows, **options)
        assert (await service.session("t"))["position"] == 2


async def test_sessions_of_a_model_that_does_not_predict_its_input_cannot_learn(start_http):
    async with start_http() as service:
        body = {"id": "s", "model": "tokens", "learning": {"intervals": True}}
        refused = await service.http.post("/sessions", json=body)
        assert refused.status_code == 422, refused.text
        assert "cannot learn about the target 'x'" in refused.json()["detail"]


async def test_missing_values_are_stood_in_for_by_every_way(start, artifacts):
    whole = series("adaptive", 40)
    whole[np.random.default_rng(0).uniform(size=whole.shape) < 0.2] = np.nan
    whole[20:23] = np.nan
    _, passed = reference(artifacts["adaptive"], whole)
    async with start() as service:
        got = await service.stream("s", np.ma.masked_invalid(whole), [5, 1, 14, 1, 2, 17], model="adaptive")
    np.testing.assert_allclose(got, passed.predictions, rtol=CLOSE, atol=CLOSE)
    assert np.isfinite(got).all()


async def test_a_model_that_learns_nothing_takes_gaps_too(start, artifacts):
    whole = series("sine", 20)
    whole[7:9] = np.nan
    _, passed = reference(artifacts["sine"], whole)
    async with start() as service:
        got = await service.stream("s", np.ma.masked_invalid(whole), [5, 3, 1, 11])
    np.testing.assert_allclose(got, passed.predictions, rtol=CLOSE, atol=CLOSE)


async def test_the_answer_marks_missing_values(start_http):
    async with start_http() as service:
        rows = [[0.1, None], [0.2, 0.3]]
        answer = await posted(service, "s", observations=rows, model="adaptive")
        assert answer["observed"] == [[True, False], [True, True]]
        flat = await posted(service, "t", observations=[0.1, None, 0.2])
        assert flat["observed"] == [True, False, True]


async def test_a_gap_may_be_skipped_and_is_the_same_as_rows_of_null(start_http):
    whole = series("adaptive", 12).tolist()
    async with start_http() as service:
        for name, gap in (("a", {"observations": [[None, None]] * 3}), ("b", {"skip": 3})):
            await posted(service, name, observations=whole[:6], model="adaptive")
            answer = await posted(service, name, **gap, at=6)
            assert answer["position"] == 9
            assert answer["observed"] == [[False, False]] * 3
            again = await posted(service, name, **gap, at=6)
            assert again == answer | {"replayed": True}
        first, second = [await posted(service, name, observations=whole[6:], at=9) for name in "ab"]
        np.testing.assert_allclose(first["predictions"], second["predictions"], rtol=CLOSE)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (
            {"observations": [[0.1, None, 0, 1]]},
            422,
            "row 0, column 1 is missing, and nothing predicts 'plan'",
        ),
        ({"observations": [[0.1, 0.2]], "skip": 2}, 422, "not both"),
        ({"skip": 0}, 422, "at least 1"),
        ({"skip": 10**9}, 413, "at most"),
        ({}, 422, "no observations"),
        ({"observations": [[None, "x"]]}, 422, "row 0, column 1"),
        ({"observations": [[1, None], [1]]}, 422, "row 1"),
        ({"observations": [[1, 1e39]], "level": None}, 422, "row 0, column 1"),
        ({"observations": [[1, 1]], "timestamps": ["yesterday"]}, 422, "timestamps[0]"),
        ({"observations": [[1, 1]], "timestamps": [1e300]}, 422, "timestamps[0]"),
        ({"observations": [[1, 1]], "timestamps": [0, 3600]}, 422, "2 timestamps for 1"),
        ({"observations": [[1, 1], [2, 2]], "timestamps": [0, 3500]}, 422, "row 1 is not 3600 s"),
        ({"observations": [[1, 1]], "timestamps": [0], "horizon": 2}, 422, "future of plan"),
        ({"observations": [[1, 1]], "timestamps": [0], "horizon": 2, "future": [[1]]}, 422, "2 rows of 1"),
        ({"observations": [[1, 1, 0, 1]], "horizon": 2, "future": [[1], [2]]}, 422, "no timestamps yet"),
    ],
)
async def test_values_that_make_no_observation_are_refused_with_their_place(start_http, body, status, reason):
    async with start_http() as service:
        problem = await posted(service, "s", status, **body, model="planned")
        assert reason in problem["detail"]
        assert (await service.http.get("/sessions/s")).status_code == 404


async def test_timestamps_for_a_model_that_uses_none_are_refused(start_http):
    async with start_http() as service:
        problem = await posted(service, "s", 422, observations=[0.1], timestamps=[0])
        assert problem["field"] == "timestamps"


async def test_rows_without_the_times_that_their_model_needs_are_told_so(start_http):
    async with start_http() as service:
        problem = await posted(service, "s", 422, observations=[[1, 2]], model="planned")
        assert problem["field"] == "timestamps"
        assert "takes timestamps with its observations: the server computes " in problem["detail"]


async def test_time_features_are_made_from_timestamps_in_any_notation(start_http, artifacts):
    seconds = 1_700_000_000 + 3600 * np.arange(30)
    phase = 2 * np.pi * (seconds / 86_400 % 1)
    sent = series("planned", 30)[:, :2]
    whole = np.column_stack([sent, np.sin(phase), np.cos(phase)]).astype(np.float32)
    _, passed = reference(artifacts["planned"], whole)
    stamps = [datetime.fromtimestamp(second, UTC).isoformat() for second in seconds.tolist()]
    async with start_http() as service:
        first = await posted(
            service, "s", observations=sent[:20].tolist(), timestamps=stamps[:20], model="planned"
        )
        second = await posted(service, "s", observations=sent[20:].tolist(), timestamps=seconds[20:].tolist())
        got = first["predictions"] + second["predictions"]
        np.testing.assert_allclose(got, passed.predictions, rtol=1e-4, atol=1e-4)
        columns = await posted(service, "t", observations=whole.tolist(), model="planned")
        np.testing.assert_allclose(columns["predictions"], got, rtol=1e-4, atol=1e-4)


async def test_a_stream_with_timestamps_goes_on_one_step_behind_itself(start_http):
    hour = 3600
    rows = [[0.1, 0.2], [0.2, 0.1]]
    async with start_http() as service:
        chunk = {"observations": rows, "timestamps": [0, hour], "at": 0, "model": "planned"}
        first = await posted(service, "s", **chunk)
        assert await posted(service, "s", **chunk) == first | {"replayed": True}
        late = await posted(service, "s", 422, observations=rows, timestamps=[3 * hour, 4 * hour], at=2)
        assert late["row"] == 0
        await posted(service, "s", observations=rows, timestamps=[2 * hour, 3 * hour], at=2)
        await service.http.post("/sessions/s/reset")
        await posted(service, "s", observations=rows, timestamps=[9 * hour, 10 * hour], at=4)


async def test_a_forecast_knows_the_plan_and_its_own_hours(start_http, artifacts):
    seconds = 3600.0 * np.arange(30)
    phase = 2 * np.pi * (seconds / 86_400 % 1)
    sent = series("planned", 30)[:, :2]
    whole = np.column_stack([sent, np.sin(phase), np.cos(phase)]).astype(np.float32)
    forecaster, passed = reference(artifacts["planned"], whole[:20])
    expected, _ = forecaster.roll_out(passed.carries, 10, whole[None, 20:, 1:])
    async with start_http() as service:
        rows, stamps = sent[:20].tolist(), seconds[:20].tolist()
        await posted(service, "s", observations=rows, timestamps=stamps, model="planned")
        request = {"steps": 10, "future": sent[20:, 1:].tolist(), "level": 0.9}
        response = await service.http.post("/sessions/s/forecast", json=request)
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(response.json()["forecast"], expected[0], rtol=1e-4, atol=1e-4)
        assert (await service.http.get("/sessions/s/forecast?steps=10")).status_code == 422
        assert (await service.session("s"))["position"] == 20
        body = {"observations": rows, "timestamps": stamps, "horizon": 10, "future": request["future"]}
        with_it = await posted(service, "t", **body, level=0.9, model="planned")
        np.testing.assert_allclose(with_it["forecast"], response.json()["forecast"], rtol=1e-4)
        np.testing.assert_allclose(with_it["forecast_lower"], response.json()["lower"], rtol=1e-4)


async def test_a_forecast_has_the_quantiles_of_any_number_of_levels(start_http):
    async with start_http() as service:
        await posted(service, "s", observations=series("adaptive", 30).tolist(), model="adaptive")
        request = {"steps": 4, "levels": [0.9, 0.8]}
        response = await service.http.post("/sessions/s/forecast", json=request)
        assert response.status_code == 200, response.text
        quantiles = response.json()["quantiles"]
        assert list(quantiles) == ["0.05", "0.1", "0.9", "0.95"]
        for level, ends in ((0.9, ("0.05", "0.95")), (0.8, ("0.1", "0.9"))):
            one = (await service.http.get(f"/sessions/s/forecast?steps=4&level={level}")).json()
            assert [quantiles[end] for end in ends] == [one["lower"], one["upper"]]
            assert "quantiles" not in one
        refused = await service.http.post("/sessions/s/forecast", json=request | {"levels": [0.8, 0.7]})
        assert refused.status_code == 422
        assert "the session keeps intervals of 0.8, 0.9, not 0.7" in refused.text
        for levels in ([1.0], [0.9] * 17, 0.9):
            refused = await service.http.post("/sessions/s/forecast", json={"steps": 4, "levels": levels})
            assert (refused.status_code, "levels" in refused.text) == (422, True)
        refused = await service.http.get("/sessions/s/forecast?steps=4&levels=0.9")
        assert (refused.status_code, "POST" in refused.text) == (422, True)


async def test_a_chunk_has_the_quantiles_of_any_number_of_levels(start_http):
    rows = series("adaptive", 30).tolist()
    chunk = {"observations": rows, "at": 0, "model": "adaptive", "horizon": 4, "levels": [0.9, 0.8]}
    async with start_http() as service:
        answer = await posted(service, "s", **chunk)
        assert "lower" not in answer
        for kind in ("quantiles", "forecast_quantiles"):
            assert list(answer[kind]) == ["0.05", "0.1", "0.9", "0.95"]
        for level, lower, upper in ((0.9, "0.05", "0.95"), (0.8, "0.1", "0.9")):
            one = await posted(service, f"s-{level}", **{**chunk, "levels": [], "level": level})
            assert [answer["quantiles"][lower], answer["quantiles"][upper]] == [one["lower"], one["upper"]]
            ends = [answer["forecast_quantiles"][end] for end in (lower, upper)]
            assert ends == [one["forecast_lower"], one["forecast_upper"]]
        assert await posted(service, "s", **chunk) == answer | {"replayed": True}
        await posted(service, "s", 409, **{**chunk, "levels": [0.9]})
        state = (await service.http.get("/sessions/s/state")).content
        await service.http.put("/sessions/copied/state", content=state)
        copied = await posted(service, "copied", **chunk)
        assert (copied["replayed"], copied["quantiles"]) == (True, answer["quantiles"])
        refused = await posted(service, "s", 422, observations=rows[:1], levels=[0.7])
        assert (refused["field"], "not 0.7" in refused["detail"]) == ("levels", True)
        for levels in ([1.0], [0.9] * 17, 0.9):
            refused = await posted(service, "s", 422, observations=rows[:1], levels=levels)
            assert "levels" in refused["detail"]


async def test_the_chunks_of_many_sessions_have_the_quantiles_that_single_ones_have(start_http):
    rows = series("adaptive", 30).tolist()
    gapped = [*rows[:3], [None, rows[3][1]]]
    async with start_http() as service:
        single = [
            await posted(service, name, observations=sent, model="adaptive", levels=[0.9, 0.8])
            for name, sent in (("a", rows), ("b", gapped))
        ]
        request = {"sessions": ["c", ".", "d"], "observations": [rows, rows, gapped], "model": "adaptive"}
        request |= {"levels": [0.9, 0.8]}
        answer = (await service.http.post("/observations", json=request)).json()
        assert (list(answer["errors"]), list(answer["quantiles"])) == (["1"], ["0.05", "0.1", "0.9", "0.95"])
        for name, column in answer["quantiles"].items():
            assert column == [single[0]["quantiles"][name], None, single[1]["quantiles"][name]]
        again = {"sessions": ["c"], "observations": [rows], "at": [0], "levels": [0.9, 0.8]}
        replayed = (await service.http.post("/observations", json=again)).json()
        assert replayed["replayed"] == [0]
        assert replayed["quantiles"]["0.1"] == [single[0]["quantiles"]["0.1"]]
        other = (await service.http.post("/observations", json=again | {"levels": [0.8]})).json()
        assert other["errors"]["0"]["status"] == 409
        unknown = (await service.http.post("/observations", json=request | {"levels": [0.7]})).json()
        assert "not 0.7" in unknown["errors"]["0"]["detail"]
        row = {"sessions": ["c"], "observations": [rows[0]], "levels": [0.9]}
        one = (await service.http.post("/observations", json=row)).json()
        assert np.shape(one["quantiles"]["0.05"]) == (1, 2)
        for levels in ([1.0], [0.9] * 17, 0.9):
            refused = await service.http.post("/observations", json=request | {"levels": levels})
            assert (refused.status_code, "levels" in refused.text) == (422, True)
        binary = {"accept": "application/octet-stream"}
        refused = await service.http.post("/observations", json=row, headers=binary)
        assert (refused.status_code, refused.json()["field"]) == (422, "levels")
        for options, accept in product(
            ({"level": 0.9}, {"score": True}), ("application/octet-stream", arrow.CONTENT_TYPE)
        ):
            body = {"sessions": ["c"], "observations": [rows[0]]} | options
            refused = await service.http.post("/observations", json=body, headers={"accept": accept})
            assert (refused.status_code, refused.json()["field"]) == (422, *options)


async def test_in_arrow_the_metadata_has_levels_and_the_answer_quantiles(start_http):
    rows = series("adaptive", 30).tolist()
    schema = pa.schema([("session", pa.string()), ("observations", pa.list_(pa.list_(pa.float64())))])

    def stream(**metadata):
        table = pa.table(
            {"session": ["b", "."], "observations": [rows, rows]}, schema.with_metadata(metadata)
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    headers = {"content-type": "application/vnd.apache.arrow.stream"}
    async with start_http() as service:
        single = await posted(service, "a", observations=rows, model="adaptive", levels=[0.9])
        body = stream(model="adaptive", levels="[0.9]")
        response = await service.http.post("/observations", content=body, headers=headers)
        row, refused = pa.ipc.open_stream(response.content).read_all().to_pylist()
        assert list(row["quantiles"]) == list(single["quantiles"])
        for name, ends in single["quantiles"].items():
            np.testing.assert_allclose(row["quantiles"][name], ends, rtol=CLOSE)
        assert refused["quantiles"]["0.05"] is None
        for levels in ("0.9", '["0.9"]', "[1.5]", "no JSON"):
            body = stream(levels=levels)
            response = await service.http.post("/observations", content=body, headers=headers)
            assert (response.status_code, response.json()["field"]) == (422, "levels")


async def test_a_text_message_has_the_quantiles_that_http_has(start_hot):
    chunk = {"observations": series("adaptive", 30).tolist(), "at": 0, "model": "adaptive"}
    chunk |= {"horizon": 4, "levels": [0.9]}
    async with start_hot() as service:
        answer = await posted(service, "s", **chunk)
        async with websockets.connect(f"ws://127.0.0.1:{service.port}/sessions/t/stream") as socket:
            await socket.recv()
            await socket.send(json.dumps(chunk))
            by_socket = json.loads(await socket.recv())
    for kind in ("quantiles", "forecast_quantiles"):
        assert list(answer[kind]) == ["0.05", "0.95"]
        assert by_socket[kind] == answer[kind]


async def test_the_intervals_of_a_forecast_are_those_of_the_next_step_widened_by_horizon(start_http):
    async with start_http() as service:
        rows = series("adaptive", 30).tolist()
        last = await posted(service, "s", observations=rows, level=0.9, model="adaptive")
        response = await service.http.get("/sessions/s/forecast?steps=4&level=0.9")
        answer = {name: np.array(response.json()[name]) for name in ("forecast", "lower", "upper")}
        half = (answer["upper"] - answer["lower"]) / 2
        np.testing.assert_allclose(answer["lower"][0], last["lower"][-1], rtol=1e-5)
        np.testing.assert_allclose(half / half[0], np.array([[1, 1.4, np.sqrt(1.4 * 2), 2]] * 2).T, rtol=0.1)
        assert (await service.http.get("/sessions/s/forecast?steps=4&level=0.7")).status_code == 422
        assert (await service.session("s"))["position"] == 30


async def test_a_session_chooses_how_it_learns(start, artifacts):
    whole = series("adaptive", 50)
    choice = {"readout": "gain", "forgetting": 0.95, "prior": 2.0}
    learning = replace(artifacts["adaptive"].learning, **choice)
    _, passed = reference(artifacts["adaptive"], whole, learning)
    async with start() as service:
        made = await service.http.post("/sessions", json={"id": "s", "model": "adaptive", "learning": choice})
        assert made.status_code == 201, made.text
        assert made.json()["learning"] == choice | {"levels": [0.8, 0.9]}
        got = await service.stream("s", whole, [10, 1, 39], model="adaptive")
        np.testing.assert_allclose(got, passed.predictions, rtol=1e-4, atol=1e-4)
        shown = (await service.http.post("/sessions/s/reset")).json()
        assert shown["learning"] == choice | {"levels": [0.8, 0.9]}
        again = await service.stream("s", whole, [50], model="adaptive", start=50)
        np.testing.assert_allclose(again, passed.predictions, rtol=1e-4, atol=1e-4)
        fork = await service.http.post("/sessions/s/fork", json={"id": "t"})
        assert fork.json()["learning"] == shown["learning"]


async def test_a_session_of_a_model_that_learns_nothing_may_learn_and_one_that_learns_need_not(start):
    async with start() as service:
        for model, readout in (("sine", "rls"), ("adaptive", "off")):
            body = {"id": model, "model": model, "learning": {"readout": readout, "intervals": True}}
            assert (await service.http.post("/sessions", json=body)).status_code == 201
            await service.stream(model, series(model, 10), [4, 6], model=model)
            shown = await service.session(model)
            assert shown["learning"]["readout"] == readout
            assert shown["errors"]["observations"] == 9
        listed = (await service.http.get("/models")).json()["models"]
        assert {one["name"]: one["sessions_on_older"] for one in listed}["sine"] == 0


async def test_an_invalid_choice_is_refused(start_http):
    async with start_http() as service:
        for body in (
            {"learning": {"readout": "magic"}},
            {"learning": {"forgetting": 0.1}},
            {"learning": {"prior": -1}},
            {"learning": {"unknown": 1}},
            {"level": 0.77},
            {"model": "partial", "level": 0.77},
        ):
            response = await service.http.post("/sessions", json={"id": "s"} | body)
            assert response.status_code == 422, (body, response.text)
        assert (await service.http.get("/sessions/s")).status_code == 404


async def test_learning_moves_with_the_session(start_http):
    whole = series("adaptive", 40).tolist()
    async with start_http() as service:
        for name, learning in (("a", None), ("b", {"readout": "gain"})):
            await service.http.post("/sessions", json={"id": name, "model": "adaptive", "learning": learning})
            chunk = {"observations": whole[:30], "at": 0, "level": 0.9, "score": True}
            first = await posted(service, name, **chunk)
            state = (await service.http.get(f"/sessions/{name}/state")).content
            response = await service.http.put("/sessions/moved/state", content=state)
            assert response.status_code == 200, response.text
            answers = [
                await posted(service, one, observations=whole[30:], level=0.9) for one in (name, "moved")
            ]
            assert answers[0]["predictions"] == answers[1]["predictions"]
            assert answers[0]["lower"] == answers[1]["lower"]
            assert (await service.session("moved"))["errors"] == (await service.session(name))["errors"]
            assert (await posted(service, name, **chunk))["scores"] == first["scores"]


async def test_errors_are_those_of_the_stream(start_http, artifacts):
    whole = series("adaptive", 80)
    forecaster, passed = reference(artifacts["adaptive"], whole)
    async with start_http() as service:
        await posted(service, "s", observations=whole.tolist(), model="adaptive")
        errors = (await service.session("s"))["errors"]
    wrong = passed.scores.errors[1:]
    naive = np.diff(whole[:, forecaster.learner.target_columns], axis=0)
    assert errors["observations"] == 79
    assert errors["mse"] == pytest.approx((wrong**2).mean(), rel=1e-4)
    assert errors["mae"] == pytest.approx(np.abs(wrong).mean(), rel=1e-4)
    assert errors["skill"] == pytest.approx(1 - (wrong**2).mean() / (naive**2).mean(), rel=1e-3)
    assert set(errors["coverage"]) == {"0.8", "0.9"}


async def test_in_bulk_intervals_scores_and_gaps_are_columns_too(start_http):
    rows = series("adaptive", 9).tolist()
    async with start_http() as service:
        for name in ("a", "b"):
            await posted(service, name, observations=rows[:5], model="adaptive")
        body = {"sessions": ["a", "b", "a"], "observations": [rows[5:7], rows[5:8], [rows[7]]],
                "level": 0.9, "score": True}  # fmt: skip
        answer = (await service.http.post("/observations", json=body)).json()
        assert answer["positions"] == [7, 8, 8]
        np.testing.assert_allclose(answer["lower"][0] + answer["lower"][2], answer["lower"][1], rtol=CLOSE)
        np.testing.assert_allclose(answer["scores"][0] + answer["scores"][2], answer["scores"][1], atol=CLOSE)
        gaps = {"sessions": ["a", "b"], "observations": [[None, 0.1], [0.2, 0.1]]}
        answer = (await service.http.post("/observations", json=gaps)).json()
        assert answer["observed"] == [[False, True], None]
        assert answer["errors"] == {}


async def test_a_chunk_whose_learning_leaves_the_finite_numbers_fails_alone(start):
    async with start() as service:
        for name in ("well", "ill"):
            await service.stream(name, series("adaptive", 4), [4], model="adaptive")
        huge = np.full((1, 2), 3e38, np.float32)
        ill = await service.advance("ill", huge, 4)
        well = await service.advance("well", series("adaptive", 1), 4)
        assert ill.status == 422
        assert well.status == 200
        assert (await service.session("ill"))["position"] == 4
        assert (await service.advance("ill", series("adaptive", 1), 4)).status == 200


async def test_a_null_in_arrow_was_not_observed(start_http, artifacts):
    whole = series("sine", 3)
    whole[1] = np.nan
    _, passed = reference(artifacts["sine"], whole)
    chunk = pa.array([[[float(whole[0, 0])], [None], [float(whole[2, 0])]]], pa.list_(pa.list_(pa.float32())))
    table = pa.table({"session": ["s"], "observations": chunk})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    headers = {"content-type": "application/vnd.apache.arrow.stream"}
    async with start_http() as service:
        body = sink.getvalue().to_pybytes()
        response = await service.http.post("/observations", content=body, headers=headers)
        (row,) = pa.ipc.open_stream(response.content).read_all().to_pylist()
        np.testing.assert_allclose(row["predictions"], passed.predictions, rtol=1e-5)


async def test_the_metrics_tell_how_good_each_learning_model_has_been(start_http, artifacts):
    whole = series("adaptive", 60)
    _, passed = reference(artifacts["adaptive"], whole)
    async with start_http() as service:
        await posted(service, "s", observations=whole[:40].tolist(), model="adaptive")
        await posted(service, "s", observations=whole[40:].tolist())
        page = (await service.http.get("/metrics")).text
    metrics = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line[0] != "#"
    }
    wrong, naive = passed.scores.errors[1:], passed.scores.changes[1:]
    for i, output in enumerate(artifacts["adaptive"].targets):
        where = f'{{model="adaptive",output="{output}"}}'
        assert metrics[f"carryover_model_predictions_judged{where}"] == 59
        assert metrics[f"carryover_model_mse{where}"] == pytest.approx((wrong[:, i] ** 2).mean(), rel=1e-4)
        skill = 1 - (wrong[:, i] ** 2).sum() / (naive[:, i] ** 2).sum()
        assert metrics[f"carryover_model_skill{where}"] == pytest.approx(skill, rel=1e-3)
    covered = 1 - passed.scores.missed[1:, 1].mean()
    assert metrics['carryover_model_coverage{level="0.9",model="adaptive"}'] == pytest.approx(
        covered, rel=1e-4
    )


def covered(missed, places):
    """By place, the share of intervals that held; `missed` is [steps, outputs]."""
    return {str(place): 1 - missed[places == place].mean() for place in np.unique(places).tolist()}


async def test_the_metrics_tell_how_often_intervals_held_by_hour_by_season_and_after_a_miss(
    start_http, artifacts
):
    wholes = {model: series(model, 80) for model in ("seasonal", "planned", "adaptive")}
    wholes["planned"] = wholes["planned"][:, :2]
    seconds = 1.7e9 // 3600 * 3600 + np.arange(80) * 3600.0
    phase = 2 * np.pi * (seconds % 86400) / 86400
    sent = dict(wholes)
    sent["planned"] = np.column_stack([wholes["planned"], np.sin(phase), np.cos(phase)]).astype(np.float32)
    async with start_http() as service:
        for model, whole in wholes.items():
            created = {"id": model, "model": model} | ({} if model == "adaptive" else {"level": 0.9})
            assert (await service.http.post("/sessions", json=created)).status_code == 201
            for rows in (slice(0, 30), slice(30, 31), slice(31, 80)):
                times = {"timestamps": seconds[rows].tolist()} if model == "planned" else {}
                await posted(service, model, observations=whole[rows].tolist(), **times)
            unused = {"id": f"{model}-unused", "model": model, "level": 0.9}
            assert (await service.http.post("/sessions", json=unused)).status_code == 201
        page = (await service.http.get("/metrics")).text
    metrics = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line[0] != "#"
    }
    gauges = {name: value for name, value in metrics.items() if "_coverage_" in name}
    expected = {}
    for model, family, label, places in (
        ("seasonal", "by_season", "part", np.arange(1, 80) % 4),
        ("planned", "by_hour", "hour", (seconds[1:] // 3600 % 24).astype(int)),
    ):
        _, passed = reference(artifacts[model], sent[model])
        missed = passed.scores.missed[1:, 1]
        for place, share in covered(missed, places).items():
            labels = ",".join(sorted((f'{label}="{place}"', 'level="0.9"', f'model="{model}"')))
            expected[f"carryover_model_coverage_{family}{{{labels}}}"] = share
        after = missed[1:][missed[:-1] > 0]
        labels = f'level="0.9",model="{model}"'
        expected[f"carryover_model_coverage_after_miss{{{labels}}}"] = 1 - after.mean()
    assert gauges == pytest.approx(expected)


async def test_the_coverage_of_a_model_includes_sessions_that_learn_otherwise_than_it(start_http):
    async with start_http() as service:
        created = {"id": "s", "model": "sine", "learning": {"intervals": True}, "level": 0.9}
        assert (await service.http.post("/sessions", json=created)).status_code == 201
        await posted(service, "s", observations=np.random.default_rng(1).normal(size=(120, 1)).tolist())
        page = (await service.http.get("/metrics")).text
        past = (await service.http.get("/sessions/s/history")).json()
    observed = np.ravel(past["observations"])[1:]
    lower, upper = (np.ravel(past[end])[:-1] for end in ("lower", "upper"))
    missed = (observed < lower) | (observed > upper)
    held = 1 - missed[1:][missed[:-1]].mean()
    found = [line.rsplit(" ", 1) for line in page.splitlines() if "_coverage_after_miss{" in line]
    assert [(name, float(value)) for name, value in found] == [
        ('carryover_model_coverage_after_miss{level="0.9",model="sine"}', pytest.approx(held))
    ]


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [("forgetting", 0.0), ("forgetting", 1.0), ("prior", -1.0), ("renewed_feature", 1e30),
     ("renewed_feature", 0.5), ("covariance", -1.0), ("level", 0.3), ("begun", 2.0), ("interval_mse", -1.0),
     ("surprise", -1.0), ("observed", -1.0)],
)  # fmt: skip
async def test_a_state_file_with_a_learner_that_cannot_be_is_refused(start_http, artifacts, name, spoilt):
    forecaster = Forecaster(artifacts["adaptive"])
    begin = forecaster.layout.learned.start + forecaster.learner.layout.start(name)
    async with start_http() as service:
        await posted(service, "s", observations=series("adaptive", 5).tolist(), model="adaptive")
        state = state_file.decode((await service.http.get("/sessions/s/state")).content)
        carry = state.carry.copy()
        carry[begin] = spoilt
        body = state_file.encode(replace(state, carry=carry))
        response = await service.http.put("/sessions/t/state", content=body)
        assert response.status_code == 422, response.text
        assert (await service.http.get("/sessions/t")).status_code == 404
        assert (await service.session("s"))["position"] == 5
