"""Measure how well a network of some series serves another one, and print the table of docs/how-to/fleets.md.

    python -m benchmarks.fleets ../data

The folder must contain ETTh1.csv, which has three pairs of loads of one transformer. For two of them, one
network is trained on the pair and one on the other two pairs, by `carryover train` without an option of a
recipe. Both follow the pair one step ahead. The first pair was looked at when the choice was built; the
second was not. It takes about eight minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.textbook import Figure, at_most, table
from models.data.dataset import open_series
from models.evaluation.backtest import NETWORK

PAIRS = {"high": ("HUFL", "HULL"), "middle": ("MUFL", "MULL"), "low": ("LUFL", "LULL")}
MEASURED = ("middle", "high")
SPLIT = "2880,720,10800"
MOST_ABOVE = 1.06


def main() -> int:
    """Measure everything; the exit status tells whether every bound was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with ETTh1.csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_pairs(arguments.data / "ETTh1.csv", folder)
        sections = {pair: list(pair_figures(pair, folder)) for pair in MEASURED}
    for title, figures in sections.items():
        print(f"## {title}\n\n{table(figures)}\n")
    return 0 if all(figure.holds for figures in sections.values() for figure in figures) else 1


def write_pairs(path: Path, folder: Path) -> None:
    """Each pair as a file of its own, with the same names of columns."""
    series = open_series(str(path))
    if series.times is None:
        raise LookupError(f"{path} has no times")
    times = [str(time)[:19] for time in series.times.astype("datetime64[s]")]
    for pair, names in PAIRS.items():
        values = np.stack([series.values[:, series.columns.index(name)] for name in names], axis=1)
        rows = [f"{time},{useful},{useless}" for time, (useful, useless) in zip(times, values, strict=True)]
        (folder / f"{pair}.csv").write_text("\n".join(["date,useful,useless", *rows]) + "\n")


def pair_figures(pair: str, folder: Path) -> Iterator[Figure]:
    """The MSE of a network of the pair alone, and of one of the others."""
    own = mse(folder, [pair], pair)
    others = mse(folder, [other for other in PAIRS if other != pair], pair)
    yield Figure("MSE, its own network", own, None, True)
    yield Figure("MSE, network of the two others", others, None, True)
    yield at_most("network of the two others, relative to its own", others / own, MOST_ABOVE)


def mse(folder: Path, trained_on: list[str], pair: str) -> float:
    """Scaled, one step ahead over the test part, of a network that was trained on some pairs."""
    out = folder / "-".join(trained_on)
    files = [str(folder / f"{name}.csv") for name in trained_on]
    carryover("train", *files, "--split", SPLIT, "--out", str(out))
    served = str(folder / f"{pair}.csv")
    found = carryover("evaluate", str(out), served, "--split", SPLIT, "--no-figure", "--json")
    document: dict[str, Any] = json.loads(found)
    (of_pair,) = document.get("by_series", [document])  # a network of one series has no such list
    return float(of_pair["scaled"][NETWORK]["mse"])


def carryover(*arguments: str) -> str:
    """What the command prints."""
    command = [sys.executable, "-m", "carryover_server", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
