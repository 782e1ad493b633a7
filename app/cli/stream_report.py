"""What `carryover stream` says where a stream breaks off: the place in the file, and what was applied."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.cli.resume import PulledRows, parse_time
from app.cli.row_reader import place_of
from models.data import calendar
from models.data.resampling import format_step
from models.errors import BadData
from models.wording import counted

if TYPE_CHECKING:
    from carryover import Carryover, ModelInfo, Problem, SessionInfo

PLACE = re.compile(r"row \d+ of the stream(, column \d+)?")


def refused_row(
    error: Problem, pulled: PulledRows, inputs: Sequence[str], model: ModelInfo, info: SessionInfo | None
) -> BadData | None:
    """The server's refusal of a row, with its place in the file; None where the refusal names no row.

    Parameters
    ----------
    inputs : the columns that are sent
    info : the session before the stream
    """
    row, column = error.extra.get("row"), error.extra.get("column")
    if not isinstance(row, int):
        return None
    place = pulled.place(row)
    if isinstance(column, int) and column < len(inputs):
        place += f", column {inputs[column]!r}"
    irregular = None if column is not None else _irregular(row, pulled, model, info)
    if irregular is not None:
        return BadData(f"{place}: {irregular}")
    if (start := PLACE.match(error.detail)) is not None:
        return BadData(place + error.detail[start.end() :])
    return BadData(f"{place}: {PLACE.sub('the row', error.detail)}")


def refused_future(
    error: Problem, source: str, numbers: Sequence[int | None], names: Sequence[str]
) -> BadData | None:
    """The server's refusal of a row that is known ahead, with its place in the file; None of something else.

    Parameters
    ----------
    numbers : of the rows in the file
    names : the columns that are sent
    """
    row, column = error.extra.get("row"), error.extra.get("column")
    if error.extra.get("field") != "future" or not isinstance(row, int) or not isinstance(column, int):
        return None
    complaint = error.detail.partition(f"column {column} ")[2] or error.detail
    return BadData(f"{place_of(source, numbers[row], None)}, column {names[column]!r} {complaint}")


def _irregular(row: int, pulled: PulledRows, model: ModelInfo, info: SessionInfo | None) -> str | None:
    """What is wrong with the time of a row, and what to do; None if it is one step after the one before."""
    step: Any = model.more.get("interval_seconds")
    time = parse_time(pulled.label(row))
    first = row == 0 and info is not None and info.time is not None
    before = info.time.timestamp() if first and info and info.time else parse_time(pulled.label(row - 1))
    if not model.time_features or not step or time is None or before is None:
        return None
    gap = time - before
    if abs(gap - step) <= calendar.TOLERANCE * step:
        return None
    found = f"time {pulled.label(row)} is {abs(gap):g} s {'before' if gap < 0 else 'after'}"
    wanted = f"model {model.name!r} expects {step:g} s from row to row"
    if not first:
        return f"{found} the row before it; {wanted}: --resample {format_step(step)}"
    if gap < step:
        way = "go on behind the rows that were applied with --resume"
    else:
        way = (
            "rows are missing between the two. Send them first, with empty cells if they were not observed "
            "(--resume only skips rows)"
        )
    last = info.time.isoformat().replace("+00:00", "Z") if info and info.time else ""
    return f"{found} the session's last time, {last}; {wanted}: {way}, or name a new session"


def count_applied(
    service: Carryover, session: str, position: int, answered: int, error: BaseException
) -> tuple[int, bool]:
    """How many rows of a stream that broke off were applied, and whether no more can be.

    Parameters
    ----------
    service : a client that does not wait long
    position : of the session before the stream
    answered : rows whose predictions have come
    error : why the stream broke off
    """
    import carryover

    if isinstance(error, carryover.OutOfStep):
        return answered, True  # the session's position may count the rows of another client
    try:
        applied = service.session(session).info().position - position
    except (carryover.UnknownSession, carryover.SessionGone):
        return answered, True
    except carryover.CarryoverError:
        return answered, False
    return max(applied, answered), not isinstance(error, KeyboardInterrupt)  # chunks may be on their way


def describe_applied(applied: int, known: bool, again: str) -> str:
    """How many rows were applied, and how to go on so that nobody applies them twice.

    Parameters
    ----------
    known : whether these are all
    again : the option that goes on
    """
    rows = f"{counted(applied, 'row')} of this run {'was' if applied == 1 else 'were'} applied"
    if known and not applied:
        return rows
    return f"{rows if known else f'at least {rows}'}; to go on behind what was applied: {again}"
