"""Choose what the sessions of a network of many series learn, where no recipe was given.

One network is trained. Its sessions may learn the next step only, or direct forecasts and the season, too.
Each way is judged on the validation parts of some series, as `choose` judges networks of one series, and the
best is kept. A series that the network was not trained on gains most: its session learns its season itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.data.dataset import can_be_judged
from models.data.measures import measured
from models.evaluation.choose import (
    STILL,
    baseline_errors,
    judged_with,
    lasting_season,
    mean_error,
    session_errors,
    ways_to_learn,
)
from models.training.recipe import Recipe
from models.training.training import MOST_JUDGED, Training


@dataclass(frozen=True)
class FleetChoice:
    """What was compared, and what was best.

    Attributes
    ----------
    name, recipe : what is kept
    series : how many were judged
    season : rows; None if most of the series have none
    baselines, ways : by name the mean error of each; the geometric mean over series, and over one step and
        the forecasts
    """

    name: str
    recipe: Recipe
    series: int
    season: int | None
    baselines: dict[str, float]
    ways: dict[str, float]

    def lines(self) -> list[str]:
        """What was compared, and what is kept, for a person."""
        season = f"a season of {self.season} rows" if self.season else "no season was found"
        return [
            f"compared on the validation rows of {self.series} series, mean MSE (scaled); {season}",
            f"without a network: {_listed(self.baselines)}",
            f"sessions that learn: {_listed(self.ways)}",
            f"kept: {self.name}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; None for an error that is not finite."""
        errors = {**self.baselines, **self.ways}
        return {
            "kept": self.name,
            "series": self.series,
            "season": self.season,
            "mse_scaled": {name: measured(error) for name, error in errors.items()},
        }


def choose_of_fleet(training: Training) -> FleetChoice | None:
    """Compare what sessions of a trained network may learn; None where no series can be judged."""
    series = [dataset for dataset in training.datasets if can_be_judged(dataset)]
    series = series[:: -(-len(series) // MOST_JUDGED) or 1]
    if not series:
        return None
    season = most_common([lasting_season(dataset) for dataset in series])
    judged = [judged_with(dataset, season) for dataset in series]
    pairs = list(zip(series, judged, strict=True))
    ways = _of_all([ways_to_learn(training.recipe, each, part) for each, part in pairs])
    network = training.best_network()
    errors = {
        name: _mean([mean_error(session_errors(network, each, recipe, part)) for each, part in pairs])
        for name, recipe in ways.items()
    }
    baselines = [
        {name: mean_error(found) for name, found in baseline_errors(each, part).items()}
        for each, part in pairs
    ]
    shared = [name for name in baselines[0] if all(name in found for found in baselines)]
    best = min(errors, key=errors.__getitem__)
    return FleetChoice(
        name=best,
        recipe=ways[best],
        series=len(series),
        season=season,
        baselines={name: _mean([found[name] for found in baselines]) for name in shared},
        ways=errors,
    )


def most_common(seasons: Sequence[int | None]) -> int | None:
    """The season of most of the series."""
    return max(seasons, key=list(seasons).count)


def _of_all(ways: Sequence[dict[str, Recipe]]) -> dict[str, Recipe]:
    """Those of the network itself that all series allow."""
    shared = {name for name in ways[0] if all(name in each for each in ways)} - {STILL}
    return {name: recipe for name, recipe in ways[0].items() if name in shared}


def _mean(errors: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(errors))))


def _listed(errors: dict[str, float]) -> str:
    return ", ".join(f"{name} {error:.3g}" for name, error in errors.items())
