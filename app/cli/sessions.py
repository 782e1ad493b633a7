"""`carryover sessions`: list, look at, reset, fork, delete, export and import those of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import SessionInfo

sessions = typer.Typer(
    help="Look at, back up and move the sessions of a running server.", no_args_is_help=True
)


@sessions.command("list", short_help="Every session, a line each.")
def list_(
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
    model: Annotated[
        str | None, typer.Option(help="Only sessions of this model.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print every session, in the order of their ids; with --json a JSON document a line."""
    with connect.client(url, key_file) as server:
        for told in server.sessions(model):
            print(json.dumps(told) if as_json else f"{told['session']}  {told['model']}")


@sessions.command(short_help="What the server knows of one.")
def show(
    session: connect.SessionId,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print a session's model, position, errors and times."""
    with connect.client(url, key_file) as server:
        _print(server.session(session).info(), as_json)


@sessions.command(short_help="Zero the carry; the position stays.")
def reset(
    session: connect.SessionId,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Let a session forget what it has seen; its position goes on."""
    with connect.client(url, key_file) as server:
        one = server.session(session)
        one.refresh()
        _print(one.reset(), as_json)


@sessions.command(short_help="A copy that goes its own way.")
def fork(
    session: connect.SessionId,
    into: Annotated[
        str | None, typer.Argument(help="Id of the copy. [default: drawn at random]", show_default=False)
    ] = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Make a new session with a copy of the carry."""
    with connect.client(url, key_file) as server:
        one = server.session(session)
        one.refresh()
        _print(one.fork(into).info(), as_json)


@sessions.command(short_help="Forget one for good.")
def delete(
    session: connect.SessionId, url: connect.Url = DEFAULT_URL, key_file: connect.KeyFile = None
) -> None:
    """Delete a session; the server remembers its last position for a while."""
    with connect.client(url, key_file) as server:
        server.session(session).delete()
    print(f"session {session} is deleted")


@sessions.command(short_help="Every session into a folder.")
def export(
    folder: Annotated[Path, typer.Argument(help="Where to; an interrupted export goes on in it.")],
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Write every session's state into a folder: a backup, or the first half of moving house."""
    from app.cli import session_backup

    with connect.client(url, key_file) as server:
        already = len(session_backup.read_session_list(folder))
        count = _counted(session_backup.export_sessions(server, folder), max(server.count() - already, 0))
    print(f"{count} sessions exported to {folder}" + (f", {already} were there" if already else ""))


@sessions.command("import", short_help="Every session of a folder into a server.")
def import_(
    folder: Annotated[Path, typer.Argument(help="What `carryover sessions export` wrote.", exists=True)],
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Put every exported session into a running server; one that is there is replaced."""
    from app.cli import session_backup

    with connect.client(url, key_file) as server:
        count = _counted(
            session_backup.imported(server, folder), len(session_backup.read_session_list(folder))
        )
    print(f"{count} sessions imported from {folder}")


@sessions.command(short_help="Check the file of a store.")
def check(
    file: Annotated[
        Path, typer.Argument(help="File of a sqlite: store that no server has open.", exists=True)
    ],
    as_json: options.Json = False,
) -> int:
    """Read every session of a store's file, and report lost commits and damage; the file is not changed.

    The exit status is 1 where sessions are damaged or missing, or commits were lost.
    """
    from app.stores.sqlite.check import check_file

    report = check_file(file)
    if as_json:
        print(json.dumps(asdict(report) | {"sound": report.is_sound}))
        return 0 if report.is_sound else 1
    print(f"{report.sessions} sessions: {report.readable} are sound", end="")
    print(f", {report.damaged} are damaged, {report.missing} cannot be found")
    if report.examples:
        print(f"damaged: {', '.join(report.examples)}" + (" and others" if report.damaged > 5 else ""))
    print(f"lost commits: {report.loss}" if report.loss else "no commits were lost")
    return 0 if report.is_sound else 1


def _counted(moved: Iterator[str], total: int) -> int:
    from app.cli.progress_bar import track

    return sum(1 for _ in track(moved, total, "sessions"))


def _print(info: SessionInfo, as_json: bool) -> None:
    told: dict[str, Any] = asdict(info)
    told |= told.pop("more")
    if as_json:
        print(json.dumps(told, default=str))
        return
    width = max(map(len, told))
    for name, value in told.items():
        if value is not None:
            print(f"{name.replace('_', ' '):{width}}  {value}")
