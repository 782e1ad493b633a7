"""The results of a finished training: artifact, metrics.json, figure.png."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.arrays import Doubles
from models.artifact.files import Artifact, save
from models.data.dataset import Dataset, Split
from models.data.measures import mean_observed, measured, skill
from models.data.scaling import Scaling
from models.evaluation.bands import surprise_threshold
from models.evaluation.figures import BacktestPlot, TrainingPlot, draw_backtest, draw_training
from models.forecaster import Forecaster
from models.nets.recurrent import RecurrentNetwork
from models.training.rollout import FreeRun, free_run, one_step, root_mean_square
from models.training.simulation import (
    SimulatedRun,
    build_artifact,
    calibrate_learning,
    simulate,
    unscaled_observations,
    with_horizons_prior,
)
from models.training.training import Training

WARMUP, STEPS = 50, 200


def write_report(
    training: Training,
    name: str,
    source: str,
    seconds: float,
    folder: Path,
    choice: Mapping[str, Any] | None = None,
) -> Artifact:
    """Measure the trained network, then write everything into the folder.

    What could not be measured, because nothing was observed or an error is infinite, is None in the metrics.

    Parameters
    ----------
    source
        Where the data came from, as the metrics record it.
    seconds
        That the training took.
    choice
        What else was tried, where the recipe was chosen by its errors; the metrics have it.
    """
    network, dataset = training.best_network(), training.dataset
    run = last_free_run(network, dataset)
    learning = calibrate_learning(network, dataset, training.recipe)
    artifact = build_artifact(network, dataset, training.recipe, learning, name)
    if learning.forecasts_directly:
        artifact = with_horizons_prior(artifact, dataset)
    served = simulate_served(artifact, dataset) if learning.enabled else None
    metrics = measure(network, dataset, run) | {
        "data": {"source": source, "split": asdict(dataset.split)},
        "recipe": training.recipe.as_dict(),
        "epochs": len(training.history),
    }
    if choice is not None:
        metrics["choice"] = dict(choice)
    if training.diverged is not None:
        metrics["diverged"] = training.diverged
    if served is not None:
        metrics["served"] = measure_served(artifact, dataset, served)
    artifact = replace(artifact, metrics=metrics)
    write_files(training, artifact, seconds, folder)
    if served is None:
        draw(network, dataset, run, name, folder / "figure.png")
    else:
        draw_served(artifact, dataset, served, folder / "figure.png")
    return artifact


def write_files(
    training: Training,
    artifact: Artifact,
    seconds: float,
    folder: Path,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write the artifact, and metrics.json, which also has the details."""
    save(artifact, folder)
    report = {"fingerprint": artifact.fingerprint, **artifact.metrics, **(details or {})}
    report |= {"seconds": round(seconds, 1), "torch": torch.__version__, "history": history(training)}
    (folder / "metrics.json").write_text(json.dumps(report, allow_nan=False) + "\n", encoding="utf-8")


def history(training: Training) -> dict[str, list[float | None]]:
    """For each number of an epoch a list over the epochs, rounded to six digits."""
    names = ("loss", "closed_loop", "validation", "learning_rate")
    return {name: [_short(getattr(epoch, name)) for epoch in training.history] for name in names}


def _short(value: float | None) -> float | None:
    value = measured(value)
    return None if value is None else float(f"{value:.6g}")


def measure(network: RecurrentNetwork, dataset: Dataset, run: FreeRun | None) -> dict[str, Any]:
    """One-step error beside persistence and the mean of the training part, and the error of the free run.

    MSE is over scaled columns; an RMSE by column is in the column's own unit. None for what could not be
    measured.
    """
    part, rows = evaluation_part(dataset.split)
    truth = dataset.truth[rows.start : rows.stop]
    errors = one_step(network, dataset, rows) - truth
    persistence = measured(float((dataset.truth[rows.start - 1 : rows.stop - 1] - truth).square().nanmean()))
    mean = dataset.truth[: dataset.split.train].nanmean(dim=0)
    mse = measured(float(errors.square().nanmean()))
    metrics: dict[str, Any] = {
        "one_step": {
            "part": part,
            "mse_scaled": mse,
            "persistence_mse_scaled": persistence,
            "mean_mse_scaled": measured(float((mean - truth).square().nanmean())),
            "skill": skill(mse, persistence),
            "rmse": by_target(dataset, errors),
        }
    }
    if run is not None:
        metrics["free_run"] = {
            "warmup": run.warmup,
            "steps": run.steps,
            "first_row": run.rows.start - 1,
            "rmse": by_target(dataset, run.errors()),
        }
    return metrics


