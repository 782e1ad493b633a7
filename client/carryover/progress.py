"""A progress bar on stderr, by rich or tqdm if one of them is installed, else a line that is written over.

Nothing is shown in a pipe or a file: a bar that is written over is of no use there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Protocol

SECONDS = 0.5
"""Between two lines without a library."""


class Bar(Protocol):
    """Counts observations."""

    def advance(self, count: int) -> None:
        """Add to the count."""

    def close(self) -> None:
        """Leave the bar as it is."""


def open_bar(total: int | None) -> Bar:
    """Show a bar, if stderr is a terminal or a notebook.

    Parameters
    ----------
    total : number of observations; None if it is not known
    """
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        return _NoBar()
    for make in (_rich, _tqdm):
        try:
            return make(total)
        except ImportError:
            continue
    return PlainBar(total)


class PlainBar:
    """One line on stderr, at most twice a second."""

    def __init__(self, total: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._count, self._shown = 0, clock()

    def advance(self, count: int) -> None:
        """Add to the count."""
        self._count += count
        if self._clock() - self._shown >= SECONDS:
            self._shown = self._clock()
            self._show("\r")

    def close(self) -> None:
        """Write the last count, and end the line."""
        self._show("\n")

    def _show(self, end: str) -> None:
        of = "" if self._total is None else f" of {self._total:,}"
        print(f"{self._count:,}{of} observations", end=end, file=sys.stderr, flush=True)


class _NoBar:
    def advance(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


class _RichBar:
    def __init__(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("observations"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("", total=total)
        self._progress.start()

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def close(self) -> None:
        self._progress.stop()


class _TqdmBar:
    def __init__(self, total: int | None) -> None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

        self._bar = tqdm(total=total, unit=" observations")

    def advance(self, count: int) -> None:
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


def _rich(total: int | None) -> Bar:
    return _RichBar(total)


def _tqdm(total: int | None) -> Bar:
    return _TqdmBar(total)
