"""`carryover events`: print the alerts of a server's sessions as they come."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import Event


def events(
    count: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="End after so many events.", show_default=False),
    ] = None,
    remembered: Annotated[
        bool, typer.Option("--remembered", help="Begin with the events that the server remembers.")
    ] = False,
    last_event_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Go on behind this event: `id` of the --json.", show_default=False),
    ] = None,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Print each alert of any session when it is raised and when it is over, until Ctrl-C.

    A lost connection is opened again, and no event that the server remembers is left out or printed twice.
    With --json each line is the event as the server sends it.

    For example: carryover events --json --count 1
    """
    from carryover.events import ALL_REMEMBERED

    if remembered and last_event_id is not None:
        raise typer.BadParameter("it goes without --remembered", param_hint="--last-event-id")
    behind = ALL_REMEMBERED if remembered else last_event_id
    # Ctrl-C is how a reader of an endless stream ends it.
    with (
        connect.client(url, key_file, connect.PATIENCE_SECONDS) as service,
        suppress(KeyboardInterrupt),
        closing(service.events(behind)) as found,
    ):
        for event in islice(found, count):
            print(json.dumps(event.raw) if as_json else _as_text(event), flush=True)


def _as_text(event: Event) -> str:
    tenant = event.raw.get("tenant")
    session = event.session if tenant is None else f"{tenant}/{event.session}"
    cause = f": {event.cause}" if event.cause else ""
    return f"{event.time:%Y-%m-%d %H:%M:%S}Z  {event.kind:5}  {session} at {event.position}{cause}"
