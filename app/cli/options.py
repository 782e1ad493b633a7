"""Options that several commands share, and functions that parse their text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from models.data.series import Series

MOST_NOTES = 5

Split = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VALIDATION,TEST",
        help="Sizes of the three parts, in the order of time: fractions of the rows, or numbers of rows.",
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Column of times; not an input. [default: the first column with times]"
    ),
]
TimeZone = Annotated[
    str | None,
    typer.Option(
        "--timezone",
        metavar="ZONE",
        help="Zone of times without an offset, such as Europe/Berlin. [default: UTC]",
    ),
]
NoTimes = Annotated[bool, typer.Option("--no-times", help="Leave out the column of times.")]
Ignore = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Columns that are not read, also not as times.", show_default=False),
]
SeriesColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of a long table that says to which series a row belongs. "
        "[default: `unique_id` beside `ds`, `item_id` beside `timestamp`]",
        show_default=False,
    ),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        metavar="COLUMN=NAME,...",
        help="Other names for columns of the file, such as those of the model's inputs.",
        show_default=False,
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        help="Character between the cells of a CSV, or `tab`. [default: found from the first rows]",
        show_default=False,
    ),
]
Decimal = Annotated[
    str | None,
    typer.Option(
        metavar="CHAR",
        help="Decimal mark of a CSV: a point or a comma. [default: that of the first number with one]",
        show_default=False,
    ),
]
Encoding = Annotated[
    str, typer.Option(metavar="NAME", help="Encoding of a text file, such as utf-16 or windows-1252.")
]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header",
        help="Whether the first row of a CSV has the names. [default: if no cell is a number or a time]",
        show_default=False,
    ),
]
DayFirst = Annotated[
    bool | None,
    typer.Option(
        "--day-first/--month-first",
        help="How to read dates such as 03/04/2024. [default: as an earlier row such as 31/12/2024 says]",
        show_default=False,
    ),
]
Resample = Annotated[
    str | None,
    typer.Option(
        metavar="STEP",
        help="Make one row for each step, such as 10min: the mean of its rows, or a gap. Needs times.",
        show_default=False,
    ),
]
Gaps = Annotated[
    bool,
    typer.Option(
        "--gaps",
        help="Treat empty cells (nan, null) as not observed: filled in for training, left out of errors.",
    ),
]
Name = Annotated[str | None, typer.Option(help="Name it is served under. [default: the folder's]")]
Score = Annotated[bool, typer.Option("--score", help="Add the surprise of each observation, from 0 to 1.")]
Level = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Add the interval of this level, such as 0.9.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Threads = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="CPU threads; more than 1 rarely helps a small network."),
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Input columns, in this order. [default: all except the times]"),
]


def print_help_without_command(context: typer.Context) -> None:
    """The callback of a group: without a command, its help is what was asked for."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def parse_names(text: str | None) -> tuple[str, ...]:
    """Comma-separated names; empty when absent."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def parse_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Comma-separated numbers; None when absent."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers separated by commas", param_hint=option
        ) from None


def parse_sizes(text: str | None, option: str) -> tuple[int, ...] | None:
    """Comma-separated whole numbers; None when absent."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in parse_names(text))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of whole numbers separated by commas", param_hint=option
        ) from None


def parse_units(text: str | None) -> dict[str, str]:
    """Units by column, from `NAME=UNIT,...`."""
    return parse_pairs(text, "--units", "NAME=UNIT")


def parse_pairs(text: str | None, option: str, form: str) -> dict[str, str]:
    """Comma-separated pairs with an equals sign in each; empty when absent."""
    pairs = [entry.partition("=") for entry in parse_names(text)]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter(f"{text!r} is not {form},...", param_hint=option)
    return {name.strip(): value.strip() for name, _, value in pairs}


def print_notes(notes: Iterable[str]) -> None:
    """Say on standard error what a user should know of a file."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def print_fleet_notes(fleet: Mapping[str, Series]) -> None:
    """The same of many series: the first of each, and of how many series there are more."""
    noted = [f"{name}: {note}" for name, series in fleet.items() for note in series.notes[:1]]
    more = len(noted) - MOST_NOTES
    print_notes([*noted[:MOST_NOTES], *([f"{more} more series with notes"] if more > 0 else [])])


def artifact_name(given: str | None, folder: Path) -> str:
    """The given name, or the name of the folder."""
    return given or folder.resolve().name


def warn(text: str, on_stderr: bool) -> None:
    """Print a warning, in red on a terminal."""
    from rich.console import Console

    console = Console(stderr=on_stderr, soft_wrap=True, highlight=False, markup=False)
    console.print(text, style="bold red")
