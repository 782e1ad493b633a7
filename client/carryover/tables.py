"""Answers as people see them: DataFrames of pandas or polars, HTML for notebooks, and counts in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from importlib.util import find_spec
from typing import Any

LIBRARIES = ("pandas", "polars")
HTML_ROWS = 10  # of a table in a notebook; the first and the last half of them
TIME, POSITION = "time", "position"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 step`, `2 steps`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def distinct(names: Iterable[str]) -> list[str]:
    """The same names; one that comes again gets a number behind it."""
    found: dict[str, None] = {}
    for name in names:
        free = (name if n == 1 else f"{name}_{n}" for n in range(1, len(found) + 2))
        found[next(one for one in free if one not in found)] = None
    return list(found)


def frame(columns: Mapping[str, Sequence[Any]], index: Sequence[Any], name: str, library: str) -> Any:
    """A DataFrame.

    Parameters
    ----------
    columns : of equal length, by name
    index, name : of the rows, the time or the position that each is for; polars, which has no index, gets it
        as the first column, and a column of that name gets a number
    library : pandas or polars

    Raises
    ------
    ValueError : another library
    ImportError : the library is not installed; the message says how to install it
    """
    if library not in LIBRARIES:
        raise ValueError(f"library must be {' or '.join(LIBRARIES)}, not {library!r}")
    if find_spec(library) is None:
        raise ModuleNotFoundError(f"{library} is not installed: pip install {library}", name=library)
    if library == "polars":
        import polars as pl

        names = distinct([name, *columns])
        return pl.DataFrame(dict(zip(names, map(list, [index, *columns.values()]), strict=True)))
    import pandas as pd

    times = name == TIME and not isinstance(index, pd.Index)
    rows = pd.to_datetime(list(index), utc=True) if times else pd.Index(index)
    return pd.DataFrame({key: list(column) for key, column in columns.items()}, rows.rename(name))


def output_columns(
    numbers: Any, targets: Sequence[Any] | None, default: str, suffix: str = ""
) -> dict[str, list[Any]]:
    """Numbers [steps] or [steps, outputs], or such by name, as a column for each output.

    Parameters
    ----------
    targets : names of the outputs; None, or of another length: they are called `default`
    suffix : of every name
    """
    if isinstance(numbers, Mapping):
        columns: dict[str, list[Any]] = {}
        for name, part in numbers.items():
            columns |= output_columns(part, None, str(name), suffix)
        return columns
    rows = [_flat(row) for row in _plain(numbers)]
    width = len(rows[0]) if rows else len(targets or (default,))
    names = list(map(str, targets)) if targets and len(targets) == width else None
    if names is None:
        names = [default] if width == 1 else [f"{default}_{i}" for i in range(width)]
    return {f"{name}{suffix}": [row[i] for row in rows] for i, name in enumerate(names)}


def with_intervals(
    numbers: Any, lower: Any, upper: Any, targets: Sequence[Any] | None, default: str, suffix: str = ""
) -> dict[str, list[Any]]:
    """The columns of predictions and, beside them, of their intervals if there are any."""
    columns = output_columns(numbers, targets, default, suffix)
    for end, name in ((lower, "_lower"), (upper, "_upper")):
        if end is not None:
            columns |= output_columns(end, targets, default, name)
    return columns


def quantile_suffix(quantile: float) -> str:
    """How a column of this quantile ends: -lo-90 for 0.05, -hi-90 for 0.95."""
    percent = f"{round(abs(100 - 200 * quantile), 6):g}"
    return f"-{'lo' if quantile < 0.5 else 'hi'}-{percent}"


def parse_times(texts: Iterable[str | None] | None) -> list[datetime | None] | None:
    """Times in RFC 3339; None where they are not known."""
    return None if texts is None else [None if text is None else parse_time(text) for text in texts]


def parse_time(text: str) -> datetime:
    """A time in RFC 3339."""
    return datetime.fromisoformat(text)


def table_html(title: str, index: Sequence[Any], name: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """The first and the last rows as an HTML table."""
    half, count = HTML_ROWS // 2, len(index)
    shown: list[int | None] = list(range(count))
    if count > HTML_ROWS:
        shown = [*range(half), None, *range(count - half, count)]
    head = "".join(f"<th>{escape(text)}</th>" for text in (name, *columns))
    rows = [
        "<td>…</td>" * (len(columns) + 1)
        if i is None
        else "".join(f"<td>{_cell(column[i])}</td>" for column in (index, *columns.values()))
        for i in shown
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p>{escape(title)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def facts_html(title: str, facts: Mapping[str, Any]) -> str:
    """Names and values as an HTML table, without those that are None."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{_cell(value)}</td></tr>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<p>{escape(title)}</p><table><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return escape(value.isoformat() if isinstance(value, datetime) else str(value))


def _plain(numbers: Any) -> list[Any]:
    """Numbers as lists of Python numbers."""
    return numbers.tolist() if hasattr(numbers, "tolist") else list(numbers)


def _flat(row: Any) -> list[Any]:
    if isinstance(row, list | tuple):
        return [number for part in row for number in _flat(part)]
    return [row]
