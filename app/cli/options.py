"""Options that several commands share, and how their text is read."""

from pathlib import Path
from typing import Annotated

import typer

Split = Annotated[
    str | None,
    typer.Option(
        metavar="TRAIN,VALIDATION,TEST",
        help="Parts in the order of time: fractions of the rows, or numbers of rows.",
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Column of times, not learnt from. [default: the first one of times]"),
]
Gaps = Annotated[
    bool,
    typer.Option(
        "--gaps", help="Take empty cells (nan, null) as not observed: filled to learn from, never judged by."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document in place of the text.")]
Threads = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="CPU threads; more rarely help a network this small."),
]
Columns = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Input columns, in this order. [default: all but the times]"),
]


def parse_names(text: str | None) -> tuple[str, ...]:
    """Comma-separated names; none when absent."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


def parse_numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    """Comma-separated numbers; None when absent."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers with commas", param_hint=option
        ) from None


def parse_units(text: str | None, option: str = "--units") -> dict[str, str]:
    """`NAME=UNIT,...` by name."""
    pairs = [entry.partition("=") for entry in parse_names(text)]
    if not all(name and equals for name, equals, _ in pairs):
        raise typer.BadParameter(f"{text!r} is not NAME=UNIT,...", param_hint=option)
    return {name.strip(): unit.strip() for name, _, unit in pairs}


def artifact_name(given: str | None, folder: Path) -> str:
    """The name given, or that of the folder."""
    return given or folder.resolve().name
