"""Examples of the OpenAPI document, for a model that the server has: "Try it out" sends them as they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import prod
from typing import Any

from models.forecaster import Forecaster

SESSION, OTHER_SESSION = "pump-7", "pump-8"
STEPS = 3
START_TIME = datetime(2026, 1, 1, tzinfo=UTC)
CSV = "text/csv"
MAX_NUMBERS = 1000  # in an observation that an example shows

Examples = dict[str, dict[str, Any]]  # by name, as `examples` of OpenAPI's media types


def parameter_examples(forecaster: Forecaster) -> dict[str, Any]:
    """By the parameter's name, a value for each one that a request must have."""
    name = forecaster.artifact.name
    return {"id": SESSION, "name": name, "model": name, "version": "1", "steps": STEPS}


def body_examples(forecaster: Forecaster, *, is_default: bool) -> dict[str, Examples]:
    """By the name of the body's schema, examples of bodies.

    Parameters
    ----------
    is_default : whether a request that creates a session may leave out the model
    """
    named = {} if is_default else {"model": forecaster.artifact.name}
    found: dict[str, Examples] = {
        "NewSession": {"session": _example("A session with this id", {"id": SESSION} | named)},
        "ForkRequest": {"fork": _example("A copy with this id", {"id": OTHER_SESSION})},
        "SessionChanges": {"labels": _example("A label", {"labels": {"site": "north"}})},
        "Precondition": {"reset": _example("Whatever the position is", {})},
        "ForecastRequest": {"forecast": _example("The next steps", _forecast(forecaster))},
        "GenerateRequest": {"text": _example("A short text", _text(forecaster) | {"steps": 40} | named)},
        "CompletionRequest": {
            "text": _example("A short text", _text(forecaster) | {"max_tokens": 40} | named)
        },
    }
    if forecaster.input_size > MAX_NUMBERS:
        return found
    rows = _rows(forecaster)
    found[CSV] = {"rows": _example("The same as CSV", _csv(forecaster, rows))}
    chunk = _chunk(forecaster, rows) | named
    found["Chunk"] = {"chunk": _example("Two observations", chunk)}
    if not forecaster.missing:
        ahead = _forecast(forecaster)
        more = {"horizon": ahead.pop("steps")} | ahead
        found["Chunk"]["forecast"] = _example("Two observations, and a forecast", chunk | more)
    sessions = {"sessions": [SESSION, OTHER_SESSION], "observations": rows}
    found["BulkChunks"] = {"rows": _example("An observation of each session", sessions | named)}
    return found


def inference_example(forecaster: Forecaster, inputs: list[dict[str, Any]]) -> Examples:
    """A request of the Open Inference Protocol.

    Parameters
    ----------
    inputs : the model's input tensors, as its metadata names them
    """
    rows, first = _rows(forecaster), 0
    tensors = []
    for described in inputs:
        shape = [1, len(rows), *described["shape"][2:]]
        width = prod(shape[2:])
        data = [number for row in rows for number in row[first : first + width]]
        if not described["datatype"].startswith("FP"):
            data = [int(number) for number in data]
        tensor = {"name": described["name"], "datatype": described["datatype"], "shape": shape, "data": data}
        tensors.append(tensor)
        first += width
    parameters = {"sequence_id": SESSION, "sequence_start": True}
    body = {"inputs": tensors, "parameters": parameters}
    return {"chunk": _example("The first two observations of a sequence", body)}


def _chunk(forecaster: Forecaster, rows: list[list[float]]) -> dict[str, Any]:
    """The observations, and their times in place of columns that are made from the time."""
    made = forecaster.artifact.time_input_count
    if not made:
        return {"observations": rows}
    seconds = forecaster.artifact.interval_seconds or 1.0
    times = [START_TIME + timedelta(seconds=seconds * step) for step in range(len(rows))]
    return {"observations": [row[:-made] for row in rows], "timestamps": [time.isoformat() for time in times]}


def _csv(forecaster: Forecaster, rows: list[list[float]]) -> str:
    """The rows under the names of their columns."""
    chunk = _chunk(forecaster, rows)
    names = list(forecaster.artifact.columns[: len(chunk["observations"][0])])
    lines: list[list[Any]] = [names, *chunk["observations"]]
    if "timestamps" in chunk:
        lines = [[time, *line] for time, line in zip(["time", *chunk["timestamps"]], lines, strict=True)]
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def _forecast(forecaster: Forecaster) -> dict[str, Any]:
    """Steps, and the columns that are known ahead."""
    artifact = forecaster.artifact
    if not artifact.future:
        return {"steps": STEPS}
    first = dict(zip(artifact.columns, _rows(forecaster)[0], strict=True))
    return {"steps": STEPS, "future": [[first[name] for name in artifact.future]] * STEPS}


def _text(forecaster: Forecaster) -> dict[str, Any]:
    """A prompt, which a model of text knows, and how the text behind it is drawn."""
    text = forecaster.artifact.text
    return {"prompt": "The sea " if text is None else text.vocabulary.sample, "temperature": 0.8, "seed": 7}


def _rows(forecaster: Forecaster) -> list[list[float]]:
    return [[float(f"{number:.3g}") for number in row] for row in forecaster.example()]


def _example(summary: str, value: Any) -> dict[str, Any]:
    return {"summary": summary, "value": value}
