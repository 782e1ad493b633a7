"""Every field of a state file, with values that no server writes: refused, or a session like any other.

Whatever a file holds, the clients of other sessions notice nothing: not in the same batch, not in lists, not
after a restart. `ATTACKS=10000` tries more pairs of fields.
"""

import asyncio
import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from app.session import state_file
from models.forecaster import KIND_SEPARATOR
from tests.helpers.redis_server import needs_redis
from tests.helpers.services import starter
from tests.helpers.ways import AsgiRoute, check_problem
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio

PAIRS = int(os.environ.get("ATTACKS", "30"))
INF, NAN = float("inf"), float("nan")
COUNTS = [0, 1, 2**53, 2**62, 2**62 + 1, 2**63 - 1, 2**63, 10**30, -1, "1e3", "", "9" * 19, "٣"]
TIMES = [0, -1, 1e-300, 1e9, 9.9e10, 1e11, 1e15, 1e300, INF, -INF, NAN, "x"]
NAMES = ["", "x", "x" * 256, "x" * 257, "a\0b", "é😀", "../../etc", "\r\n"]
VALUES = {
    "session": NAMES,
    "model": NAMES,
    "position": COUNTS,
    "since_reset": COUNTS,
    "created": TIMES,
    "updated": TIMES,
    "ttl_seconds": [*TIMES, 1e9 + 1, 1e13, 1e16, 1e305],
    "fingerprint": ["", "f" * 64, KIND_SEPARATOR, "{}" + KIND_SEPARATOR, "{}" + KIND_SEPARATOR + "no",
                    "{}" + KIND_SEPARATOR * 3, "{}" + KIND_SEPARATOR + "x" * 100],
    "carry": [3e38, -3e38, 1e-45, NAN, INF, "short", "long", "empty", "float64", "int32", "matrix"],
    "answers": ["none", "too many", "long", "zero", "NaN", "infinity", "wide", "unnamed", "forecast only"],
}  # fmt: skip


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=needs_redis)])
def start(request, zoo_folder, clock, tmp_path, monkeypatch):
    if request.param == "redis":
        request.getfixturevalue("redis_url")
    return starter(AsgiRoute, request.param, zoo_folder, clock, tmp_path, monkeypatch)


def spoilt(state: state_file.SessionState, field: str, value) -> state_file.SessionState:
    """The state with this value in this field."""
    if field == "carry":
        return replace(state, carry=spoilt_carry(state.carry, value))
    if field == "answers":
        return replace(state, answers=spoilt_answers(state.answers, value))
    if field == "fingerprint":
        value = value.replace("{}", state.fingerprint)
    return replace(state, **{field: value})


def spoilt_carry(carry, value):
    shapes = {
        "short": carry[:-1],
        "long": np.append(carry, carry),
        "empty": carry[:0],
        "float64": carry.astype(np.float64),
        "int32": carry.astype(np.int32),
        "matrix": carry[None],
    }
    return shapes[value] if isinstance(value, str) else np.full_like(carry, value)


def spoilt_answers(answers, value):
    length, digest, answer = answers[0]
    predictions = answer["predictions"]
    choices = {
        "none": (),
        "too many": answers[:1] * 5000,
        "long": ((2**62, digest, answer), (2**62, digest, answer)),
        "zero": ((0, digest, {"predictions": predictions[:0]}),),
        "NaN": ((length, digest, {"predictions": predictions * np.float32(NAN)}),),
        "infinity": ((length, digest, {"predictions": predictions + np.float32(INF)}),),
        "wide": ((length, digest, {"predictions": np.ones((length, 7), np.float32)}),),
        "unnamed": ((length, digest, answer | {"other": predictions}),),
        "forecast only": ((length, digest, {"forecast": predictions}),),
    }
    return choices[value]


def cases() -> list[dict[str, object]]:
    """Every value of every field, and values of two fields at once."""
    found: list[dict[str, object]] = [{field: value} for field in VALUES for value in VALUES[field]]
    rng = random.Random(0)
    pairs = [rng.sample(list(VALUES), 2) for _ in range(PAIRS)]
    return found + [{field: rng.choice(VALUES[field]) for field in pair} for pair in pairs]


@pytest.mark.parametrize("model", ["sine", "adaptive", "planned"])
async def test_no_field_of_a_state_file_disturbs_other_sessions(start, model):
    taken = []
    rows = series(model, 4)
    async with start() as service:
        await service.advance("origin", rows, 0, model=model)
        state = state_file.decode((await service.http.get("/sessions/origin/state")).content)
        await service.advance("neighbour", rows[:1], 0, model=model)
        for i, case in enumerate(cases()):
            changed = state
            for field, value in case.items():
                changed = spoilt(changed, field, value)
            neighbour, put = await asyncio.gather(
                service.advance("neighbour", rows[:1]),
                service.http.put(f"/sessions/i{i}/state", content=state_file.encode(changed)),
            )
            assert neighbour.position == i + 2, (case, neighbour.problem)
            if put.status_code != 200:
                assert check_problem(put)["status"] in (409, 422), (case, put.text)
                continue
            assert put.json()["position"] >= 0
            neighbour, moved = await asyncio.gather(
                service.http.get("/sessions/neighbour"), service.advance(f"i{i}", rows[:1])
            )
            assert neighbour.status_code == 200, (case, neighbour.text)
            assert moved.status in (200, 500), (case, moved.problem)
            if moved.status == 200:
                assert moved.position == put.json()["position"] + 1, case
            else:
                assert "not advanced" in moved.problem["detail"], case
            listed = await service.http.get("/sessions", params={"detail": True, "limit": 1000})
            assert listed.status_code == 200, (case, listed.text)
            json.loads(listed.content, parse_constant=pytest.fail)
            if i % 4:
                assert (await service.http.delete(f"/sessions/i{i}")).status_code == 204
            else:
                taken.append((f"i{i}", case, (await service.session(f"i{i}"))["position"]))
        assert service.engine.metrics.failed_ticks == 0
        assert service.engine.readiness_problems() == []
        assert taken
        if not service.engine.residents.store.writes_through:
            return
    async with start() as service:  # what was kept is read again
        for name, case, position in taken:
            assert (await service.session(name))["position"] == position, case


@pytest.mark.parametrize(
    ("field", "value"),
    [("ttl_seconds", 1e15), ("ttl_seconds", 1e16), ("ttl_seconds", 1e305), ("ttl_seconds", 1e9 + 1),
     ("position", 2**63 - 1), ("position", 2**62 + 1)],
)  # fmt: skip
async def test_a_state_file_is_bounded_as_a_new_session_is(start, field, value):
    async with start() as service:
        await service.advance("a", [[0.1]], 0)
        state = state_file.decode((await service.http.get("/sessions/a/state")).content)
        put = await service.http.put(
            "/sessions/b/state", content=state_file.encode(spoilt(state, field, value))
        )
        assert check_problem(put)["field"] == field
        assert put.status_code == 422
        assert (await service.http.get("/sessions/b")).status_code == 404
