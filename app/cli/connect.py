"""The client of the commands that talk to a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from carryover import Carryover

DEFAULT_URL = "http://127.0.0.1:8000"
Url = Annotated[str, typer.Option("--url", envvar="CARRYOVER_URL", help="Address of the server.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="CARRYOVER_KEY_FILE",
        help="File with the API key's token. (On the command line, other users could read the token.)",
        show_default=False,
    ),
]


def check_id(given: str | None) -> str | None:
    """The callback of an option or argument that is a session's id.

    Raises
    ------
    BadParameter : it is empty, as an unset variable of a shell is
    """
    if given == "":
        raise typer.BadParameter("the session's id is empty: give it one, such as pump-7")
    return given


SessionId = Annotated[str, typer.Argument(help="Id of the session.", show_default=False, callback=check_id)]
NewModel = Annotated[
    str | None,
    typer.Option(
        help="Model of a session that does not exist yet. One that runs another model is refused.",
        show_default=False,
    ),
]
PATIENCE_SECONDS = 300.0  # for which a command that streams retries while the server does not answer


def client(url: str, key_file: Path | None, patience: float = 0.0) -> Carryover:
    """A client of the server.

    Parameters
    ----------
    patience : for how many seconds to retry while the server does not answer
    """
    from carryover import Carryover
    from carryover.connection import read_key

    try:
        key = "" if key_file is None else read_key(key_file, str(key_file))
    except ValueError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise typer.BadParameter(str(error), param_hint="--key-file") from None
    try:
        return Carryover(url, key=key, retry=patience)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
