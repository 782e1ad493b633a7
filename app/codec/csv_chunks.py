"""Chunks in CSV: read by name for a model, by the rules that `carryover train` reads files by.

A body is cut into slices of a size that takes a few milliseconds, and a large one is read in a thread. So it
does not stop other requests. Its memory is bounded by its size, its rows by the limit of a chunk, and its
columns by `MAX_OTHER_COLUMNS` beside the model's.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from app.codec.answers import json_numbers
from app.codec.limits import MAX_FLOAT32, MAX_TIMESTAMP, Limits
from app.errors import Malformed, TooLarge, Unprocessable
from app.jobs.answers import ChunkAnswer
from app.jobs.options import ChunkOptions
from models.arrays import Doubles, Numbers, Seconds
from models.artifact.served import ServedArtifact
from models.data.tables.options import BadCell, TableOptions
from models.errors import BadData
from models.forecaster import COVERS
from models.nets.numbers import column_names

if TYPE_CHECKING:
    from models.data.tables.columns import Rows

CONTENT_TYPE = "text/csv"
SLICE_BYTES = 65_536
MAX_OTHER_COLUMNS = 256


@dataclass(frozen=True)
class CsvRows:
    """The rows of a body, for one model.

    columns : names of the model's inputs, without those that are computed from the times
    values : [steps, columns], NaN where nothing was observed
    seconds : [steps], times since 1970; None without times
    ignored : columns that the model does not read
    notes : what a client should know
    """

    columns: tuple[str, ...]
    values: Doubles
    seconds: Seconds | None
    ignored: tuple[str, ...]
    notes: tuple[str, ...]


def read_rows(body: bytes, options: TableOptions, artifact: ServedArtifact, limits: Limits) -> CsvRows:
    """The rows of a body.

    Parameters
    ----------
    artifact : the model whose inputs are read
    limits : `observations` is the most rows

    Raises
    ------
    Malformed : it cannot be read, or an input is missing; names the row and the column
    TooLarge : too many rows
    """
    from models.data.tables.columns import TableReader
    from models.data.tables.files import read_table

    inputs = artifact.columns[: len(artifact.columns) - artifact.time_input_count]
    try:
        table = read_table(
            _slices(body), options, "the body", compressed=False, max_columns=len(inputs) + MAX_OTHER_COLUMNS
        )
        timed = not options.no_times
        reader = TableReader(table, options, inputs, gaps=True, timed=timed)
        pieces = list(_limited(reader.rows(), limits))
    except BadCell as error:
        raise Malformed(_as_parameters(str(error)), row=error.row, column=error.column) from None
    except BadData as error:
        raise Malformed(_as_parameters(str(error))) from None
    if not pieces:
        raise Malformed("the body has no rows")
    values = np.concatenate([piece.values for piece in pieces])
    beyond = np.abs(values) > MAX_FLOAT32
    if beyond.any():
        row, column = (int(index) for index in np.argwhere(beyond)[0])
        raise Malformed(
            f"row {row + 1}, column {inputs[column]!r} is {values[row, column]}, not a finite float32",
            row=row + 1,
            column=inputs[column],
        )
    return CsvRows(inputs, values, _seconds(pieces), reader.ignored, tuple(reader.notes))


def options_of(rows: CsvRows, artifact: ServedArtifact, level: float | None, *, score: bool) -> ChunkOptions:
    """The options of a chunk of these rows, which are fed by name.

    Raises
    ------
    Unprocessable : the model needs times, and there are none
    """
    timestamps = rows.seconds if artifact.time_features else None
    if artifact.time_features and timestamps is None:
        raise Unprocessable(
            f"model {artifact.name!r} needs the time of each row: name their column with time_column",
            field="time_column",
        )
    inputs: dict[str, Numbers] = {}
    start = 0
    ports = artifact.listed_inputs
    for port in ports[: len(ports) - artifact.time_input_count]:
        part = rows.values[:, start : start + port.size]
        inputs[port.name] = part.reshape(len(part), *port.shape)
        start += port.size
    return ChunkOptions(level, score, bool(np.isnan(rows.values).any()), timestamps, None, inputs)


def place_in_body(error: Unprocessable, artifact: ServedArtifact) -> None:
    """Let the refusal of a chunk name the row as in the body, from 1 below the header, and the column.

    Parameters
    ----------
    artifact : the model whose columns the chunk has
    """
    row, column = error.extra.get("row"), error.extra.get("column")
    if not isinstance(row, int):
        return
    place = f"row {row + 1}"
    error.extra["row"] = row + 1
    if isinstance(column, int):
        error.extra["column"] = artifact.columns[column]
        place += f", column {artifact.columns[column]!r}"
    error.detail = re.sub(rf"\brow {row}\b(, column {column}\b)?", lambda _: place, error.detail, count=1)
    error.args = (error.detail,)


def encode_answer(answer: ChunkAnswer) -> bytes:
    """An answer as CSV: a row for each observation, with the position behind it and the predictions.

    Raises
    ------
    Unprocessable : the answer has a forecast
    """
    import pyarrow as pa
    import pyarrow.csv

    parts, targets = answer.answer, column_names(answer.ports)
    steps = len(parts["predictions"])
    columns: dict[str, Any] = {"position": np.arange(answer.position - steps + 1, answer.position + 1)}
    if COVERS in parts:  # behind each frame
        first, stop = parts[COVERS][0].tolist()
        columns["position"] = np.rint(np.linspace(first, stop, steps + 1)[1:]).astype(np.int64)
    for name, ending in (
        ("predictions", ""),
        ("lower", "_lower"),
        ("upper", "_upper"),
        ("residuals", "_residual"),
    ):
        if name in parts:
            numbers = json_numbers(parts[name])
            columns |= {f"{target}{ending}": numbers[:, i] for i, target in enumerate(targets)}
    if "scores" in parts:
        columns["score"] = parts["scores"].ravel()
    table = pa.table({name: pa.array(column, from_pandas=True) for name, column in columns.items()})
    header, sink = io.StringIO(), pa.BufferOutputStream()
    csv.writer(header, lineterminator="\n").writerow(columns)
    pyarrow.csv.write_csv(table, sink, pyarrow.csv.WriteOptions(include_header=False))
    body: bytes = header.getvalue().encode() + sink.getvalue().to_pybytes()
    return body


def is_csv(header: str) -> bool:
    """Whether the header `Content-Type` or `Accept` names CSV first."""
    return header.partition(",")[0].partition(";")[0].strip().lower() == CONTENT_TYPE


def _slices(body: bytes) -> Iterator[bytes]:
    return (body[start : start + SLICE_BYTES] for start in range(0, len(body), SLICE_BYTES))


def _limited(pieces: Iterator[Rows], limits: Limits) -> Iterator[Rows]:
    rows = 0
    for piece in pieces:
        rows += len(piece.values)
        if rows > limits.observations:
            raise TooLarge(
                f"a body has at most {limits.observations} rows, this one has more", limit=limits.observations
            )
        yield piece


def _seconds(pieces: Sequence[Rows]) -> Seconds | None:
    times = [piece.times for piece in pieces if piece.times is not None]
    if not times:
        return None
    seconds: Seconds = np.concatenate(times).astype(np.int64) / 1e6
    if not (np.abs(seconds) < MAX_TIMESTAMP).all():
        row = int((np.abs(seconds) >= MAX_TIMESTAMP).argmax())
        raise Malformed(f"row {row + 1}: the time is beyond the year 5000", row=row + 1)
    return seconds


def _as_parameters(message: str) -> str:
    """A message with the names of query parameters in place of those of the command line's options."""
    message = message.replace("--month-first", "day_first=false").replace("--day-first", "day_first=true")
    message = re.sub(r"--([a-z-]+) (?=\S)", lambda match: f"{match[1].replace('-', '_')}=", message)
    return re.sub(r"--([a-z-]+)", lambda match: match[1].replace("-", "_"), message)
