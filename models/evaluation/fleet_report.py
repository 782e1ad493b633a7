"""The results of a training on many series: artifact, metrics.json, figure.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact.artifact import Artifact
from models.data.dataset import Dataset
from models.data.measures import measured, skill
from models.errors import BadData
from models.evaluation.report import (
    draw,
    draw_served,
    measure,
    measure_served,
    simulate_served,
    write_files,
)
from models.training.fleet import build_fleet_artifact
from models.training.training import Training

MSE = ("mse_scaled", "persistence_mse_scaled", "mean_mse_scaled")


def write_fleet_report(
    training: Training,
    datasets: Mapping[str, Dataset],
    parts: Sequence[float],
    name: str,
    seconds: float,
    folder: Path,
    choice: Mapping[str, Any] | None = None,
) -> Artifact:
    """Measure the trained network on each series, then write everything into the folder.

    The metrics are means over the series, each scaled by its own training part; `metrics.json` has those of
    each series, too. The figure is of the first series.

    Parameters
    ----------
    datasets
        Those of the training, by the names of the series.
    parts
        By which each was split: fractions, or numbers of rows.
    choice
        What was compared before this was kept, as JSON values.
    """
    network = training.best_network()
    artifact = build_fleet_artifact(network, datasets, training.recipe, name)
    by_series = {}
    for series, dataset in datasets.items():
        of_series = artifact.of_series(dataset.scaling)
        found = measure(network, dataset, None) | {"split": asdict(dataset.split)}
        if artifact.learning.enabled:
            found["served"] = measure_served(of_series, dataset, simulate_served(of_series, dataset))
        by_series[series] = found
    metrics = _overall(list(by_series.values())) | {
        "data": {"series": len(datasets), "parts": list(parts)},
        "recipe": training.recipe.as_dict(),
        "epochs": len(training.history),
    }
    if choice is not None:
        metrics["choice"] = choice
    if training.diverged is not None:
        metrics["diverged"] = training.diverged
    artifact = replace(artifact, metrics=metrics)
    write_files(training, artifact, seconds, folder, {"by_series": by_series})
    title, dataset = next(iter(datasets.items()))
    of_series = replace(artifact.of_series(dataset.scaling), name=name)
    if artifact.learning.enabled:
        draw_served(of_series, dataset, simulate_served(of_series, dataset), folder / "figure.png")
    else:
        draw(network, dataset, None, f"{name}, {title}", folder / "figure.png")
    return artifact


def _overall(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the series of what was measured on each."""
    one_step = {name: _mean([each["one_step"][name] for each in found]) for name in MSE}
    measurable = [each for each in found if each["one_step"]["persistence_mse_scaled"] is not None]
    if any(each["one_step"]["mse_scaled"] is None for each in measurable):
        one_step["mse_scaled"] = None  # an error is infinite
    part = found[0]["one_step"]["part"]
    if any(each["one_step"]["part"] != part for each in found):
        raise BadData("the series are not split alike: give fractions to --split")
    metrics: dict[str, Any] = {
        "one_step": {
            "part": part,
            **one_step,
            "skill": skill(one_step["mse_scaled"], one_step["persistence_mse_scaled"]),
        }
    }
    if "served" in found[0]:
        served = [each["served"] for each in found]
        metrics["served"] = {
            "part": part,
            "mse_scaled": None
            if any(each["served"]["mse_scaled"] is None for each in measurable)
            else _mean([each["mse_scaled"] for each in served]),
            "coverage": {
                level: _mean([each["coverage"][level] for each in served]) for level in served[0]["coverage"]
            },
        }
    return metrics


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return measured(float(np.mean(known))) if known else None
