"""The engine's answers as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isnan
from typing import Any

import msgspec
import numpy as np
import orjson

from app.jobs.answers import (
    FORECAST_QUANTILE,
    QUANTILE,
    ChunkAnswer,
    SessionHistory,
    SessionView,
    epoch_token,
)
from app.session.names import id_of
from app.session.notes import labels_by_name
from models.adaptation.learner import ErrorStatistics
from models.arrays import AnyArray, Numbers
from models.forecaster import COVERS, EVENTS
from models.nets.numbers import MAX_WHOLE, is_whole
from models.nets.signature import Port

TIMES = frozenset(("times", "forecast_times"))  # outputs that are seconds since 1970
ARRAYS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
"""The options with which arrays are written, those of times in RFC 3339."""

OF_SAMPLES = frozenset((COVERS, EVENTS))  # outputs of a model over samples, which are not nested by steps
EVENT_NAMES = {1: "speech_start", 0: "speech_end"}
BY_PORT = {"predictions": "outputs", "forecast": "forecast"}  # as a model with several outputs answers them

BY_QUANTILE = {QUANTILE: "quantiles", FORECAST_QUANTILE: "forecast_quantiles"}


def encode_chunk_answer(answer: ChunkAnswer, flat: bool) -> bytes:
    """The answer to a chunk or a forecast; NaN is written as null.

    Parameters
    ----------
    flat : the chunk was a flat list, and so are the arrays of the answer
    """
    payload: dict[str, Any] = {
        "session": id_of(answer.session),
        "model": answer.model,
        "position": answer.position,
        "epoch": epoch_token(answer.epoch),
    }
    if "predictions" in answer.answer:
        payload["replayed"] = answer.replayed
    for name, numbers in answer.answer.items():
        kind, space, quantile = name.partition(" ")
        if space:
            payload.setdefault(BY_QUANTILE[kind + space], {})[quantile] = output_array(name, numbers, flat)
        elif len(answer.ports) > 1 and name in BY_PORT:
            payload[BY_PORT[name]] = by_port(numbers, answer.ports)
        else:
            payload[name] = output_array(name, numbers, flat)
    return orjson.dumps(payload, option=ARRAYS)


def output_array(name: str, numbers: Numbers, flat: bool) -> AnyArray | list[dict[str, Any]]:
    """An array of an answer as it is written.

    Parameters
    ----------
    name : of the output; `observed` becomes booleans
    numbers : [steps, width]

    Returns
    -------
    [steps] for `scores`, for times and for flat chunks of one output, [2] for `covers`, a list for `events`,
    else [steps, width]
    """
    if name == COVERS:
        covers: AnyArray = numbers[0].astype(np.int64)
        return covers
    if name == EVENTS:
        return [{"event": EVENT_NAMES[int(kind)], "sample": int(sample)} for kind, sample in numbers.tolist()]
    if name in TIMES:
        return time_array(numbers.ravel())
    array: AnyArray = numbers != 0 if name == "observed" else json_numbers(numbers)
    return array.ravel() if name == "scores" or (flat and array.shape[1] == 1) else array


def time_array(seconds: Numbers) -> AnyArray:
    """Seconds since 1970, all known, as `ARRAYS` writes them, to the millisecond."""
    return np.rint(seconds * 1000).astype("datetime64[ms]")


def encode_history(history: SessionHistory) -> dict[str, Any]:
    """What a session observed last, in columns; unknown numbers and times are written as null (`ARRAYS`)."""
    ports, steps = history.ports, len(history.observations)
    several, predictions = len(ports) > 1, None
    if history.predictions is not None:
        predictions = by_port(history.predictions, ports) if several else json_numbers(history.predictions)
    columns: dict[str, Any] = {
        "observations": json_numbers(history.observations),
        "pieces": history.pieces,
        "outputs" if several else "predictions": predictions,
        "lower": history.lower,
        "upper": history.upper,
        "scores": history.scores,
    }
    if history.times is not None:
        columns["times"] = _times_or_nulls(history.times)
        columns["predicted_times"] = _times_or_nulls(history.times + (history.interval_seconds or 0.0))
    return {
        "session": id_of(history.session),
        "model": history.model,
        "position": history.position,
        "epoch": epoch_token(history.epoch),
        "from": history.first,
        "positions": list(range(history.first + 1, history.first + steps + 1)),
        "inputs": history.inputs,
        "targets": history.targets,
        **{name: column for name, column in columns.items() if column is not None},
    }


def _times_or_nulls(seconds: Numbers) -> AnyArray | list[str | None]:
    if not np.isnan(seconds).any():
        return time_array(seconds)
    return [None if np.isnan(time) else format_rfc3339(time) for time in seconds.tolist()]


def by_port(numbers: Numbers, ports: Sequence[Port]) -> dict[str, AnyArray]:
    """Predictions, [steps, outputs], as an array for each output: [steps, *shape] of the output's type."""
    arrays: dict[str, AnyArray] = {}
    stop = 0
    for port in ports:
        start, stop = stop, stop + port.size
        kind = np.int64 if is_whole(port) else np.float32
        arrays[port.name] = numbers[:, start:stop].astype(kind).reshape(len(numbers), *port.shape)
    return arrays


