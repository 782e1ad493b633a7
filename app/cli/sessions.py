"""`carryover sessions`: list, export and import the sessions of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options

if TYPE_CHECKING:
    import httpx

sessions = typer.Typer(help="List, back up and move the sessions of a running server.", no_args_is_help=True)

Url = Annotated[str, typer.Option("--url", help="Where the server is.")]
HERE = "http://127.0.0.1:8000"


@sessions.command("list", short_help="Every session, a line each.")
def list_(
    url: Url = HERE,
    model: Annotated[
        str | None, typer.Option(help="Only sessions of this model.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print every session, in the order of their ids; with --json a JSON document a line."""
    from app import moving

    with _server(url) as server:
        for told in moving.listed(server, model=model):
            print(json.dumps(told) if as_json else f"{told['session']}  {told['model']}")


@sessions.command(short_help="Every session into a folder.")
def export(
    folder: Annotated[Path, typer.Argument(help="Where to; an interrupted export goes on in it.")],
    url: Url = HERE,
) -> None:
    """Write every session's state into a folder: a backup, or the first half of moving house."""
    from app import moving

    with _server(url) as server:
        already = len(moving.lines(folder))
        count = _shown(moving.exported(server, folder), moving.total(server) - already)
    print(f"{count} sessions exported to {folder}" + (f", {already} were there" if already else ""))


@sessions.command("import", short_help="Every session of a folder into a server.")
def import_(
    folder: Annotated[Path, typer.Argument(help="What `carryover sessions export` wrote.", exists=True)],
    url: Url = HERE,
) -> None:
    """Put every exported session into a running server; one that is there is replaced."""
    from app import moving

    with _server(url) as server:
        count = _shown(moving.imported(server, folder), len(moving.lines(folder)))
    print(f"{count} sessions imported from {folder}")


def _server(url: str) -> httpx.Client:
    import httpx

    return httpx.Client(base_url=url, timeout=30.0)


def _shown(moved: Iterator[str], total: int) -> int:
    """Run through them with a bar on stderr: how many, how fast, how much longer."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    count = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=max(total, 0))
        for _ in moved:
            count += 1
            progress.update(bar, advance=1, description=f"{progress.tasks[bar].speed or 0:,.0f} sessions/s")
    return count
