"""Measure the quality of the networks: the figures of docs/reference/measurements.md, with their required
values.

    python -m benchmarks.textbook [--etth1 PATH] [--json]

The figures are the same in every run on one machine; another processor or torch version may change the last
digits of a training. The exit status is 1 if a figure misses its required value. The real series has no
required values.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from models.artifact.files import Artifact, Column, load
from models.data.dataset import Dataset, Split, identity_scaling, open_series, prepare, sine, split_rows
from models.evaluation.backtest import NETWORK, PERSISTENCE, backtest
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import TEXTBOOK, Recipe
from models.training.rollout import free_run, one_step, root_mean_square
from models.training.simulation import build_artifact
from models.training.training import Training

ZOO_SINE = Path(__file__).resolve().parent.parent / "models" / "zoo" / "sine"
SEEDS = (0, 1, 2)
# The protocol of FSNet (Pham et al., ICLR 2023): months of 30 days, 4 to learn, 1 to validate, 15 to predict.
ETTH1_SPLIT = Split(train=2880, validation=720, test=10_800)


@dataclass(frozen=True)
class Figure:
    """One measured number; `must` is a sentence, and None where nothing was promised."""

    what: str
    measured: float
    must: str | None
    holds: bool


def main() -> int:
    options = argparse.ArgumentParser(description="Measure what the networks are worth.")
    options.add_argument("--etth1", type=Path, metavar="PATH", help="ETTh1.csv, to measure on real data too")
    options.add_argument("--json", action="store_true", help="one JSON document in place of the table")
    given = options.parse_args()
    torch.set_num_threads(1)
    figures = [*textbook_figures(), *zoo_figures(), *(etth1_figures(given.etth1) if given.etth1 else [])]
    print(json.dumps([asdict(figure) for figure in figures], indent=2) if given.json else table(figures))
    return 0 if all(figure.holds for figure in figures) else 1


def textbook_figures() -> Iterator[Figure]:
    """Section 1 of DESIGN, for each seed."""
    dataset = unscaled(1000)
    for seed in SEEDS:
        begun = time.monotonic()
        training = Training(dataset, replace(TEXTBOOK, seed=seed))
        loss = list(training.run())[-1].loss
        seconds, network = time.monotonic() - begun, training.best_network()
        carried, reset = (one_step_mse(network, dataset, every) for every in (None, TEXTBOOK.piece))
        run = free_run(network, dataset, start=0, warmup=50, steps=200)
        name = f"textbook, seed {seed}"
        yield at_most(f"{name}: loss of epoch 10", loss, 5e-5)
        yield Figure(f"{name}: one-step MSE, carried", carried, None, True)
        yield Figure(f"{name}: one-step MSE, reset every 50", reset, None, True)
        yield at_least(f"{name}: reset over carried", reset / carried, 100)
        yield Figure(f"{name}: RMSE of 200 free steps", root_mean_square(run.errors()), None, True)
        yield Figure(f"{name}: seconds to train", seconds, None, True)


def zoo_figures() -> Iterator[Figure]:
    """The shipped model, running freely after 50 observations, on the wave far beyond its training rows."""
    artifact = load(ZOO_SINE)
    dataset = rescaled(artifact, 6500)
    for start in (0, 500, 1000):
        run = free_run(artifact.network(), dataset, start, warmup=50, steps=5000)
        errors = run.errors() * float(artifact.target_scaling.std[0])
        name = f"zoo/sine from row {start}"
        yield at_most(f"{name}: RMSE of 200 free steps", root_mean_square(errors[:200]), 0.02)
        yield at_most(f"{name}: RMSE of 5,000 free steps", root_mean_square(errors), 0.05)


def etth1_figures(path: Path) -> Iterator[Figure]:
    """One step ahead through 15 months, each row from everything before it; MSE over 7 scaled columns."""
    series = open_series(str(path))
    dataset = prepare(series, [Column(name) for name in series.columns], series.columns, ETTH1_SPLIT)
    begun = time.monotonic()
    training = Training(dataset, Recipe(predicts="change"))
    epochs = len(list(training.run()))
    seconds = time.monotonic() - begun
    artifact = build_artifact(training.best_network(), dataset, training.recipe, name="etth1")
    scores = backtest(artifact, series, ETTH1_SPLIT).scores
    yield Figure("ETTh1: one-step MSE, persistence", scores[PERSISTENCE].mse, None, True)
    yield Figure("ETTh1: one-step MSE, frozen network", scores[NETWORK].mse, None, True)
    yield Figure(f"ETTh1: seconds to train ({epochs} epochs)", seconds, None, True)


def unscaled(points: int) -> Dataset:
    """The sine in its own units, all of it to learn from."""
    scaling = identity_scaling(1)
    return prepare(sine(points), [Column("value")], ["value"], Split(points, 0, 0), (scaling, scaling))


def rescaled(artifact: Artifact, points: int) -> Dataset:
    """The sine as an artifact scales it."""
    scalings = artifact.scaling, artifact.target_scaling
    return prepare(sine(points), artifact.inputs, artifact.targets, split_rows(points), scalings)


def one_step_mse(network: RecurrentNetwork, dataset: Dataset, reset_every: int | None) -> float:
    """Over the whole series, from row 1 on."""
    predictions = one_step(network, dataset, range(1, len(dataset.truth)), reset_every=reset_every)
    return float((predictions - dataset.truth[1:]).square().mean())


def at_most(what: str, measured: float, bound: float) -> Figure:
    return Figure(what, measured, f"at most {bound:g}", measured <= bound)


def at_least(what: str, measured: float, bound: float) -> Figure:
    return Figure(what, measured, f"at least {bound:g}", measured >= bound)


def table(figures: list[Figure]) -> str:
    """As Markdown."""
    lines = ["| figure | measured | required |", "|---|---|---|"]
    for figure in figures:
        must = "" if figure.must is None else figure.must + ("" if figure.holds else " **missed**")
        lines.append(f"| {figure.what} | {figure.measured:.3g} | {must} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
