"""A progress bar on stderr: how much is done, how fast, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(
    items: Iterable[T],
    total: int | None,
    unit: str,
    weight: Callable[[T], int] = lambda _: 1,
    *,
    shown: bool = True,
) -> Iterator[T]:
    """Yield the same items and count them; nothing is shown if stderr is not a terminal.

    Parameters
    ----------
    total : sum of all weights; None if it is unknown
    unit : what is counted, for the text
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = (BarColumn(bar_width=24),) if total is not None else ()
    columns = (MofNCompleteColumn(), *bar, TextColumn("{task.description}"), TimeRemainingColumn())
    hidden = not (shown and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=hidden) as progress:
        task = progress.add_task("", total=total)
        for item in items:
            yield item
            speed = progress.tasks[task].speed or 0.0
            progress.update(task, advance=weight(item), description=f"{speed:,.0f} {unit}/s")
