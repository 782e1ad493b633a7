"""A line on stderr while something long goes on: how much is done, how fast, how much longer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def rated(
    items: Iterable[T],
    total: int | None,
    what: str,
    weight: Callable[[T], int] = lambda _: 1,
    *,
    shown: bool = True,
) -> Iterator[T]:
    """The same items, counted as they pass; nothing is shown where stderr is no terminal.

    Parameters
    ----------
    total : of all weights; None where nobody knows
    what : is counted, for the line
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
            progress.update(task, advance=weight(item), description=f"{speed:,.0f} {what}/s")
