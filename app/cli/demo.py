"""`carryover demo`: train, serve and stream in a terminal, with and without keeping the state."""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.errors import ModelsError
from models.installation import install_command
from models.wording import counted

if TYPE_CHECKING:
    from carryover import Carryover

START_SECONDS = 60.0
SHOWN, CHUNK = 120, 10
SINE, TEMPERATURES = "sine", "temperatures"
SINE_STEPS, MIN_STEPS = 4000, 400
FRAME_SECONDS = 0.05


class DemoFailed(ModelsError):
    """A step of the demo did not work."""


@dataclass
class StreamComparison:
    """A streamed series: its last values, and the squared errors with and without keeping the state."""

    observed: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN))
    carried: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN))
    forgetful: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN))
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    rows: int = 0

    def add(self, value: float, carried: float, forgetful: float) -> None:
        """Add an observation and its two predictions."""
        self.observed.append(value)
        self.carried.append(carried)
        self.forgetful.append(forgetful)
        self.squares[0] += (value - carried) ** 2
        self.squares[1] += (value - forgetful) ** 2
        self.rows += 1

    @property
    def errors(self) -> tuple[float, float]:
        """Mean squared errors: with the state kept, and with a reset at each chunk."""
        rows = max(self.rows, 1)
        return self.squares[0] / rows, self.squares[1] / rows


def demo(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            help="Series to stream: `sine`, `temperatures`, or the last column of a .csv file. "
            "[default: sine, and temperatures if vega_datasets is installed]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=20, help="Observations to stream from each series.")] = 600,
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = 10,
) -> None:
    """Train a small network on each series, serve it, and plot its predictions while the series is streamed.

    Two sessions get the same chunks. The second is reset after each chunk, as in a service without state.

    For example: carryover demo temperatures --steps 2000
    """
    series = data or ([SINE, TEMPERATURES] if find_spec("vega_datasets") else [SINE])
    values = {name: _values(name) for name in series}
    with tempfile.TemporaryDirectory(prefix="carryover-demo-") as temporary:
        folder = Path(temporary)
        for i, name in enumerate(series):
            print(f"training on {name} ...", flush=True)
            _train(values[name][:-steps], folder, f"demo-{i}", epochs)
        with _server(folder / "models") as service:
            for i, name in enumerate(series):
                _stream(service, f"demo-{i}", name, values[name][-steps:])


def _values(series: str) -> list[float]:
    """The whole series; from a file, its last column."""
    from app.cli import row_reader

    if series == SINE:
        return [math.sin(step / 10) for step in range(SINE_STEPS)]
    with row_reader.open_rows(_file(series), sys.stdin, follow=False) as source:
        observation, _ = row_reader.select_columns(source, source.names[-1:], None)
        found = [observation(row)[0] for row in source.rows]
    return [value for value in found if value is not None]


def _train(values: list[float], folder: Path, name: str, epochs: int) -> None:
    from app.cli import run

    if len(values) < MIN_STEPS:
        raise DemoFailed(f"{len(values)} observations remain for training, too few: use a smaller --steps")
    data = folder / f"{name}.csv"
    data.write_text("value\n" + "".join(f"{value!r}\n" for value in values), encoding="utf-8")
    shape = ["--hidden", "32", "--epochs", str(epochs), "--split", "0.8,0.2,0"]
    with contextlib.redirect_stdout(io.StringIO()):
        status = run(["train", str(data), "--out", str(folder / "models" / name), *shape])
    if status:
        raise DemoFailed("the training failed; see the line above")


def _file(series: str) -> Path:
    if series != TEMPERATURES:
        return Path(series)
    spec = find_spec("vega_datasets")
    if spec is None or not spec.submodule_search_locations:
        raise DemoFailed(f"the series `temperatures` needs vega_datasets: {install_command('examples')}")
    return Path(spec.submodule_search_locations[0]) / "_data" / "seattle-temps.csv"


@contextlib.contextmanager
def _server(models: Path) -> Iterator[Carryover]:
    """A server of these models on a free port."""
    from carryover import Carryover

    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "carryover_server",
            "serve",
            "--models",
            str(models),
            "--port",
            "0",
        ],
        env=environment | {"PYTHONUNBUFFERED": "1", "CARRYOVER_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with Carryover(_wait_for_address(process), key="", retry=START_SECONDS) as service:
            yield service
    finally:
        process.terminate()
        process.communicate()


def _wait_for_address(process: subprocess.Popen[str]) -> str:
    for line in process.stdout or ():
        if found := re.search(r"http://[\d.]+:\d+", line):
            print(f"serving at {found[0]}")
            return found[0]
    raise DemoFailed("the server did not start; see its lines above")


def _stream(service: Carryover, model: str, series: str, values: list[float]) -> None:
    carried, forgetful = service.session(f"{model}-carried", model), service.session(f"{model}-reset", model)
    comparison, expected = StreamComparison(), (float("nan"), float("nan"))
    live = sys.stdout.isatty()
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        predicted = [session.advance(chunk).predictions for session in (carried, forgetful)]
        forgetful.reset()
        for i, value in enumerate(chunk):
            if start or i:
                comparison.add(value, *expected)
            expected = (predicted[0][i], predicted[1][i])
        if live:
            _draw(series, comparison, first=not start)
            time.sleep(FRAME_SECONDS)
    kept, lost = comparison.errors
    times = lost / max(kept, 1e-12)
    print(
        f"{series}: {counted(comparison.rows, 'prediction')}; mean squared error {kept:.3g} with the state "
        f"carried, {lost:.3g} when it is reset at each chunk of {CHUNK}: {times:,.0f} times that"
    )


def _draw(series: str, comparison: StreamComparison, *, first: bool) -> None:
    import plotext as plt

    plt.clear_figure()
    plt.theme("clear")
    plt.plot_size(min(plt.terminal_width() or 80, 110), 20)
    plt.title(f"{series}: one step ahead")
    steps = list(range(comparison.rows - len(comparison.observed), comparison.rows))
    lines: dict[str, deque[Any]] = {
        "reset at each chunk": comparison.forgetful,
        "observed": comparison.observed,
        "predicted, carried": comparison.carried,
    }
    for name, numbers in lines.items():
        plt.plot(steps, list(numbers), label=name)
    up = "" if first else f"\x1b[{20}A"
    print(up + plt.build().rstrip("\n"), flush=True)
