"""A recorded stream sent to a running server as its client would, and what came back, row by row."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
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
SESSIONS = 8  # among which the ends of chunks are divided
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


@dataclass(frozen=True)
class Forecasts:
    """What was forecast from each of some rows, own units.

    values : [rows, steps, targets]
    widths : [rows, steps, levels, targets], half of each interval
    """

    values: Array
    widths: Array


def forecasts_sent(
    port: int,
    model: str,
    observations: Array,
    seconds: Array | None,
    rows: range,
    steps: int,
    levels: Sequence[float],
) -> Forecasts:
    """Send a stream in chunks of random lengths, and forecast from each of these rows.

    A few sessions observe the whole stream. Each row is the last of a chunk in one of them, drawn at random.

    Parameters
    ----------
    observations, seconds : as for `sent`, to the last of these rows at least
    levels : of the intervals
    """
    ends_in = np.random.default_rng(SEED).integers(SESSIONS, size=rows.stop)
    observations = observations[: rows.stop]
    found: dict[int, dict[str, Any]] = {}
    with closing(http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)) as connection:
        for session in range(SESSIONS):
            at = 0
            for last in np.flatnonzero(ends_in == session).tolist():
                chunk = slice(at, last + 1)
                body: dict[str, Any] = {"observations": _with_nulls(observations[chunk]), "at": at}
                body |= {"model": model}
                body |= {} if seconds is None else {"timestamps": seconds[chunk].tolist()}
                body |= {"horizon": steps, "levels": list(levels)} if last in rows else {}
                answer = _post(connection, f"/sessions/{model}-{session}/observations", body)
                at = last + 1
                if last in rows:
                    found[last] = {"forecast": np.array(answer["forecast"], np.float32)} | {
                        name: np.array(ends, np.float32)
                        for name, ends in answer.get("forecast_quantiles", {}).items()
                    }
    values = np.stack([found[row]["forecast"] for row in rows]).astype(np.float64)
    widths = [_half_widths([found[row] for row in rows], level) for level in levels]
    shape = (len(rows), steps, 0, values.shape[2])
    return Forecasts(values, np.stack(widths, axis=2) if widths else np.empty(shape))


def _half_widths(answers: list[dict[str, Any]], level: float) -> Array:
    """[rows, steps, targets] of the interval of a level, whose ends are two quantiles."""
    names = [f"{round(quantile, 9)}" for quantile in ((1 - level) / 2, (1 + level) / 2)]
    lower, upper = (np.stack([answer[name] for answer in answers]).astype(np.float64) for name in names)
    half: Array = (upper - lower) / 2
    return half


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