def json_numbers(numbers: Numbers) -> AnyArray:
    """Numbers as they are written: as whole numbers where all are, of a model whose outputs may be."""
    if numbers.dtype != np.float64:
        return numbers
    whole = (numbers == np.rint(numbers)) & (np.abs(numbers) <= MAX_WHOLE)
    return numbers.astype(np.int64) if whole.all() else numbers


def encode_session(view: SessionView) -> dict[str, Any]:
    """A session as `GET /sessions/{id}` shows it."""
    return {
        "session": id_of(view.session),
        "model": view.model,
        "fingerprint": view.fingerprint,
        "position": view.position,
        "epoch": epoch_token(view.epoch),
        "observations_since_reset": view.since_reset,
        "last_prediction": None if view.last_prediction is None else shortest_decimals(view.last_prediction),
        "time": None if view.time is None else format_rfc3339(view.time, exactly=True),
        "created": format_rfc3339(view.created),
        "updated": format_rfc3339(view.seen),
        "expires": None if view.expires is None else format_rfc3339(view.expires),
        "ttl_seconds": view.ttl_seconds,
        "learning": None
        if not view.learning.enabled
        else {
            "readout": view.learning.readout,
            "forgetting": view.learning.forgetting,
            "prior": view.learning.prior,
            "levels": list(view.learning.levels),
        },
        "level": view.level,
        "errors": None if view.errors is None else _errors(view.errors, view.learning.levels),
        "surprise": None if view.surprise is None else _float32_decimal(view.surprise),
        "labels": labels_by_name(view.labels),
        "alert": None if view.alert is None else msgspec.structs.asdict(view.alert),
        "alert_raised": view.alert_raised,
        "rate": view.rate,
    }


def _errors(errors: ErrorStatistics, levels: Sequence[float]) -> dict[str, Any]:
    """The session's running errors over all outputs; null before the first."""
    if not (errors.observed > 0).any():
        return {"observations": 0, "mse": None, "mae": None, "skill": None, "coverage": {}, "by_target": []}
    mse, persistence = float(np.nanmean(errors.mse)), float(np.nanmean(errors.persistence))
    coverage = np.nanmean(errors.coverage[0], axis=1).round(4).tolist()
    parts = (errors.mse, errors.mae, errors.persistence)
    return {
        "observations": int(errors.observed.max()),
        "mse": mse,
        "mae": float(np.nanmean(errors.mae)),
        "skill": 1 - mse / persistence if persistence > 0 else None,
        "coverage": {f"{level:g}": share for level, share in zip(levels, coverage, strict=True)},
        "by_target": list(map(_target_errors, *(part[0].tolist() for part in parts))),
    }


def _target_errors(mse: float, mae: float, persistence: float) -> dict[str, float | None]:
    """The errors of one target; null where it was never observed."""
    skill = 1 - mse / persistence if persistence > 0 else None  # false for NaN, too
    return {"mse": None if isnan(mse) else mse, "mae": None if isnan(mae) else mae, "skill": skill}


def _float32_decimal(number: float) -> float:
    return shortest_decimals(np.array([number], np.float32))[0]


def shortest_decimals(numbers: Numbers) -> list[float]:
    """Numbers as the shortest decimals that round to them."""
    decimals: list[float] = orjson.loads(
        orjson.dumps(np.ascontiguousarray(json_numbers(numbers)), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    return decimals


def format_rfc3339(seconds: float, *, exactly: bool = False) -> str:
    """A time since 1970 in UTC, to the millisecond; `exactly`: with microseconds, if it has them."""
    time = datetime.fromtimestamp(seconds, UTC)
    digits = "microseconds" if exactly and time.microsecond % 1000 else "milliseconds"
    return time.isoformat(timespec=digits).replace("+00:00", "Z")
