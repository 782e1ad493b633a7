"""What the examples share: a real series, a model trained on it, a server of it, their options."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import vega_datasets
from carryover import Carryover

from app.cli import run

mpl.use("agg")
SHAPE = ("--hidden", "32", "--split", "0.8,0.2,0")
DATA = Path(vega_datasets.__file__).parent / "_data"


def temperatures(city: str) -> pd.Series:
    """A year of hourly temperatures of `seattle` or `sf`, in degrees Celsius, by time."""
    frame = pd.read_csv(DATA / f"{city}-temps.csv", parse_dates=["date"], index_col="date")
    return ((frame["temp"] - 32.0) * 5.0 / 9.0).rename("temp")


@contextlib.contextmanager
def served(series: pd.Series, name: str, given: argparse.Namespace, *more: str) -> Iterator[Carryover]:
    """Train a network on a series in the shell's words, serve it on a free port, and give a client of it."""
    with tempfile.TemporaryDirectory(prefix="carryover-example-") as temporary:
        folder = Path(temporary)
        series[-given.learn :].to_csv(folder / "series.csv", index=False, header=["temp"])
        command = ["train", str(folder / "series.csv"), "--out", str(folder / "models" / name), *SHAPE]
        with contextlib.redirect_stdout(io.StringIO()):
            status = run([*command, "--epochs", str(given.epochs), *more])
        if status:
            raise SystemExit(status)
        with serving(folder / "models") as url, Carryover(url) as service:
            yield service


@contextlib.contextmanager
def serving(models: Path) -> Iterator[str]:
    """`carryover serve`, as a process; gives its URL."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    program = "from app.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--models", str(models), "--port", "0"],
        env=ours | {"PYTHONUNBUFFERED": "1", "CARRYOVER_LOG_LEVEL": "warning"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        lines = (re.search(r"http://[\d.]+:\d+", line) for line in process.stdout or ())
        yield next(found[0] for found in lines if found)
    finally:
        process.terminate()
        process.communicate()


def options(about: str, figure: str) -> argparse.Namespace:
    """The options that every example has."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=Path(figure), help="the figure to draw")
    parser.add_argument("--steps", type=int, default=1000, help="observations to stream of each series")
    parser.add_argument("--learn", type=int, default=2400, help="hours before those, to train on")
    parser.add_argument("--epochs", type=int, default=8, help="of training")
    return parser.parse_args()