def simulate_served(artifact: Artifact, dataset: Dataset) -> SimulatedRun:
    """Run a session along the series from row 0 on, and return the rows of `evaluation_part`."""
    return simulate(Forecaster(artifact), unscaled_observations(dataset), evaluation_part(dataset.split)[1])


def measure_served(artifact: Artifact, dataset: Dataset, served: SimulatedRun) -> dict[str, Any]:
    """The one-step error of a session that learns, and the share of observations in each interval.

    The error is over scaled columns; None for what could not be measured.
    """
    truth = _units(dataset.target_scaling, dataset.truth[served.rows.start : served.rows.stop])
    errors = np.abs(served.predictions - truth)  # [rows, targets], own units
    coverage: dict[str, float | None] = {}
    if served.widths is not None:
        count = int((~np.isnan(errors)).sum())
        inside = (errors[:, None] <= served.widths).sum(axis=(0, 2)).tolist()
        levels = (f"{level:g}" for level in artifact.learning.levels)
        shares = (hits / count if count else None for hits in inside)
        coverage = dict(zip(levels, shares, strict=True))
    mse = measured(mean_observed(np.square(errors / dataset.target_scaling.std)))
    return {"part": evaluation_part(dataset.split)[0], "mse_scaled": mse, "coverage": coverage}


def evaluation_part(split: Split) -> tuple[str, range]:
    """The name and rows of the part that training used least: test, else validation, else training."""
    if split.test:
        return "test", split.test_rows
    if split.validation:
        return "validation", split.validation_rows
    return "train", range(1, split.train)


def last_free_run(network: RecurrentNetwork, dataset: Dataset) -> FreeRun | None:
    """A free run at the end of the split: 50 observations and 200 unobserved steps, fewer in a short series.

    None for a network that does not predict all its inputs.
    """
    end = dataset.split.test_rows.stop
    if dataset.missing or end < 4:
        return None
    warmup = min(WARMUP, end // 2)
    steps = min(STEPS, end - warmup)
    return free_run(network, dataset, end - warmup - steps, warmup, steps)


def by_target(dataset: Dataset, errors: Tensor) -> dict[str, float | None]:
    """RMSE of errors [rows, targets], in each target's own unit; None where it could not be measured."""
    spread = dataset.target_scaling.std
    return {
        name: measured(root_mean_square(errors[:, i]) * float(spread[i]))
        for i, name in enumerate(dataset.targets)
    }


def draw(network: RecurrentNetwork, dataset: Dataset, run: FreeRun | None, name: str, path: Path) -> None:
    """Draw the figure of a training: the rows of the free run, or the last 250."""
    end = dataset.split.test_rows.stop
    rows = run.rows if run is not None else range(max(1, end - WARMUP - STEPS), end)
    scaling = dataset.target_scaling
    plot = TrainingPlot(
        rows,
        truth=_units(scaling, dataset.truth[rows.start : rows.stop]),
        one_step=_units(scaling, one_step(network, dataset, rows)),
        free=None if run is None else _units(scaling, run.predictions),
        warmup=0 if run is None else run.warmup,
    )
    draw_training(path, f"{name}: one step ahead and free-running", dataset.targets, plot)


def draw_served(artifact: Artifact, dataset: Dataset, served: SimulatedRun, path: Path) -> None:
    """Draw the figure of a training whose sessions learn: the last 250 rows, with band and surprise."""
    last = slice(-(WARMUP + STEPS), None)
    rows = served.rows[last]
    plot = BacktestPlot(
        x=rows,
        truth=_units(dataset.target_scaling, dataset.truth[rows.start : rows.stop]),
        lines={"one step ahead": served.predictions[last].astype(np.float64)},
    )
    if served.widths is not None and served.scores is not None:
        plot = plot.with_interval(artifact.learning.levels, served.widths[last].astype(np.float64))
        threshold = surprise_threshold(served.scores.astype(np.float64))
        plot = replace(plot, surprise=served.scores[last].astype(np.float64), surprise_threshold=threshold)
    draw_backtest(path, f"{artifact.name}: as its sessions learn", artifact.targets, plot)


def _units(scaling: Scaling, values: Tensor) -> Doubles:
    return scaling.unscale(values.double().numpy())
