"""`carryover stream` and `carryover forecast`: send a file's rows to a session, and print a forecast."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import connect, options
from app.cli.bundles import FileArguments, with_bundles
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import Answer, Carryover, ModelInfo, Session, SessionInfo

    from app.cli.resume import Beginning
    from app.cli.row_reader import Row

CHUNK, CHUNKS_AHEAD, STEPS = 50, 8, 20


class Format(StrEnum):
    """How predictions are written."""

    csv = "csv"
    jsonl = "jsonl"


@with_bundles
def stream(
    data: Annotated[
        Path,
        typer.Argument(
            help="A file: CSV, JSON Lines, Parquet or NPZ; or - for CSV or JSON Lines on standard input.",
            show_default=False,
        ),
    ],
    session: connect.SessionId,
    model: connect.NewModel = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Columns to send, in the order of the inputs. [default: by name]"
        ),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of times: copied to the predictions, sent to a model that uses times, and compared "
            "with --resume. [default: for a model that uses times, the first column of times]",
            show_default=False,
        ),
    ] = None,
    *,
    reading: FileArguments,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Observations in a chunk. [default: 50; with --follow or - 1]", show_default=False
        ),
    ] = None,
    level: options.Level = None,
    score: options.Score = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. [default: standard output]", show_default=False),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Format of the predictions.")] = Format.csv,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="At the end of the file, wait for more rows.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a source that was interrupted: skip the rows that were applied."
        ),
    ] = False,
    began_at: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="With --resume: the session's position when the first row of this source was sent. "
            "[default: from --out, else 0]",
            show_default=False,
        ),
    ] = None,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Send the rows of a file to a session, and write the prediction of what follows each row.

    All rows are new and are sent, unless --resume is given. With --resume the rows that were applied before
    an interruption are skipped: those up to the time of the last one, or else as many as were applied, if
    the server has applied the same numbers. If this cannot be decided, nothing is sent. An empty cell is a
    missing observation. The server may restart meanwhile.

    For example: carryover stream readings.csv pump-7 --time-column date --out predictions.csv
    """
    from carryover import CannotResume, Problem

    from app.cli import row_reader
    from app.cli.prediction_writer import Layout
    from app.cli.progress_bar import track
    from app.cli.resume import Output, PulledRows, rows_after
    from app.cli.stream_report import count_applied, describe_applied, refused_row

    if began_at is not None and not resume:
        raise typer.BadParameter("says where to go on, which needs --resume", param_hint="--began-at")
    size = chunk or (1 if follow or str(data) == "-" else CHUNK)
    with ExitStack() as stack:
        table, step = reading.table_options(), reading.step
        source = stack.enter_context(
            row_reader.open_rows(data, sys.stdin, follow=follow, options=table, step=step)
        )
        service = stack.enter_context(connect.client(url, key_file, connect.PATIENCE_SECONDS))
        target = service.session(session, model)
        info, described = _find(service, target, model)
        inputs = _inputs_without_times(described)
        observation, label = row_reader.select_columns(
            source,
            inputs,
            time_column,
            columns=options.parse_names(columns),
            timed=bool(described.time_features or reading.time_zone or reading.day_first is not None),
            needs_times=described.name if described.time_features else None,
        )
        time_column = source.label
        layout = Layout(
            described.targets, time_column, level is not None, score, as_json or format_ is Format.jsonl
        )
        output = Output(layout, out, session)
        position = 0 if info is None else info.position
        beginning = (
            output.go_on(position, None if info is None else info.time, began_at)
            if resume
            else output.new_rows(position)
        )
        if not resume:
            _say_new_rows(session, position, out)
        rows = source.rows
        if beginning.after_time is not None:
            rows = rows_after(rows, row_reader.time_of, beginning.after_time, _say)
        checked = time_column is not None and step is None
        pulled = PulledRows(
            source.table.source,
            rows,
            observation,
            label,
            timed=bool(described.time_features),
            checked=checked,
        )
        stack.enter_context(output.open(beginning, resume=resume))
        sent = target.stream(
            pulled,
            size,
            level=level,
            score=score,
            timestamps=pulled.timestamps() if described.time_features else None,
            max_in_flight=1 if source.live else CHUNKS_AHEAD,
            resume=beginning.resumed,
            start=beginning.start,
            after=beginning.after,
        )
        remaining = None
        if source.total is not None and beginning.after_time is None:
            remaining = source.total - beginning.skipped(position)
        shown = out is not None or not sys.stdout.isatty()
        answers = _said_first(sent.answers(), beginning, position) if resume else sent.answers()
        answered = 0
        try:
            for answer in track(answers, remaining, "rows", len, shown=shown):
                output.write(answer, pulled.labels_of(answer, beginning.start))
                answered += len(answer)
        except CannotResume:
            raise  # nothing was sent
        except (Exception, KeyboardInterrupt) as error:
            with connect.client(url, key_file) as asking:
                applied = count_applied(asking, session, position, answered, error)
            _say(describe_applied(*applied, _again(position, out, resume=resume)))
            if isinstance(error, Problem):
                refused = refused_row(error, pulled, inputs, described, info)
                if refused is not None:
                    raise refused from None
            raise
        output.finish()
        irregular = pulled.describe_irregular()
        options.print_notes([] if irregular is None else [irregular])


