"""Rows of a file, of a file that grows, or of standard input, for `carryover stream`.

They are read by `models.data.tables`, as for training, but come one by one. A stream may have gaps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.data.resampling import Resampler, format_step
from models.data.tables.columns import TableReader, listed
from models.data.tables.files import open_table, read_table
from models.data.tables.options import NO_OPTIONS, TableOptions
from models.data.tables.pieces import Table
from models.data.tables.text import BLOCK_BYTES, read_blocks
from models.errors import BadData
from models.wording import counted

POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the columns that are sent.

    values : in the order of the model's inputs; None where nothing was observed
    seconds : its time, since 1970; None where times are not read
    label : the cell of the column that is copied to the predictions; in UTC if it is a time that was read
    number : from 1, below the header; None of a step that was made of several rows, or of none
    """

    values: list[float | None]
    seconds: float | None
    label: Any
    number: int | None


class RowSource:
    """An open table. Its columns are selected by `select_columns` before its rows are read.

    names : of its columns
    total : number of rows; None if it is unknown
    live : whether a row should be sent as soon as it is there
    label : column that is copied to the predictions; known when columns were selected
    """

    def __init__(self, table: Table, options: TableOptions, *, live: bool, step: float | None = None) -> None:
        self.table = table
        self.names = table.names
        self.total = None if step is not None else table.total
        self.live = live
        self.options = options
        self.step = step
        self.reader: TableReader | None = None
        self.label: str | None = None

    @property
    def rows(self) -> Iterator[Row]:
        """Those that are left to read.

        Raises
        ------
        BadData : while they are read, a cell cannot be read; no columns were selected
        """
        if self.reader is None:
            raise BadData(f"{self.table.source}: no columns were selected")
        return self._rows(self.reader) if self.step is None else self._resampled(self.reader, self.step)

    def _rows(self, reader: TableReader) -> Iterator[Row]:
        shown = 0
        for piece in reader.rows():
            for note in reader.notes[shown:]:
                print(f"note: {note}", file=sys.stderr)
            shown = len(reader.notes)
            missing = np.isnan(piece.values)
            values = piece.values.tolist()
            for row, column in np.argwhere(missing).tolist():
                values[row][column] = None
            seconds: list[float | None] = [None] * len(values)
            if piece.times is not None:
                seconds = (piece.times.astype(np.int64) / 1e6).tolist()
            labels = piece.labels or [None] * len(values)
            if piece.times is not None and reader.label == reader.time_column:
                # As text that --resume reads again, whatever the zone and the form of the file's times.
                labels = [_time_text(text) for text in np.datetime_as_string(piece.times).tolist()]
            yield from map(Row, values, seconds, labels, count(piece.first_row))

    def _resampled(self, reader: TableReader, step: float) -> Iterator[Row]:
        """Means of the rows of a step. The label is the beginning of the step."""
        resampler = Resampler(self.table.source, step)
        rows = 0
        for row in self._rows(reader):
            if row.seconds is None:
                raise BadData(
                    f"{self.table.source} has no times to resample by; name their column: --time-column"
                )
            rows += 1
            values = np.array([np.nan if value is None else value for value in row.values])
            yield from (_mean(*complete) for complete in resampler.add(round(row.seconds * 1e6), values))
        yield from (_mean(*complete) for complete in resampler.finish())
        print(
            f"note: resampled {counted(rows, 'row')} to {format_step(step)}: means of their steps; "
            f"{counted(resampler.empty, 'step')} without a row, left as gaps",
            file=sys.stderr,
        )


def _mean(microseconds: int, values: Any) -> Row:
    label = _time_text(str(np.datetime64(microseconds, "us")))
    numbers = [None if np.isnan(value) else float(value) for value in values]
    return Row(numbers, microseconds / 1e6, label, None)


