"""Choose a network where no recipe was given: a few are trained within a time, and compared.

    without a network   persistence, seasonal naive, and a linear map of the last values, learned on the way
    networks            the default recipe; the one for streams that drift, without and with direct forecasts;
                        and one that predicts no change, so that what is served is no worse than persistence

Their errors are those on the validation part, one step ahead and over the steps of a season. That part also
says when a training stops, which favours the networks a little. The test part is not looked at.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from models.arrays import Doubles, Ints
from models.artifact.learning import MAX_HORIZON
from models.data.dataset import Dataset
from models.data.measures import mean_observed, measured
from models.data.series import fill_gaps
from models.errors import BadInput, TrainingDiverged
from models.evaluation.baselines import find_season
from models.evaluation.direct_linear import DirectLinear
from models.evaluation.rolling import AR_LAGS, Forecasts
from models.forecaster import Forecaster
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import DRIFTING, Recipe
from models.training.simulation import (
    DIVERGENCE_ALLOWED,
    build_artifact,
    free_forecasts,
    simulate,
    unscaled_observations,
)
from models.training.training import Epoch, Training

PERSISTENCE, SEASONAL, LINEAR = "persistence", "seasonal naive", "online AR"
DEFAULT, DRIFTS, DIRECT = "default", "drifting", "drifting with horizons"
STILL = "no change"
RECIPES = {DRIFTS: DRIFTING, DEFAULT: Recipe()}  # the one that matters more is trained first
STEPS = 24  # of the forecasts that are compared where no season is found
DIRECT_HORIZONS = 8  # that sessions learn: with three, the steps halfway between two have larger errors
FEWEST_ORIGINS, MOST_ORIGINS = 16, 100  # of those forecasts
MOST_LAGS = 48  # at which the last value is compared with that of one season ago
MOST_ROWS = 1000  # of the validation part that are predicted
MOST_BEFORE = 2000  # rows that a session or the linear map observes before them
MOST_VALUES = 30_000  # rows times columns that are predicted, and as many before them: seconds
SHARE = 2 / 3  # of the time, for the recipe for streams that drift; the default one has what is left
SMALLEST = 1e-12  # of an error whose logarithm is taken

Errors = Mapping[str, tuple[float, ...]]
"""By method: MSE, scaled, one step ahead, and over all steps of a forecast; infinite if it diverges."""


class Progress(Protocol):
    """Shows a training."""

    def show(self, epoch: Epoch) -> None:
        """Show an epoch that has ended."""


Display = Callable[[Training], AbstractContextManager[Progress]]


@dataclass(frozen=True, eq=False)
class Judged:
    """What is predicted to compare the methods.

    Attributes
    ----------
    rows : predicted one step ahead, each from the rows before it
    starts : first rows of the forecasts; empty where the part is too short for any
    steps : of each forecast; 1 where there is none
    season : rows; None if none was found, or if it is over before these rows
    """

    rows: range
    starts: Ints
    steps: int
    season: int | None

    @property
    def first(self) -> int:
        """The first row that what learns on the way observes."""
        return max(self.rows.start - MOST_BEFORE, 0)


@dataclass(frozen=True, eq=False)
class Choice:
    """What was tried, and what was best.

    Attributes
    ----------
    name, training : of the network that is kept; the recipe of the training has what its sessions learn
    judged : what was predicted
    baselines, networks : errors by name
    diverged : names of the networks whose training left nothing
    """

    name: str
    training: Training
    judged: Judged
    baselines: Errors
    networks: Errors
    diverged: tuple[str, ...]

    @property
    def best_baseline(self) -> str:
        """The best of what needs no network."""
        return min(self.baselines, key=lambda name: mean_error(self.baselines[name]))

    @property
    def gain(self) -> float:
        """How far below that of the best baseline the mean error of the network is: 0.1 is 10 %."""
        return 1 - mean_error(self.networks[self.name]) / mean_error(self.baselines[self.best_baseline])

    @property
    def warning(self) -> str:
        """Why the network is not needed; empty if it is better than everything that needs none."""
        if self.gain > 0 and self.name != STILL:
            return ""
        return f"no network is better than {self.best_baseline}, which needs none"

    def lines(self) -> list[str]:
        """What was tried, what is kept, and why, for a person."""
        judged = self.judged
        season = f"a season of {judged.season} rows" if judged.season else "no season was found"
        ahead = f" and over {judged.steps} steps" if judged.steps > 1 else ""
        lost = "".join(f", {name} diverged" for name in self.diverged)
        below = "below" if self.gain > 0 else "above"
        return [
            f"compared on {len(judged.rows)} validation rows, MSE (scaled) one step ahead{ahead}; {season}",
            f"without a network: {_listed(self.baselines)}",
            f"networks: {_listed(self.networks)}{lost}",
            f"kept: {self.name}; its mean error is {abs(self.gain):.0%} {below} that of {self.best_baseline}",
        ]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; None for an error that is not finite."""
        return {
            "kept": self.name,
            "rows": len(self.judged.rows),
            "steps": [1, self.judged.steps][: 1 + (self.judged.steps > 1)],
            "season": self.judged.season,
            "mse_scaled": {
                name: [measured(error) for error in errors]
                for name, errors in {**self.baselines, **self.networks}.items()
            },
            "diverged": list(self.diverged),
        }