def forecast(
    session: connect.SessionId,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            "-n",
            min=1,
            help="Number of steps. [default: 20, or the rows of --future]",
            show_default=False,
        ),
    ] = None,
    level: options.Level = None,
    future: Annotated[
        Path | None,
        typer.Option(
            help="A file with the columns that are known ahead, a row for each step.",
            show_default=False,
        ),
    ] = None,
    time_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Column of times in --future: rows up to the session's last observation are skipped. The "
            "session needs times.",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print a forecast of a session for several steps ahead, as CSV. The session does not change.

    For example: carryover forecast pump-7 --steps 200 > forecast.csv
    """
    from carryover import Problem
    from carryover.tables import distinct

    from app.cli.prediction_writer import csv_lines
    from app.cli.stream_report import refused_future

    if time_column is not None and future is None:
        raise typer.BadParameter("names a column of --future, which is not given", param_hint="--time-column")
    with connect.client(url, key_file) as service:
        target = service.session(session)
        info = target.refresh()
        described = next(known for known in service.models() if known.name == info.model)
        ahead = [] if future is None else _read_future(future, described, info, steps, time_column)
        steps = steps or len(ahead) or STEPS
        try:
            found = target.forecast(
                steps, level=level, future=None if future is None else [row.values for row in ahead]
            )
        except Problem as error:
            refused = refused_future(error, str(future), [row.number for row in ahead], described.future)
            if refused is None:
                raise
            raise refused from None
    parts = {"": found.values} | (
        {} if found.lower is None else {"_lower": found.lower, "_upper": found.upper}
    )
    columns: list[tuple[str, list[Any]]] = []
    if found.times is not None:
        columns.append(("time", [None if time is None else time.isoformat() for time in found.times]))
    for ending, part in parts.items():
        names = [f"{name}{ending}" for name in described.targets]
        columns += zip(names, _columns_of(part, steps), strict=True)
    names, values = [name for name, _ in columns], [column for _, column in columns]
    if as_json:
        document = {"session": found.session, "model": found.model, "position": found.position}
        free = distinct([*document, *names])[len(document) :]
        print(json.dumps(document | dict(zip(free, values, strict=True))))
        return
    head = distinct(["step", *names])
    print(csv_lines([head, *zip(range(1, steps + 1), *values, strict=True)]), end="")


def _columns_of(values: Any, steps: int) -> list[list[Any]]:
    """A column for each target, of numbers [steps, ...] or of such by the name of an output."""
    if isinstance(values, dict):
        return [column for part in values.values() for column in _columns_of(part, steps)]
    return [[_plain(number) for number in column] for column in values.reshape(steps, -1).T]


def _plain(number: Any) -> Any:
    """A number of NumPy; of float32 the shortest decimal."""
    return float(str(number)) if number.dtype.kind == "f" else number.item()


def _read_future(
    path: Path, model: ModelInfo, info: SessionInfo, steps: int | None, time_column: str | None
) -> list[Row]:
    """The rows of a file, of the columns that are known ahead.

    Raises
    ------
    BadData : the file has too few rows, or not these columns, or an empty cell
    """
    from app.cli import resume, row_reader
    from models.errors import BadData

    if not model.future:
        raise BadData(f"model {model.name!r} has no inputs that are known ahead: leave out --future")
    with row_reader.open_rows(path, sys.stdin, follow=False) as source:
        row_reader.select_columns(source, model.future, time_column)
        rows = source.rows
        if time_column is not None:
            if info.time is None:
                raise BadData(
                    f"session {info.session!r} has no times, so --time-column cannot say which rows of "
                    f"{path} are behind its last observation: leave it out, and give a file that begins with "
                    "the next step"
                )
            rows = resume.rows_after(rows, row_reader.time_of, info.time.timestamp(), _say)
        found = list(islice(rows, steps))
    if len(found) < (steps or 1):
        raise BadData(f"{path} has {len(found)} rows for {steps or 1} steps")
    for row in found:
        if None in row.values:
            place = row_reader.place_of(str(path), row.number, row.label)
            column = model.future[row.values.index(None)]
            raise BadData(f"{place}, column {column!r} is empty: a forecast needs its value for each step")
    return found


def _find(service: Carryover, session: Session, given: str | None) -> tuple[SessionInfo | None, ModelInfo]:
    """The session, if it exists; and its model, or the one that it will get."""
    from carryover import SessionGone, UnknownSession

    from models.errors import BadData

    info, name = None, given
    with suppress(UnknownSession, SessionGone):
        info = session.refresh()
        name = info.model
    known = service.models()
    found = [model for model in known if (model.default if name is None else model.name == name)]
    names = ", ".join(model.name for model in known)
    if not found and name is None:
        raise BadData(f"name the model of the new session with --model; the server has {names}")
    if not found:
        raise BadData(f"the server has no model {name!r}; it has {names}")
    return info, found[0]


def _inputs_without_times(model: ModelInfo) -> Sequence[str]:
    """The columns to send: the server makes the others of the times."""
    return model.inputs[: len(model.inputs) - len(model.time_inputs)]


def _again(position: int, out: Path | None, *, resume: bool) -> str:
    """How to go on with a source that was interrupted.

    Parameters
    ----------
    position : of the session before the source
    """
    if resume:
        return "the same command again"
    return "--resume" if out or not position else f"--resume --began-at {position}"


def _say_new_rows(session: str, position: int, out: Path | None) -> None:
    """Say that nothing is skipped, if the session is not at 0."""
    if position:
        again = "" if out else f"; after an interruption: {_again(position, out, resume=False)}"
        _say(f"session {session} is at {position}: all rows of the source are new to it{again}")


def _said_first(answers: Iterator[Answer], beginning: Beginning, position: int) -> Iterator[Answer]:
    """The answers of a stream that goes on; before the first, say where. The server may have refused it."""
    first = next(answers, None)
    if beginning.after_time is None:
        _say(f"going on after row {max(beginning.skipped(position), 0)} of the source")
    if first is not None:
        yield first
    yield from answers


def _say(text: str) -> None:
    print(text, file=sys.stderr)
