"""Tables that commands print."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence


def print_rows(title: str, headings: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a table: a heading for each column of cells, and a row of cells by name."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def format_number(value: float | None) -> str:
    """Four digits; a dash for what could not be measured."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.4g}"