def choose(
    dataset: Dataset,
    seconds: float,
    display: Display,
    device: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Train the networks, and keep the best.

    Parameters
    ----------
    dataset
        One that can be judged, see `can_be_judged`.
    seconds
        For all trainings together, without the comparison. Each of them has one epoch at least.
    display
        Makes what shows a training.
    clock
        Seconds from any start.

    Raises
    ------
    BadInput
        No network can be trained on the data.
    TrainingDiverged
        No training left weights that are of use.
    """
    judged = what_is_judged(dataset)
    trainings = _trainings(dataset, device)
    tried: dict[str, tuple[Training, Recipe]] = {}
    errors: dict[str, tuple[float, ...]] = {}
    diverged: list[str] = []
    for name, training in trainings.items():
        start, share = clock(), SHARE if name == DRIFTS else 1
        try:
            _train(training, seconds * share, display, clock)
        except TrainingDiverged:
            diverged.append(name)
            continue
        finally:
            seconds = max(seconds - (clock() - start), 0)
        ways = ways_to_learn(training.recipe, dataset, judged) if name == DRIFTS else {name: training.recipe}
        for of_sessions, recipe in ways.items():
            kept = _without_change(training) if of_sessions == STILL else training
            tried[of_sessions] = kept, recipe
            errors[of_sessions] = session_errors(kept.best_network(), dataset, recipe, judged)
    best = min(errors, key=lambda name: mean_error(errors[name]), default=None)
    if best is None or not math.isfinite(mean_error(errors[best])):
        raise TrainingDiverged("every network diverged; look at the data, or try a smaller --learning-rate")
    training, training.recipe = tried[best]
    return Choice(best, training, judged, baseline_errors(dataset, judged), errors, tuple(diverged))


def mean_error(errors: tuple[float, ...]) -> float:
    """The geometric mean, in which an error of 48 steps weighs as much as the smaller one of one step."""
    if not all(math.isfinite(error) for error in errors):
        return math.inf
    return math.exp(sum(math.log(max(error, SMALLEST)) for error in errors) / len(errors))


def what_is_judged(dataset: Dataset) -> Judged:
    """The last rows of the validation part, and forecasts in it over the season that was found."""
    return judged_with(dataset, lasting_season(dataset))


def lasting_season(dataset: Dataset) -> int | None:
    """The season of the training part, if it goes on in the validation part."""
    known = _filled(dataset)
    season = find_season(known[: dataset.split.train])
    if season is not None and not _season_lasts(known, _judged_rows(dataset), season):
        return None
    return season


def judged_with(dataset: Dataset, season: int | None) -> Judged:
    """The last rows of the validation part, and forecasts in it over this season."""
    rows = _judged_rows(dataset)
    steps = season if season is not None and 1 < season <= MAX_HORIZON else STEPS
    starts = np.arange(rows.start, rows.stop - steps + 1, max(1, (len(rows) - steps) // MOST_ORIGINS))
    if len(starts) < FEWEST_ORIGINS or dataset.missing:
        return Judged(rows, np.empty(0, np.int64), 1, season)
    return Judged(rows, starts, steps, season)


def _judged_rows(dataset: Dataset) -> range:
    validation = dataset.split.validation_rows
    most = min(MOST_ROWS, MOST_VALUES // len(dataset.targets))
    return range(max(validation.start, validation.stop - most, 1), validation.stop)


def _season_lasts(known: Doubles, rows: range, season: int) -> bool:
    """Whether these rows are nearer to those one season ago than to the last ones, over a season ahead.

    A short training part that drifts may have a high correlation at a lag that means nothing. An expert of a
    wrong season costs more than it can gain.
    """
    if rows.start < season:
        return True
    later = np.arange(rows.start, rows.stop)

    def error(lag: int) -> float:
        return float(np.square(known[later] - known[later - lag]).mean())

    lags = np.unique(np.linspace(1, season, MOST_LAGS).round().astype(int)).tolist()
    return error(season) <= sum(map(error, lags)) / len(lags)


@DIVERGENCE_ALLOWED
def session_errors(
    network: RecurrentNetwork, dataset: Dataset, recipe: Recipe, judged: Judged
) -> tuple[float, ...]:
    """The errors of one session of a trained network that begins some rows before those."""
    forecaster = Forecaster(build_artifact(network, dataset, recipe))
    first = judged.first
    observations = unscaled_observations(dataset)[first:]
    rows = range(judged.rows.start - first, judged.rows.stop - first)
    predictions = simulate(forecaster, observations, rows).predictions
    one = dataset.target_scaling.scale(predictions.astype(np.float64))
    if not len(judged.starts):
        return _mean_squares(dataset, judged, one, None)
    forecasts = free_forecasts(forecaster, dataset, observations, judged.starts - first, judged.steps)
    return _mean_squares(dataset, judged, one, forecasts)


def baseline_errors(dataset: Dataset, judged: Judged) -> dict[str, tuple[float, ...]]:
    """The errors of what needs no network."""
    known, steps, season = _filled(dataset), judged.steps, judged.season
    methods: dict[str, Forecasts] = {PERSISTENCE: lambda row: known[[row] * steps]}
    if season is not None and season <= judged.rows.start:
        ahead = np.arange(steps) % season - season + 1
        methods[SEASONAL] = lambda row: known[row + ahead]
    first = judged.first
    linear = DirectLinear(known[first : judged.rows.stop], steps, AR_LAGS, shared=False)
    for row in range(judged.rows.start - 1 - first):
        linear(row)
    methods[LINEAR] = lambda row: linear(row - first)
    return {name: _followed(dataset, judged, method) for name, method in methods.items()}


def _followed(dataset: Dataset, judged: Judged, method: Forecasts) -> tuple[float, ...]:
    before = range(judged.rows.start - 1, judged.rows.stop - 1)  # a row is predicted at the row before it
    starts = set((judged.starts - 1).tolist())
    one, several = [], []
    for row in before:
        forecast = method(row)
        one.append(forecast[0])
        if row in starts:
            several.append(forecast)
    return _mean_squares(dataset, judged, np.stack(one), np.stack(several) if several else None)


def _mean_squares(
    dataset: Dataset, judged: Judged, one: Doubles, several: Doubles | None
) -> tuple[float, ...]:
    """MSE of predictions [rows, targets] and of forecasts [starts, steps, targets], scaled."""
    truth = dataset.truth.double().numpy()
    pairs = [(one, truth[judged.rows.start : judged.rows.stop])]
    if several is not None:
        pairs.append((several, truth[judged.starts[:, None] + np.arange(judged.steps)]))
    return tuple(
        float(mean_observed(np.square(found - true))) if np.isfinite(found).all() else math.inf
        for found, true in pairs
        if not np.isnan(true).all()
    )


def _trainings(dataset: Dataset, device: str) -> dict[str, Training]:
    """The trainings that the data allow; the default recipe has the fewest needs."""
    default = Training(dataset, RECIPES[DEFAULT], device)
    try:
        return {DRIFTS: Training(dataset, RECIPES[DRIFTS], device), DEFAULT: default}
    except BadInput:  # a target is not an input, or there are too few rows
        return {DEFAULT: default}


def ways_to_learn(recipe: Recipe, dataset: Dataset, judged: Judged) -> dict[str, Recipe]:
    """What sessions of one network may learn that was trained by the recipe for streams that drift."""
    recipes = {DRIFTS: recipe, STILL: replace(recipe, learning=replace(recipe.learning, readout="off"))}
    if not len(judged.starts) or dataset.future:
        return recipes
    steps = np.unique(np.linspace(1, judged.steps, DIRECT_HORIZONS).round().astype(int)).tolist()
    season = judged.season if judged.season == judged.steps else 1
    direct = replace(recipe.learning, horizons=tuple(steps), season=season)
    return recipes | {DIRECT: replace(recipe, learning=direct)}


def _without_change(training: Training) -> Training:
    """The same, with a readout of zeros: a network that predicts the change predicts none."""
    still = copy.copy(training)
    still.best_weights = {
        name: torch.zeros_like(weight) if name.startswith("fc.") else weight
        for name, weight in training.best_network().state_dict().items()
    }
    return still


def _train(training: Training, seconds: float, display: Display, clock: Callable[[], float]) -> None:
    """Train, with as many epochs as fit into the time: the learning rate falls to zero within them."""
    start, most = clock(), training.recipe.epochs
    with display(training) as progress:
        for epoch in training.run():
            spent = clock() - start
            fits = epoch.number + int((seconds - spent) * epoch.number / spent) if spent > 0 else most
            training.recipe = replace(training.recipe, epochs=min(most, max(fits, epoch.number)))
            progress.show(epoch)


def _filled(dataset: Dataset) -> Doubles:
    """[rows, targets], scaled, without gaps."""
    return fill_gaps("the data", dataset.targets, dataset.truth.double().numpy())


def _listed(errors: Errors) -> str:
    return ", ".join(
        f"{name} {' and '.join(f'{error:.3g}' for error in values)}" for name, values in errors.items()
    )
