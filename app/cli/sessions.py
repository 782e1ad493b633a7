"""`carryover sessions`: list, show, reset, fork, delete, export and import sessions of a running server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL
from app.cli.fields import print_fields
from models.wording import counted

if TYPE_CHECKING:
    from carryover import Carryover, SessionInfo

TABLE_HEAD = ("SESSION", "MODEL", "POSITION", "SKILL", "SURPRISE", "LAST SEEN (UTC)")
ALIGNMENTS = "<<>>><"
TABLE_SAMPLE = 100  # sessions whose texts set the widths: one page of the server's

sessions = typer.Typer(help="List, change, back up and move the sessions of a running server.")
sessions.callback(invoke_without_command=True)(options.print_help_without_command)


@sessions.command("list", short_help="List all sessions.")
def list_(
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
    model: Annotated[
        str | None, typer.Option(help="Only sessions of this model.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Only sessions with this label, such as site=north; all of several."),
    ] = None,
    order: Annotated[
        Literal["name", "last_seen", "error", "surprise"],
        typer.Option(
            help="By id, by when they were last seen, by their error relative to that of repeating the last "
            "observation, or by the surprise of the last observation. Of the last three, the greatest first."
        ),
    ] = "name",
    ascending: Annotated[
        bool | None,
        typer.Option(
            "--ascending/--descending", help="The smallest, or the greatest, first.", show_default=False
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Print a table of the sessions; with --json each line is a JSON document.

    In another order than by id, sessions that the server does not have in memory come last.
    """
    labels = _labels(label or ())
    descending = order != "name" if ascending is None else not ascending
    with connect.client(url, key_file) as server:
        if as_json:
            for entry in server.sessions(model, labels=labels, order=order, descending=descending):
                print(json.dumps(entry))
            return
        found = server.sessions(model, detail=True, labels=labels, order=order, descending=descending)
        _print_table(found)


