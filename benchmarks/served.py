"""A recorded stream sent to a running server as its client would, and what came back, row by row."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.dialects import HOST, SessionInPath
from benchmarks.load import BadRun
from benchmarks.servers import OURS, Running, Server, running

Array = NDArray[np.float64]

SEED = 0
LONGEST = 200  # observations in one chunk
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Answers:
    """What a session said; row t tells of row t of the stream, said before it was sent.

    predictions, lower, upper : [rows, targets], NaN in row 0; scores : [rows], NaN where there was none
    """

    predictions: Array
    lower: Array
    upper: Array
    scores: Array
    session: dict[str, Any]


@contextmanager
def served(folder: Path, logs: Path) -> Iterator[Running]:
    """A server of our own with the artifacts in this folder, its sessions in memory."""
    environment = {"CARRYOVER_PORT": "{port}", "CARRYOVER_HOST": HOST, "CARRYOVER_MODELS": str(folder)}
    with running(Server("carryover", OURS, SessionInPath(), environment), 0, logs / "none", logs) as server:
        yield server


def sent(
    port: int, session: str, model: str, observations: Array, seconds: Array | None, longest: int = LONGEST
) -> Answers:
    """Send a stream in chunks of random lengths and gather what comes back.

    Parameters
    ----------
    observations : [rows, columns], own units; NaN is sent as null. Time features are left to the server
    seconds : [rows], times since 1970, for a model that makes features of them
    """
    rng, at = np.random.default_rng(SEED), 0
    answers: list[dict[str, Any]] = []
    with closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)) as connection:
        while at < len(observations):
            end = min(len(observations), at + int(rng.integers(1, longest + 1)))
            rows = _with_nulls(observations[at:end])
            body: dict[str, Any] = {
                "observations": rows,
                "at": at,
                "level": 0.9,
                "score": True,
                "model": model,
            }
            body |= {} if seconds is None else {"timestamps": seconds[at:end].tolist()}
            answers.append(_post(connection, f"/sessions/{session}/observations", body))
            at = end
        connection.request("GET", f"/sessions/{session}")
        view = json.loads(connection.getresponse().read())
    before = {name: _gathered(answers, name) for name in ("predictions", "lower", "upper")}
    behind = {name: np.concatenate([values[:1] * np.nan, values[:-1]]) for name, values in before.items()}
    return Answers(**behind, scores=_gathered(answers, "scores")[:, 0], session=view)


def _post(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(body, allow_nan=False), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise BadRun(f"status {response.status}: {answer[:500]!r}")
    parsed: dict[str, Any] = json.loads(answer, parse_constant=_refuse_constant)
    return parsed


def _refuse_constant(word: str) -> float:
    raise BadRun(f"an answer holds {word}")


def _with_nulls(rows: Array) -> list[list[float | None]]:
    return [[None if np.isnan(value) else value for value in row] for row in rows.tolist()]


def _gathered(answers: list[dict[str, Any]], name: str) -> Array:
    """[rows, ...] of all answers; null is NaN, a flat list is a column."""
    rows = [row if isinstance(row, list) else [row] for answer in answers for row in answer[name]]
    return np.array(rows, dtype=np.float64)
