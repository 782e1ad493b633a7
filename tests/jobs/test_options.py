"""What comes along with a chunk, where sessions end, move and are named twice: exactly once all the same."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from app.codec import frames
from app.codec.limits import Limits
from app.errors import Unprocessable
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers.zoo import LEARNING, made, series
from tests.promises.test_learning import CLOSE, posted, reference

pytestmark = pytest.mark.anyio

HOUR = 3600.0


def binary_bulk(model, sessions, rows):
    """A bulk request of one observation each, whose NaNs were not observed."""
    head = struct.pack("<4sHHII", b"CYO1", 8 | 16, rows.shape[1], len(sessions), 0)
    return head + rows.tobytes() + "\n".join([model, *sessions]).encode()


async def test_a_refused_session_of_a_bulk_request_changes_no_answer_of_the_others(start_http):
    rows = series("adaptive", 3).tolist()
    async with start_http() as service:
        body = {"sessions": ["a", "no id", "b"], "observations": rows, "model": "adaptive", "level": 0.9}
        answer = (await service.http.post("/observations", json=body | {"score": True})).json()
        assert list(answer["errors"]) == ["1"]
        assert [one is None for one in answer["lower"]] == [False, True, False]
        assert answer["scores"] == [None, None, None]
        assert len(answer["residuals"]) == 3


@pytest.mark.parametrize("model", ["adaptive", "pair"])
async def test_a_neighbour_that_is_refused_leaves_a_gap_a_gap(start_http, artifacts, model):
    rows = series(model, 3)
    rows[0, 0], rows[1, 0] = np.nan, np.inf
    _, passed = reference(artifacts[model], rows[:1])
    async with start_http() as service:
        body = binary_bulk(model, ["gap", "bad", "well"], rows)
        kind = {"content-type": "application/octet-stream", "accept": "application/json"}
        answer = (await service.http.post("/observations", content=body, headers=kind)).json()
        assert list(answer["errors"]) == ["1"]
        np.testing.assert_allclose(answer["predictions"][0], passed.predictions, rtol=CLOSE, atol=CLOSE)


async def test_a_session_with_intervals_gets_them_in_bulk_answers_too(start_http):
    rows = series("adaptive", 4).tolist()
    async with start_http() as service:
        for name in ("a", "b"):
            await service.http.post("/sessions", json={"id": name, "model": "adaptive", "level": 0.8})
        alone = await posted(service, "a", observations=rows)
        body = {"sessions": ["c", "b"], "observations": [rows[:2], rows], "model": "adaptive", "at": [0, 0]}
        first = (await service.http.post("/observations", json=body)).json()
        assert first["lower"][0] is None
        np.testing.assert_allclose(first["lower"][1], alone["lower"], rtol=CLOSE, atol=CLOSE)
        again = (await service.http.post("/observations", json=body)).json()
        assert again == first | {"replayed": [0, 1]}
        twice = body | {"sessions": ["b", "b"], "at": [4, 6], "observations": [rows[:2], rows[2:]]}
        answer = (await service.http.post("/observations", json=twice)).json()
        assert [len(part) for part in answer["upper"]] == [2, 2]


async def test_a_stream_that_expired_begins_anew_whatever_its_timestamps(start_http, clock):
    rows = [[0.1, 5.0], [0.2, 6.0]]
    async with start_http(idle_ttl_seconds=10.0) as service:
        await posted(service, "s", observations=rows, model="planned", timestamps=[0, HOUR])
        clock.wait(11)
        answer = await posted(
            service, "s", observations=rows, model="planned", timestamps=[9 * HOUR, 10 * HOUR]
        )
        assert answer["position"] == 2


async def test_a_gap_does_not_go_on_from_the_clock_of_a_session_that_expired(start_http, clock):
    async with start_http(idle_ttl_seconds=10.0) as service:
        rows = [[0.1, 5.0], [0.2, 6.0]]
        await posted(service, "s", observations=rows, model="planned", timestamps=[0, HOUR])
        clock.wait(11)
        problem = await posted(service, "s", 422, observations=[[None, 5.0]], model="planned")
        assert problem["row"] == 0
        problem = await posted(service, "s", 422, skip=2, model="planned")
        assert "no timestamps" in problem["detail"]


async def test_a_new_session_has_no_options_of_an_expired_session_of_its_id(start_http, clock):
    chosen = {"id": "s", "learning": {"intervals": True}, "ttl_seconds": 10}
    async with start_http() as service:
        await service.http.post("/sessions", json=chosen)
        await posted(service, "s", observations=[0.1, 0.2], level=0.9)
        clock.wait(11)
        problem = await posted(service, "s", 422, observations=[0.1, 0.2], level=0.9)
        assert problem["field"] == "level"
        assert (await service.http.get("/sessions/s")).status_code in (404, 410)


async def test_a_gap_after_expiry_has_the_width_of_the_new_session(start_http, clock):
    async with start_http(idle_ttl_seconds=10.0) as service:
        await posted(service, "s", observations=[[0.1, 0.2]], model="adaptive")
        clock.wait(11)
        answer = await posted(service, "s", skip=2)
        assert (answer["model"], answer["position"]) == ("sine", 2)


async def test_a_skip_that_asks_for_another_forecast_is_another_chunk(start_http):
    async with start_http() as service:
        await posted(service, "s", observations=[0.1, 0.2])
        first = await posted(service, "s", skip=2, at=2, horizon=3)
        assert (await posted(service, "s", skip=2, at=2, horizon=3)) == first | {"replayed": True}
        assert (await posted(service, "s", 409, skip=2, at=2, horizon=4))["position"] == 4


async def test_a_claim_of_another_epoch_is_told_before_odd_timestamps(start_http):
    rows = [[0.1, 5.0]]
    async with start_http() as service:
        await posted(service, "s", observations=rows, model="planned", timestamps=[0])
        answer = await posted(
            service, "s", 409, observations=rows, timestamps=[0], at=1, epoch="0" * 15 + "3"
        )
        assert answer["position"] == 1


async def test_timestamps_finer_than_a_second_go_on_one_step_behind_each_other(
    start_http, artifacts, tmp_path
):
    save(replace(artifacts["planned"], interval_seconds=0.01), tmp_path / "fine" / "planned")
    times = 1_700_086_399.0 + 0.01 * np.arange(300)
    async with start_http(models=(tmp_path / "fine",), default_model="planned") as service:
        for at in range(0, 300, 20):
            rows = [[0.1, 5.0]] * 20
            answer = await posted(service, "s", observations=rows, timestamps=times[at : at + 20].tolist())
        assert answer["position"] == 300


async def test_sessions_that_chose_how_they_learn_keep_the_name_of_their_model_through_a_restart(start_http):
    async with start_http() as service:
        await service.http.post(
            "/sessions", json={"id": "s", "model": "pair", "learning": {"readout": "rls"}}
        )
        await posted(service, "s", observations=series("pair", 3).tolist())
        if not service.engine.residents.store.writes_through:
            return
    async with start_http() as service:
        listed = (await service.http.get("/sessions?model=pair")).json()
        assert [one["session"] for one in listed["sessions"]] == ["s"]


@pytest.mark.parametrize("replay", [0, 6])
async def test_a_newer_network_fails_no_session_beside_those_with_a_choice(
    start_http, artifacts, tmp_path, replay
):
    newer = replace(made("sine", hidden=16, layers=2, seed=9), learning=replace(LEARNING, inputs=False))
    whole = series("sine", 30)
    chosen = {"id": "chose", "learning": {"readout": "gain", "forgetting": 0.9}}
    save(artifacts["sine"], tmp_path / "zoo" / "sine")
    async with start_http(models=(tmp_path / "zoo",), replay_observations=replay) as service:
        await service.http.post("/sessions", json=chosen)
        for name in ("chose", "did-not"):
            await service.advance(name, whole[:10], 0)
        save(newer, tmp_path / "zoo" / "sine")
        assert (await service.http.post("/models/sine/reload")).json()["model"]["sessions_on_older"] == 2
        for name in ("chose", "did-not"):
            assert (await service.advance(name, whole[10:20], 10)).status == 200
            if not replay:
                await service.http.post(f"/sessions/{name}/reset")
            got = await service.advance(name, whole[20:], 20)
            _, passed = reference(newer, whole[20 - 16 * bool(replay) :], _as(newer, name))
            np.testing.assert_allclose(got.numbers, passed.predictions[-10:], rtol=CLOSE, atol=CLOSE)


def _as(artifact, name):
    return artifact.learning.with_options("gain", 0.9, intervals=False) if name == "chose" else None


async def test_sessions_of_every_kind_are_counted_with_their_model(start_http):
    async with start_http() as service:
        for name, learning in (("a", {}), ("b", {"readout": "gain"})):
            await service.http.post("/sessions", json={"id": name, "learning": learning})
        answer = (await service.http.get("/models/sine")).json()
        assert (answer["sessions_resident"], answer["sessions_on_older"]) == (2, 0)


async def test_choosing_a_kind_that_is_loaded_loads_no_network_again(start_http, monkeypatch):
    made_of = []
    with_kind = Forecaster.with_kind
    monkeypatch.setattr(
        Forecaster, "with_kind", lambda self, kind: made_of.append(kind) or with_kind(self, kind)
    )
    async with start_http() as service:
        for name in "abc":
            await service.http.post("/sessions", json={"id": name, "learning": {"readout": "gain"}})
    assert made_of == ["gain"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"observations": [[0.1, 0.2]], "future": [[1.0]]}, "future"),
        ({"observations": [[0.1, 0.2]], "horizon": 2, "future": [[1.0], [1.0, 2.0]]}, "future"),
        ({"observations": [[0.1, 0.2]], "horizon": 2, "future": []}, "future"),
        ({"observations": [[0.1, 0.2]], "horizon": 2, "future": [[1e39], [1.0]]}, "future"),
    ],
)
async def test_a_future_that_cannot_be_is_refused_by_its_name(start_http, body, field):
    async with start_http() as service:
        problem = await posted(service, "s", 422, **body, model="adaptive")
        assert field in problem["detail"]


async def test_the_errors_of_a_long_chunk_are_counted_once_it_is_applied(start_http, artifacts):
    whole = series("adaptive", 200)
    async with start_http() as service:
        whole[-1] = 3e38
        assert (await service.advance("s", whole, model="adaptive")).status == 422
        assert "adaptive" not in service.engine.metrics.scores
        whole[-1] = 0.5
        assert (await service.advance("s", whole, model="adaptive")).status == 200
        assert service.engine.metrics.scores["adaptive"].count.max() == 199


async def test_the_longest_chunk_may_tell_the_longest_future(start_http):
    """Beside a chunk of as many numbers as there may be, it was taken for a longer one."""
    limits = {"chunk_observations": 9_000, "forecast_steps": 300}
    rows = [[0.125, 5.25, 0.5, 0.75]] * 9_000
    async with start_http(**limits) as service:
        body = {"observations": rows, "horizon": 300, "future": [[6.0]] * 300, "model": "planned"}
        problem = await posted(service, "s", 422, **body)
        assert "no timestamps yet" in problem["detail"]


async def test_answers_hold_no_nan_and_no_infinity(start_http):
    """Neither where nothing was judged nor behind a number that is none of the stream's."""
    rows = [[0.1, 0.2], [None, None], [1e12, -1e12], [None, 0.1], [0.1, 0.2]]
    async with start_http() as service:
        answered = await service.http.post(
            "/sessions/s/observations",
            json={"observations": rows, "model": "adaptive", "level": 0.9, "score": True, "horizon": 3},
        )
        shown = await service.http.get("/sessions/s")
        listed = await service.http.get("/models")
    assert answered.status_code == 200
    for response in (answered, shown, listed):
        json.loads(response.content, parse_constant=pytest.fail)
    assert answered.json()["scores"][:2] == [None, None]


@pytest.mark.parametrize("message", [{"skip": 2}, {"observations": [[0.1]]}])
def test_a_message_that_resets_is_no_chunk(message):
    with pytest.raises(Unprocessable, match="not both"):
        frames.decode_text(json.dumps({"reset": True} | message).encode(), "s", Limits(10, 10, 2))
