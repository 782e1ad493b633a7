"""`carryover keys`: make, list and remove the API keys of a server."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options
from models.wording import counted

if TYPE_CHECKING:
    from app.access.keys import Key

keys = typer.Typer(help="Make, list and remove the API keys of a server.")
keys.callback(invoke_without_command=True)(options.print_help_without_command)

VARIABLE = "CARRYOVER_API_KEYS_FILE"
File = Annotated[
    Path | None,
    typer.Option("--file", help=f"File of the keys. [default: the setting {VARIABLE}]", show_default=False),
]


class Roles(StrEnum):
    """What a key may do."""

    monitor = "monitor"
    read = "read"
    stream = "stream"
    admin = "admin"


@keys.command(short_help="Make a key; its token is printed once.")
def add(
    name: Annotated[str, typer.Argument(help="Name of the key in lists and logs.", show_default=False)],
    role: Annotated[
        Roles,
        typer.Option(
            help="monitor: /metrics only; read: no changes; stream: all except reloading models; admin: all."
        ),
    ] = Roles.stream,
    tenant: Annotated[
        str | None,
        typer.Option(
            help="Tenant whose sessions the key may use: 1 to 64 characters of A-Z a-z 0-9 . _ - "
            "[default: the name]",
            show_default=False,
        ),
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(help="Most sessions of the tenant.", show_default=False)
    ] = None,
    observations_per_second: Annotated[
        float | None, typer.Option(help="Most observations per second.", show_default=False)
    ] = None,
    body_bytes: Annotated[
        int | None, typer.Option(help="Most bytes in one request body.", show_default=False)
    ] = None,
    chunk_observations: Annotated[
        int | None, typer.Option(help="Most observations in one chunk.", show_default=False)
    ] = None,
    sockets: Annotated[int | None, typer.Option(help="Most open sockets.", show_default=False)] = None,
    in_flight: Annotated[
        int | None, typer.Option(help="Most unanswered requests.", show_default=False)
    ] = None,
    file: File = None,
) -> None:
    """Make a key and print its token. The file keeps only its SHA-256: a lost token cannot be shown again.

    A running server accepts the key within a second.

    For example: carryover keys add pump-house --file keys.json --observations-per-second 1000
    """
    import msgspec

    from app.access.keys import generate_key, write
    from app.access.quotas import Quota

    limits = {
        "sessions": sessions,
        "observations_per_second": observations_per_second,
        "body_bytes": body_bytes,
        "chunk_observations": chunk_observations,
        "sockets": sockets,
        "in_flight": in_flight,
    }
    path, known = _read_keys(file, missing_is_empty=True)
    if any(key.name == name for key in known):
        raise typer.BadParameter(
            f"a key named {name!r} exists already; remove it first, or choose another name"
        )
    try:
        quota = msgspec.convert(limits, Quota)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(str(error)) from None
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    key, token = generate_key(name, tenant, role.value, now, quota)
    write(path, [*known, key])
    print(token)
    typer.echo(f"{path}: {counted(len(known) + 1, 'key')}. The token is not shown again.", err=True)


@keys.command("list", short_help="List the keys.")
def list_(file: File = None, as_json: options.Json = False) -> None:
    """Print name, role, tenant and limits of every key."""
    import msgspec

    _, known = _read_keys(file)
    for key in known:
        limits = msgspec.to_builtins(key.limits)
        if as_json:
            entry = {"name": key.name, "role": key.role, "tenant": key.tenant, "created": key.created}
            print(json.dumps(entry | {"limits": limits}))
        else:
            shown = " ".join(f"{name}={value:g}" for name, value in limits.items())
            print(f"{key.name}  {key.role}  tenant={key.tenant}  {key.created}  {shown}".rstrip())


@keys.command(short_help="Remove a key.")
def remove(
    name: Annotated[str, typer.Argument(help="Name of the key.", show_default=False)], file: File = None
) -> None:
    """Remove a key. A running server closes its connections within a second. Its sessions stay."""
    from app.access.keys import write

    path, known = _read_keys(file)
    remaining = [key for key in known if key.name != name]
    if len(remaining) == len(known):
        raise typer.BadParameter(f"there is no key {name!r} in {path}")
    write(path, remaining)
    print(f"{path}: {counted(len(remaining), 'key')}")


def _read_keys(file: Path | None, missing_is_empty: bool = False) -> tuple[Path, list[Key]]:
    from app.access.keys import read

    configured = os.environ.get(VARIABLE)
    path = file or (Path(configured).expanduser() if configured else None)
    if path is None:
        raise typer.BadParameter(f"name the file of the keys: --file, or {VARIABLE}")
    if missing_is_empty and not path.exists():
        return path, []
    return path, read(path)