@sessions.command(short_help="Show a session.")
def show(
    session: connect.SessionId,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print a session's model, position, errors and times."""
    with connect.client(url, key_file) as server:
        _print(server.session(session).info(), as_json, server)


@sessions.command(short_help="Change the labels of a session.")
def label(
    session: connect.SessionId,
    labels: Annotated[
        list[str], typer.Argument(help="Labels to set, such as site=north; `site=` removes a label.")
    ],
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Set labels of a session. Its other labels stay, and it does not move."""
    changes = {name: value or None for name, value in _labels(labels).items()}
    with connect.client(url, key_file) as server:
        _print(server.session(session).set_labels(changes), as_json, server)


@sessions.command(short_help="Reset a session: zero its carry.")
def reset(
    session: connect.SessionId,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Set the carry of a session to zero. Its position stays."""
    with connect.client(url, key_file) as server:
        chosen = server.session(session)
        chosen.refresh()
        _print(chosen.reset(), as_json, server)


@sessions.command(short_help="Make a copy of a session.")
def fork(
    session: connect.SessionId,
    into: Annotated[
        str | None,
        typer.Argument(
            help="Id of the copy. [default: random]", show_default=False, callback=connect.check_id
        ),
    ] = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Make a new session with a copy of the carry and the position."""
    with connect.client(url, key_file) as server:
        original = server.session(session)
        original.refresh()
        _print(original.fork(into).info(), as_json, server)


@sessions.command(short_help="Delete a session.")
def delete(
    session: connect.SessionId, url: connect.Url = DEFAULT_URL, key_file: connect.KeyFile = None
) -> None:
    """Delete a session. The server remembers its last position for a while."""
    with connect.client(url, key_file) as server:
        server.session(session).delete()
    print(f"session {session} is deleted")


@sessions.command(short_help="Export all sessions to a folder.")
def export(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder for the backup. What it has already is refreshed.", show_default=False),
    ],
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove sessions from the folder that the server no longer has.")
    ] = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> int:
    """Write the state of every session to a folder: a backup, or a way to move them to another server.

    A second export into the same folder writes the sessions that have changed since, and goes on after an
    interruption. A session that the server no longer has stays in the folder, except with --prune. A session
    that is damaged on the server is named, and the exit status is 1; what the folder has of it stays.
    """
    from app.cli import session_backup

    counts = session_backup.ExportCounts()
    with connect.client(url, key_file) as server:
        _count(session_backup.export_sessions(server, folder, counts, prune=prune), server.count())
    print(f"{counted(counts.written, 'session')} exported to {folder}, {counts.unchanged} unchanged", end="")
    if counts.removed:
        print(f", {counts.removed} removed that the server no longer has", end="")
    if counts.kept:
        print(f", {counts.kept} kept that the server no longer has (--prune removes them)", end="")
    print()
    for session, why in counts.unreadable.items():
        print(f"carryover: {session} was not exported: {why}", file=sys.stderr)
    return 1 if counts.unreadable else 0


@sessions.command("import", short_help="Import all sessions of a folder.")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="Folder that `carryover sessions export` wrote.", exists=True)
    ],
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Import every exported session into a running server. A session with the same id is replaced.

    After an interruption, the same command imports the sessions that are still missing.
    """
    from app.cli import session_backup

    session_backup.check_backup(folder)
    with connect.client(url, key_file) as server:
        count = _count(
            session_backup.import_sessions(server, folder), len(session_backup.read_session_list(folder))
        )
    print(f"{counted(count, 'session')} imported from {folder}")


@sessions.command(short_help="Check the file of a store.")
def check(
    file: Annotated[Path, typer.Argument(help="File of a sqlite: store that no server has open.")],
    as_json: options.Json = False,
) -> int:
    """Read every session of a store's file, and report lost commits and damage; the file is not changed.

    The exit status is 1 where sessions are damaged or missing, or commits were lost.
    """
    from app.stores.sqlite.check import check_file
    from app.workers.store_files import stored_workers, worker_path

    workers = stored_workers(file)
    if workers is None:
        raise typer.BadParameter(f"path '{file}' does not exist.", param_hint="'file'")
    if workers > 1:
        raise typer.BadParameter(
            f"the sessions of {file} belong to {workers} workers, each with a file of its own: check each, "
            f"such as {worker_path(file, 0, workers)}",
            param_hint="'file'",
        )
    report = check_file(file)
    if as_json:
        print(json.dumps(asdict(report) | {"sound": report.is_sound}))
        return 0 if report.is_sound else 1
    print(f"{counted(report.sessions, 'session')}: {report.readable} sound", end="")
    print(f", {report.damaged} damaged, {report.missing} not found")
    if report.examples:
        print(f"damaged: {', '.join(report.examples)}" + (" and others" if report.damaged > 5 else ""))
    print(f"lost commits: {report.loss}" if report.loss else "no commits were lost")
    return 0 if report.is_sound else 1


@sessions.command(short_help="Divide a store's sessions among workers.")
def divide(
    file: Annotated[Path, typer.Argument(help="File of a sqlite: store that no server has open.")],
    workers: Annotated[int, typer.Argument(min=1, max=64, help="As `carryover serve --workers`.")],
) -> None:
    """Divide the sessions of a store on disk among another number of workers.

    Each worker has a file of its own. The old files are removed once the new ones are complete.
    """
    from app.workers.store_files import divide, worker_paths

    count = sum(divide(file, workers))
    names = ", ".join(path.name for path in worker_paths(file, workers))
    print(f"{counted(count, 'session')} divided among {counted(workers, 'worker')}: {names}")


def _labels(given: Iterable[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"a label is name=value, such as site=north, not {text!r}")
        labels[name] = value
    return labels


def _count(sessions: Iterator[str], total: int) -> int:
    from app.cli.progress_bar import track

    return sum(1 for _ in track(sessions, total, "sessions"))


def _print_table(entries: Iterator[dict[str, Any]]) -> None:
    """Print rows as they come; the first of them set the widths of the columns."""
    rows = (_table_row(entry) for entry in entries)
    first = list(islice(rows, TABLE_SAMPLE))
    if not first:
        print("there are no sessions", file=sys.stderr)
        return
    widths = [max(map(len, column)) for column in zip(TABLE_HEAD, *first, strict=True)]
    for row in chain([TABLE_HEAD], first, rows):
        texts = zip(row, widths, ALIGNMENTS, strict=True)
        print("  ".join(f"{text:{side}{width}}" for text, width, side in texts).rstrip())


def _table_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """A session that has just left, or is damaged, has only its name and its model."""
    seen = str(entry.get("updated") or "").partition(".")[0].removesuffix("Z").replace("T", " ")
    errors = entry.get("errors") or {}
    skill, surprise = (_decimals(number) for number in (errors.get("skill"), entry.get("surprise")))
    return entry["session"], entry["model"], str(entry.get("position", "-")), skill, surprise, seen or "-"


def _decimals(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _print(info: SessionInfo, as_json: bool, server: Carryover) -> None:
    fields: dict[str, Any] = asdict(info)
    fields |= fields.pop("more")
    if as_json:
        print(json.dumps(fields, default=str))
        return
    if fields.get("errors"):
        fields["errors"] = _by_name(fields["errors"], info.model, server)
    print_fields(fields)


def _by_name(errors: Mapping[str, Any], model: str, server: Carryover) -> dict[str, Any]:
    """The errors of a session with the names of the targets; with numbers if the model is gone by now."""
    targets = next((known.targets for known in server.models() if known.name == model), ())
    if len(targets) != len(errors["by_target"]):
        return dict(errors)
    return {**errors, "by_target": dict(zip(targets, errors["by_target"], strict=True))}
