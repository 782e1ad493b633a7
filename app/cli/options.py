"""Options that several commands share, and functions that parse their text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from models.data.readers import TimeOptions

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
        metavar="ZONE", help="Zone of times without an offset, such as Europe/Berlin. [default: UTC]"
    ),
]
NoTimes = Annotated[bool, typer.Option("--no-times", help="Leave out the column of times.")]
Gaps = Annotated[
    bool,
    typer.Option(
        "--gaps",
        help="Treat empty cells (nan, null) as not observed: filled in for training, left out of errors.",
    ),
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


def time_options(column: str | None, zone: str | None, ignored: bool) -> TimeOptions:
    """How the times of a file are read."""
    from models.data.readers import TimeOptions

    return TimeOptions(column, zone, ignored)


def artifact_name(given: str | None, folder: Path) -> str:
    """The given name, or the name of the folder."""
    return given or folder.resolve().name
