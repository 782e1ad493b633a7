"""`carryover serve`: the server, until it is told to stop."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from app.config import Settings, describe_settings


def _settings_table() -> str:
    """Every setting with its default, for `--help`."""
    width = max(len(one.variable) for one in describe_settings())
    lines = [f"{one.variable:{width}}  {one.about} [{one.default}]" for one in describe_settings()]
    return "\b\nEvery setting is an environment variable; an option above wins over it:\n\n\b\n" + "\n".join(
        lines
    )


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default=False)] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve beyond this machine without keys.", show_default=False)
    ] = False,
    models: Annotated[
        list[Path] | None,
        typer.Option(help="An artifact or a folder of artifacts; may be repeated.", show_default=False),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Start though the store's file has lost commits; see `carryover sessions check`.",
            show_default=False,
        ),
    ] = False,
    workers: Annotated[
        int, typer.Option(help="Replicas on this machine, each on a core, over one redis:// store.", min=1)
    ] = 1,
) -> int:
    """Serve trained models until SIGTERM or Ctrl-C; what was accepted is answered first."""
    environment = dict(os.environ) | ({"CARRYOVER_INSECURE": "true"} if insecure else {})
    if host is not None:
        environment["CARRYOVER_HOST"] = host
    settings = Settings.from_env(environment)
    given: dict[str, Any] = {"port": port, "models": tuple(models) if models else None}
    settings = dataclasses.replace(settings, **{name: v for name, v in given.items() if v is not None})
    if workers > 1:
        from app.worker_processes import Workers

        if models:
            environment["CARRYOVER_MODELS"] = os.pathsep.join(map(str, models))
        return Workers(settings, workers, environment).run()
    from app.server import run

    return run(settings, accept_loss=accept_loss)


EPILOG = _settings_table()
