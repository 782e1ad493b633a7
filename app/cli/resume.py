"""Where `carryover stream` begins: with new rows, or with --resume behind the rows that were applied."""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from app.cli.row_reader import Row, place_of, time_of
from models.errors import BadData
from models.wording import counted

if TYPE_CHECKING:
    from carryover import Answer

    from app.cli.prediction_writer import Layout, Written

MAX_CHECKED = 1_000_000  # rows whose times are kept to find irregular steps


@dataclass(frozen=True)
class Beginning:
    """How a stream begins.

    start : position of the session when row 0 of the rows that are streamed was sent, or will be
    after : position of the last prediction that --out has; None: of the last observation that was applied
    after_time : rows up to this time are skipped, seconds since 1970; None: by count
    resumed : rows may have been applied already
    """

    start: int
    after: int | None = None
    after_time: float | None = None
    resumed: bool = False

    def skipped(self, position: int) -> int:
        """Rows of the source that are skipped by their count.

        Parameters
        ----------
        position : of the session
        """
        return (position if self.after is None else self.after) - self.start


class Marker:
    """The file `OUT.resume`: where a source began in a session, until it ends.

    It is written before the first row is sent, so that --resume knows the position even if no prediction has
    been written yet.
    """

    def __init__(self, out: Path, session: str) -> None:
        self._path = out.with_name(out.name + ".resume")
        self._session = session

    def write(self, start: int) -> None:
        """Write the position, durably."""
        part = self._path.with_name(self._path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump({"session": self._session, "start": start}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def read(self) -> int | None:
        """The position; None if there is no marker.

        Raises
        ------
        BadData : it is of another session, or no marker
        """
        try:
            noted = json.loads(self._path.read_text(encoding="utf-8"))
            session, start = noted["session"], int(noted["start"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise BadData(f"{self._path} does not say where a stream began: give --began-at") from None
        if session != self._session:
            raise BadData(f"{self._path} is of session {session!r}: choose another --out")
        return start

    def remove(self) -> None:
        """Remove the file: the source has ended."""
        self._path.unlink(missing_ok=True)


class Output:
    """Where predictions go, standard output or a file, and what is there from an earlier run.

    Parameters
    ----------
    path : the file; None is standard output

    Raises
    ------
    BadData : the file has something else
    """

    def __init__(self, layout: Layout, path: Path | None, session: str) -> None:
        self._layout, self._path = layout, path
        self._written = None if path is None else layout.read_written(path)
        # There is nothing to resume in a pipe or a device, such as /dev/stdout.
        is_kept = path is not None and (path.is_file() or not path.exists())
        self._marker = Marker(path, session) if path is not None and is_kept else None
        self._file: IO[str] = sys.stdout
        self._begun = False  # whether the header is written

    def new_rows(self, position: int) -> Beginning:
        """Begin with new rows, at the position of the session.

        Raises
        ------
        BadData : the file has predictions
        """
        if self._written is not None:
            raise BadData(
                f"{self._path} has predictions already: choose another --out for new rows, or go on with the "
                "same source with --resume"
            )
        return Beginning(position)

    def go_on(self, position: int, time: datetime | None, began_at: int | None) -> Beginning:
        """Go on behind the last prediction that was written, or the last row that was applied.

        Parameters
        ----------
        time : of the session's last observation, if the session knows it
        began_at : position of the session when the source began, if the user knows it

        Raises
        ------
        BadData : the file is ahead of the session
        """
        written = self._written
        if written is not None and written.last > position:
            raise BadData(
                f"the predictions in {self._path} go to position {written.last}, but the session is at "
                f"{position}: it did not make them, or it has lost observations"
            )
        noted = None if self._marker is None else self._marker.read()
        goal = None if written is None else written.last
        last_time = None
        if self._layout.label is not None and began_at is None and (written is not None or noted is None):
            last_time = _last_time(time, written, position)
        if last_time is not None:
            return Beginning(position if goal is None else goal, goal, last_time, resumed=True)
        first = 0 if written is None else written.first - 1
        start = next(known for known in (began_at, noted, first) if known is not None)
        if goal is None and noted is not None:
            goal = start  # the first answers were lost: the server repeats them
        return Beginning(start, goal, resumed=True)

    @contextmanager
    def open(self, beginning: Beginning, *, resume: bool) -> Iterator[None]:
        """Open the file, and note where the source began before its first row is sent."""
        if self._path is None:
            yield  # the header waits for the first answer: a stream that is refused writes nothing
            return
        with self._path.open("a" if resume else "w", encoding="utf-8") as self._file:
            if not self._path.stat().st_size:
                self._layout.write_header(self._file)
                self._file.flush()
            self._begun = True
            if beginning.after_time is None and self._marker is not None:
                self._marker.write(beginning.start)
            yield

    def write(self, answer: Answer, labels: Sequence[Any]) -> None:
        """Write the predictions of a chunk."""
        self._begin()
        self._layout.write(self._file, answer, labels)

    def finish(self) -> None:
        """Forget where the source began: it has ended."""
        self._begin()
        if self._marker is not None:
            self._marker.remove()

    def _begin(self) -> None:
        if not self._begun:
            self._layout.write_header(self._file)
            self._begun = True


class PulledRows:
    """The rows of a source as numbers; their labels wait until their answers come.

    Parameters
    ----------
    source : as messages name it
    observation, label : the numbers of a row, and its label
    timed : the times of the rows are sent, too
    checked : refuse times that go back, as far as they are times, and note them, to say which steps are
        irregular
    """

    def __init__(
        self,
        source: str,
        rows: Iterator[Row],
        observation: Callable[[Any], Any],
        label: Callable[[Any], Any],
        *,
        timed: bool,
        checked: bool = False,
    ) -> None:
        self._source = source
        self._rows, self._observation, self._label, self._timed = rows, observation, label, timed
        self._is_checked, self._seen = checked, array("d")
        self._labels: deque[Any] = deque()
        self._times: deque[float] = deque()
        self._first: int | None = None  # number of the first row; None where rows are made of several
        self._dropped = 0  # labels of earlier rows
        self._dropped_last: Any = None
        self._last: tuple[float, Any] | None = None  # time and label of the row before

    def __iter__(self) -> Iterator[Any]:
        for index, row in enumerate(self._rows):
            if index == 0:
                self._first = row.number
            if self._is_checked:
                self._check(row)
            self._labels.append(self._label(row))
            if self._timed:
                self._times.append(required_time(time_of(row)))
            yield self._observation(row)

    def describe_irregular(self) -> str | None:
        """The irregular steps between the rows that were read; None if there are none, or no times."""
        import numpy as np

        from models.data.series import describe_irregular

        return describe_irregular(np.rint(np.array(self._seen) * 1e6).astype("datetime64[us]"))

    def _check(self, row: Row) -> None:
        from models.data.resampling import order_error

        seconds = parse_time(time_of(row))
        self._is_checked = seconds is not None
        if seconds is None:
            return
        if self._last is not None and seconds < self._last[0]:
            before, label = self._last
            raise order_error(place_of(self._source, row.number, None), row.label, label, before - seconds)
        self._last = seconds, row.label
        if len(self._seen) < MAX_CHECKED:
            self._seen.append(seconds)

    def timestamps(self) -> Iterator[float]:
        """The times of the rows that were read."""
        while self._times:
            yield self._times.popleft()

    def labels_of(self, answer: Answer, start: int) -> list[Any]:
        """The labels of an answer's rows.

        Parameters
        ----------
        start : position of the session before the first row
        """
        first = answer.position - len(answer) - start
        while self._dropped < first:  # rows that were applied before have no answer
            self._dropped_last = self._labels.popleft()
            self._dropped += 1
        self._dropped += len(answer)
        labels = [self._labels.popleft() for _ in range(len(answer))]
        self._dropped_last = labels[-1]
        return labels

    def place(self, row: int) -> str:
        """Where a row is in the source, as messages say it.

        Parameters
        ----------
        row : of those that were pulled, from 0; it has no answer yet
        """
        return place_of(self._source, None if self._first is None else self._first + row, self.label(row))

    def label(self, row: int) -> Any:
        """The label of a row that has no answer yet, or of the last one that has; None of another."""
        index = row - self._dropped
        if index == -1:
            return self._dropped_last
        return self._labels[index] if 0 <= index < len(self._labels) else None


def rows_after(
    rows: Iterator[Row], time_of: Callable[[Row], Any], last: float, say: Callable[[str], None]
) -> Iterator[Row]:
    """Skip the first rows up to a time, and say how many they were.

    Raises
    ------
    BadData : several rows have this time, a row has no time, or times go back
    """
    skipped = same = 0
    begun = False
    for row in rows:
        seconds = required_time(time_of(row))
        if seconds > last:
            if not begun:
                say(_skipped_text(skipped, last))
            begun = True
            yield row
            continue
        if begun:
            raise BadData(
                f"the rows are not in order of time: row {row.number} has {row.label}, which is not after "
                f"{_text(last)}; sort the rows by time"
            )
        skipped, same = skipped + 1, same + (seconds == last)
        if same > 1:
            raise BadData(
                f"several rows have the time {_text(last)} of the last one that was applied, so it cannot be "
                "decided which of them were applied"
            )
    if not begun:
        say(_skipped_text(skipped, last))


def parse_time(cell: Any) -> float | None:
    """Seconds since 1970 of a time; None of something else. A time without a zone is UTC."""
    if isinstance(cell, datetime):
        return (cell if cell.tzinfo else cell.replace(tzinfo=UTC)).timestamp()
    try:
        return float(cell)
    except (TypeError, ValueError):
        pass
    try:
        return parse_time(datetime.fromisoformat(cell))
    except (TypeError, ValueError):
        return None


def required_time(cell: Any) -> float:
    """Seconds since 1970 of a time.

    Raises
    ------
    BadData : it is none
    """
    seconds = parse_time(cell)
    if seconds is None:
        raise BadData(f"the column of times has {cell!r}, which is not in ISO 8601 nor in seconds since 1970")
    return seconds


def _last_time(time: datetime | None, written: Written | None, position: int) -> float | None:
    if written is not None:
        known = parse_time(written.label)
        if known is not None or written.last < position:
            return known
    return None if time is None else time.timestamp()


def _skipped_text(count: int, last: float) -> str:
    return f"skipping {counted(count, 'row')} at or before {_text(last)}: applied before"


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
