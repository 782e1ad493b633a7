"""`carryover stream` and `carryover forecast`: send a file's rows to a session, and print a forecast."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import Carryover, ModelInfo, Session

    from app.cli.prediction_writer import Layout

PATIENCE_SECONDS = 300.0
CHUNK, CHUNKS_AHEAD = 50, 8


class Format(StrEnum):
    """How predictions are written."""

    csv = "csv"
    jsonl = "jsonl"


Level = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Add the interval of this level, such as 0.9.", show_default=False),
]


def stream(
    data: Annotated[
        Path,
        typer.Argument(help="A .csv or .parquet file, or - for CSV on standard input.", show_default=False),
    ],
    session: connect.SessionId,
    model: Annotated[
        str | None, typer.Option(help="Model of a session that does not exist yet.", show_default=False)
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Columns to send. [default: the inputs of the model]"),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Column to copy to the predictions.", show_default=False),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Observations in a chunk. [default: 50; with --follow or - 1]", show_default=False
        ),
    ] = None,
    level: Level = None,
    score: Annotated[
        bool, typer.Option("--score", help="Add a score of how surprising each observation was.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. [default: standard output]", show_default=False),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Format of the predictions.")] = Format.csv,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="At the end of the file, wait for more rows.")
    ] = False,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Send every row, whatever the position of the session.")
    ] = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Send the rows of a file to a session, and write the prediction of what follows each row.

    Row 0 of the file is observation 0 of the session. After an interruption, the same command continues at
    the position of the session, or where --out ends. An empty cell is a missing observation. The server may
    restart meanwhile.

    For example: carryover stream readings.csv pump-7 --time-column date --out predictions.csv
    """
    from app.cli import row_reader
    from app.cli.prediction_writer import Layout
    from app.cli.progress_bar import track

    size = chunk or (1 if follow or str(data) == "-" else CHUNK)
    with ExitStack() as stack:
        source = stack.enter_context(row_reader.open_rows(data, sys.stdin, follow=follow))
        service = stack.enter_context(connect.client(url, key_file, PATIENCE_SECONDS))
        target = service.session(session, model)
        described = _model(service, target, model)
        observation, label = row_reader.select_columns(
            source, options.parse_names(columns) or described.inputs, time_column
        )
        layout = Layout(
            described.targets, time_column, level is not None, score, as_json or format_ is Format.jsonl
        )
        start = 0 if from_start else _start_row(target, out, layout)
        labels: deque[Any] = deque()

        def observations() -> Iterator[list[float | None]]:
            for row in islice(source.rows, start, None):
                labels.append(label(row))
                yield observation(row)

        file = stack.enter_context(out.open("a", encoding="utf-8")) if out else sys.stdout
        if not start or out is None:
            layout.write_header(file)
        sent = target.stream(
            observations(),
            size,
            level=level,
            score=score,
            max_in_flight=1 if source.total is None else CHUNKS_AHEAD,
        )
        remaining = None if source.total is None else max(source.total - start, 0)
        shown = out is not None or not sys.stdout.isatty()
        for answer in track(sent.answers(), remaining, "rows", len, shown=shown):
            layout.write(file, answer, [labels.popleft() for _ in range(len(answer))])


def forecast(
    session: connect.SessionId,
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="Number of steps.")] = 20,
    level: Level = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print a forecast of a session for several steps ahead, as CSV. The session does not change.

    For example: carryover forecast pump-7 --steps 200 > forecast.csv
    """
    from app.cli.prediction_writer import csv_lines

    with connect.client(url, key_file) as service:
        found = service.session(session).forecast(steps, level=level)
        targets = next(known.targets for known in service.models() if known.name == found.model)
    parts = {"": found.values} | (
        {} if found.lower is None else {"_lower": found.lower, "_upper": found.upper}
    )
    columns = {
        f"{target}{ending}": [float(str(number)) for number in part.reshape(steps, -1)[:, i]]
        for ending, part in parts.items()
        for i, target in enumerate(targets)
    }
    if as_json:
        document = {"session": found.session, "model": found.model, "position": found.position}
        print(json.dumps(document | columns))
        return
    print(csv_lines([["step", *columns], *zip(range(1, steps + 1), *columns.values(), strict=True)]), end="")


def _model(service: Carryover, session: Session, given: str | None) -> ModelInfo:
    """The model of the session, or the model that it will get."""
    from carryover import SessionGone, UnknownSession

    from models.errors import BadData

    name = given
    with suppress(UnknownSession, SessionGone):
        name = session.refresh().model
    known = service.models()
    found = [info for info in known if (info.default if name is None else info.name == name)]
    names = ", ".join(info.name for info in known)
    if not found and name is None:
        raise BadData(f"name the model of the new session with --model; the server has {names}")
    if not found:
        raise BadData(f"the server has no model {name!r}; it has {names}")
    return found[0]


def _start_row(session: Session, out: Path | None, layout: Layout) -> int:
    """The row to continue with: after the last row of the output, or at the position of the session."""
    position = session.position or 0
    written = None if out is None else layout.last_position(out)
    start = position if written is None else written
    if start != position:
        session.rewind(start)
    if start:
        print(f"continuing after row {start}", file=sys.stderr)
    return start
