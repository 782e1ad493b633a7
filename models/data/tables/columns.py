"""Which columns of a table are read, by their names, and their rows as numbers and times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any

from models.arrays import Doubles, Times
from models.data.tables.numbers import NumberReader
from models.data.tables.options import TableOptions
from models.data.tables.pieces import Piece, Table, find_twice
from models.data.tables.times import TIME_NAME, TimeReader, epoch_unit, holds_times
from models.errors import BadData

MAX_SHOWN, MAX_NAME = 30, 60  # names in a message, and characters of each


@dataclass(frozen=True)
class Rows:
    """Some rows of the columns that are read.

    Attributes
    ----------
    first_row
        Number of the first, from 1.
    values
        [rows, columns], NaN where nothing was observed.
    times
        [rows] in UTC; None without times.
    labels
        [rows] cells of the column that is copied; None without one.
    """

    first_row: int
    values: Doubles
    times: Times | None
    labels: list[Any] | None


def rename(names: Sequence[str], new: Mapping[str, str], source: str) -> tuple[str, ...]:
    """The names of a table's columns with new names in place of some.

    Raises
    ------
    BadData
        There is no such column, or two columns would have one name.
    """
    for old in new:
        if old not in names:
            raise BadData(f"{source} has no column {old!r} to map; it has {listed(names)}")
    renamed = tuple(new.get(name, name) for name in names)
    if (twice := find_twice(renamed)) is not None:
        raise BadData(f"{source} would have two columns {twice!r}: --map gives that name again")
    return renamed


def listed(names: Sequence[str]) -> str:
    """Names as a message shows them."""
    more = f", and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(name[:MAX_NAME] for name in names[:MAX_SHOWN]) + more


def match_names(table: Table, wanted: Sequence[str], besides: Sequence[str] = ()) -> list[int]:
    """Where the inputs of a model are in a table: by name, or in order where the table has no names.

    Parameters
    ----------
    besides
        Columns that are not inputs: the times, a label.

    Raises
    ------
    BadData
        An input is missing. The message has both lists, and the option that maps one to the other.
    """
    names = table.names
    places = {name: index for index, name in enumerate(names)}
    missing = [name for name in wanted if name not in places]
    if not missing:
        return [places[name] for name in wanted]
    others = [name for name in names if name not in besides]
    if not table.has_names:
        if len(others) == len(wanted):
            return [places[name] for name in others]
        raise BadData(
            f"{table.source} has no header and {len(others)} columns; the model reads {len(wanted)}: "
            f"{listed(wanted)}"
        )
    known = set(wanted)
    free = [name[:MAX_NAME] for name in others if name not in known][:MAX_SHOWN]
    raise BadData(
        f"{table.source} has the columns {listed(names)}; the model reads {listed(wanted)}. "
        f"Nothing is fed by position. Say which column is which: {_suggestion(missing, free)}"
    )


def _suggestion(missing: Sequence[str], free: Sequence[str]) -> str:
    """The option that maps columns to the first missing inputs; `COLUMN` where none is alike."""
    pairs, left = [], list(free)
    for name in missing[:3]:
        old = next((each for each in left if _is_alike(each.lower(), name.lower())), None)
        if old is None and len(missing) == len(left) == 1:
            old = left[0]
        if old is not None:
            left.remove(old)
        pairs.append(f"{old or 'COLUMN'}={name}")
    return f"--map {','.join(pairs)}"


def _is_alike(name: str, other: str) -> bool:
    return name.startswith(other) or other.startswith(name) or bool(get_close_matches(name, [other]))


class TableReader:
    """Reads chosen columns of a table.

    Parameters
    ----------
    inputs
        Of a model, matched by `match_names`; None: every column that does not hold times.
    label
        Column whose cells are copied.
    gaps
        Whether cells may be gaps.
    timed
        Whether times are read where there are any.

    Attributes
    ----------
    names
        Of the columns of `Rows.values`; known at once with `inputs`, else when the first rows are read.
    ignored
        Columns that are not read.
    notes
        What a user should know.

    Raises
    ------
    BadData
        Columns are missing.
    """

    def __init__(
        self,
        table: Table,
        options: TableOptions,
        inputs: Sequence[str] | None = None,
        *,
        label: str | None = None,
        gaps: bool = False,
        timed: bool = True,
    ) -> None:
        self.table = Table(
            table.source,
            rename(table.names, options.names, table.source),
            table.pieces,
            table.has_names or bool(options.names),
            table.total,
        )
        self.options = options
        self.inputs = inputs
        self.label = label
        self.timed = timed and not options.no_times
        self.names: tuple[str, ...] = ()
        self.ignored: tuple[str, ...] = ()
        self.notes: list[str] = []
        self.time_column: str | None = None
        self._numbers = NumberReader(table.source, options.decimal, gaps=gaps)
        self._times: TimeReader | None = None
        self._indices: list[int] = []
        self._left_out = frozenset(options.ignored)
        self._first: Piece | None = None  # read already, to find the times
        for name in (options.time_column, label, *options.ignored):
            if name is not None and name not in self.table.names:
                raise BadData(f"{table.source} has no column {name!r}; it has {listed(self.table.names)}")
        if inputs is not None and self.table.has_names:
            self._choose(match_names(self.table, inputs))

    def find_time_column(self) -> str | None:
        """The column that times are read from; None if there is none. The first rows are read for it."""
        self._first = next(self.table.pieces, None)
        if self._first is not None:
            self._find_times(self._first)
        return self.time_column

    def rows(self) -> Iterator[Rows]:
        """The rows, as they come in."""
        pieces = self.table.pieces
        first = next(pieces, None) if self._first is None else self._first
        if first is None:
            return
        if self._times is None:
            self._find_times(first)
        if not self._indices:
            self._find_inputs(first)
        if not self._indices:
            raise BadData(f"{self.table.source} has no columns of numbers")
        label = None if self.label is None else self.table.names.index(self.label)
        time = (
            None
            if self._times is None or self.time_column is None
            else self.table.names.index(self.time_column)
        )
        for piece in chain([first], pieces):
            cells = [piece.cells[index] for index in self._indices]
            yield Rows(
                piece.first_row,
                self._numbers.read(cells, self.names, piece.first_row),
                None
                if self._times is None or time is None
                else self._times.read(piece.cells[time], piece.first_row),
                None if label is None else piece.cells[label].to_pylist(),
            )
        if self._times is not None:
            self._times.finish()

    def _choose(self, indices: Sequence[int]) -> None:
        names = self.table.names
        self._indices = list(indices)
        self.names = tuple(names[index] for index in indices) if self.inputs is None else tuple(self.inputs)
        used = {*indices, *(names.index(name) for name in (self.label, self.time_column) if name is not None)}
        self.ignored = tuple(name for index, name in enumerate(names) if index not in used)

    def _find_times(self, piece: Piece) -> None:
        name = self.options.time_column or self.label
        columns = dict(zip(self.table.names, piece.cells, strict=True))
        inputs = set(self.inputs or ())
        if self.options.time_column is None and (name is None or not self._is_time(name, columns[name])):
            name = next(
                (
                    each
                    for each, cells in columns.items()
                    if each not in inputs and each not in self._left_out and self._is_time(each, cells)
                ),
                None,
            )
        self.time_column = name
        if name is not None and self.timed:
            self._times = TimeReader(self.table.source, name, self.options)
            unit = epoch_unit(columns[name])
            if unit is not None and self.options.time_column is None:
                self.notes.append(f"column {name!r} is read as times in {unit} since 1970")
        if self._indices:
            self._choose(self._indices)

    def _is_time(self, name: str, cells: Any) -> bool:
        return holds_times(cells) or (TIME_NAME.fullmatch(name) is not None and epoch_unit(cells) is not None)

    def _find_inputs(self, piece: Piece) -> None:
        names, columns = self.table.names, piece.cells
        if self.inputs is not None:
            besides = [name for name in (self.time_column, self.label, *self._left_out) if name is not None]
            self._choose(match_names(self.table, self.inputs, besides))
            return
        others = [
            name
            for name, cells in zip(names, columns, strict=True)
            if name not in {self.time_column, self.options.time_column, self.label, *self._left_out}
            and self._is_time(name, cells)
        ]
        if others:
            self.notes.append(f"{listed(others)}: times too, and not read")
        left = {*others, self.time_column, self.label, *self._left_out}
        self._choose([index for index, name in enumerate(names) if name not in left])
