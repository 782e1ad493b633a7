"""`carryover serve`: the server, until it is stopped."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


class ServeCommand(TyperCommand):
    """A command whose help ends with a table of all settings, made only when it is printed."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the table."""
        self.epilog = _settings_table()
        super().format_epilog(ctx, formatter)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default=False)] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=64, help="Processes that share the port, one a core.", show_default=False
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Allow other machines to connect without API keys.", show_default=False
        ),
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
) -> int:
    """Serve trained models until SIGTERM or Ctrl-C; requests that were accepted are answered first."""
    from app.config import Settings

    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "workers": workers,
        "models": models or None,
        "insecure": insecure or None,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    settings = Settings.from_env(os.environ, **overrides)
    if is_first_start():
        print("compiling loops, once: this takes about a minute", file=sys.stderr, flush=True)
    if settings.workers > 1:
        from app.workers.launch import run_workers

        return run_workers(settings, accept_loss=accept_loss)
    from app.process_tuning import hold_reload_signal, loading

    hold_reload_signal()
    with loading():
        from app.server import run

        return run(settings, accept_loss=accept_loss)


def is_first_start() -> bool:
    """Whether no loop is compiled yet (`models.jit`): otherwise the first start is silent for a minute."""
    cache = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(cache) if cache else Path(__file__).parent.parent / "codec"
    return next(folder.rglob("*.nbi"), None) is None


def _settings_table() -> str:
    from app.config import describe_settings

    settings = list(describe_settings())
    width = max(len(setting.variable) for setting in settings)
    lines = [f"{s.variable:{width}}  {s.description} [{s.default}]" for s in settings]
    introduction = "Every setting is an environment variable; an option above wins over its variable:"
    return "\n".join(["\b", introduction, "", "\b", *lines])