def _time_text(microseconds: str) -> str:
    """A time with all its digits, else --resume takes the last row that was applied for a later one."""
    return f"{microseconds.removesuffix('000')}Z"


def place_of(source: str, number: int | None, label: Any) -> str:
    """Where a row is, as messages say it."""
    return f"{source}, " + (f"the step at {label}" if number is None else f"row {number}")


def time_of(row: Row) -> Any:
    """Seconds since 1970, or, where times are not read, the label, which may be a time."""
    return row.label if row.seconds is None else row.seconds


@contextmanager
def open_rows(
    path: Path,
    standard_input: IO[str],
    *,
    follow: bool,
    options: TableOptions = NO_OPTIONS,
    step: float | None = None,
) -> Iterator[RowSource]:
    """Open a file; `-` is standard input.

    Parameters
    ----------
    step : seconds to resample to

    Raises
    ------
    BadData : it is empty, or not what it should be; while rows are read, one has another length
    """
    if str(path) == "-":
        blocks = read_blocks(standard_input.buffer)  # type: ignore[attr-defined]
        yield RowSource(read_table(blocks, options, "standard input"), options, live=True, step=step)
    else:
        with open_table(path, options, _follow if follow else None) as table:
            yield RowSource(table, options, live=follow or not path.is_file(), step=step)


def select_columns(
    source: RowSource,
    inputs: Sequence[str],
    label: str | None,
    *,
    columns: Sequence[str] = (),
    timed: bool = False,
    needs_times: str | None = None,
) -> tuple[Callable[[Row], list[float | None]], Callable[[Row], Any]]:
    """Functions that return the numbers of a row, and its label.

    Parameters
    ----------
    inputs : of the model, found by name; in order where the source has no names
    label : column that is copied to the predictions
    columns : columns to send in place of the inputs, in their order
    timed : rows have their times
    needs_times : model that needs times: without a label, their column is found from the first rows, and is
        the label

    Raises
    ------
    BadData : an input is missing, or no column of times is found
    """
    options = source.options
    if columns:
        names = dict(zip(columns, inputs, strict=False))
        swapped = [name for name, target in names.items() if name != target and name in inputs]
        if len(columns) != len(inputs) or swapped:
            raise BadData(
                f"--columns {','.join(columns)} does not fit: the model reads {listed(inputs)}. Columns with "
                "these names are found by name; map others: --map COLUMN=INPUT"
            )
        options = TableOptions(**{**vars(options), "names": {**names, **options.names}})
    if label is not None and options.time_column is None and timed:
        options = TableOptions(**{**vars(options), "time_column": options.names.get(label, label)})
    source.label = label
    label = None if label is None else options.names.get(label, label)
    timed = timed or source.step is not None
    reader = TableReader(source.table, options, inputs, label=label, gaps=True, timed=timed)
    if label is None and needs_times is not None:
        label = source.label = reader.find_time_column()
        if label is None:
            raise BadData(
                f"model {needs_times!r} needs the time of each row, and no column of times is found in "
                f"{source.table.source}; it has {listed(source.names)}. Name it with --time-column"
            )
        reader.label = label
        print(f"note: the times are those of column {label!r}", file=sys.stderr)
    if reader.ignored:
        print(
            f"note: not sent, because the model has no such input: {listed(reader.ignored)}", file=sys.stderr
        )
    source.reader = reader
    return (lambda row: row.values), (lambda row: row.label)


def _follow(path: Path, file: BufferedReader | BytesIO) -> Iterator[bytes]:
    """Blocks of a file as it grows, without end.

    Raises
    ------
    BadData : the file became shorter, or another file took its name
    """
    while True:
        if block := file.read1(BLOCK_BYTES):
            yield block
            continue
        here, there = os.fstat(file.fileno()), path.stat()
        if here.st_size < file.tell() or (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            raise BadData(
                f"{path} was cut or replaced while it was followed: start again to read the new rows"
            )
        time.sleep(POLL_SECONDS)
