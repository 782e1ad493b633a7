"""Run a trained network along a series as the service does: as one session, which learns on the way.

network, dataset -> build_artifact -> Forecaster -> simulate -> predictions, half-widths, surprise
                                                 -> calibrate_learning -> initial widths and their growth
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import torch

from models.arrays import Doubles, Floats, Ints
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.data.dataset import Dataset
from models.data.measures import mean_observed
from models.forecaster import Forecaster
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import Recipe

# What a diverging network or learner gives is infinite or NaN: that is measured, or not, without warnings.
DIVERGENCE_ALLOWED = np.errstate(over="ignore", invalid="ignore")
HORIZONS = 8  # 1, 2, 4, ... 128 steps
SMALLEST_WIDTH = 1e-4  # scaled units, of an initial interval
LARGEST = 9e5  # of an initial width, scaled, and of the growth: `Learning` allows less than 1e6
FEWEST_RUNS = 16  # free runs; with fewer, the growth of errors is not measured


@dataclass(frozen=True, eq=False)
class SimulatedRun:
    """What one session gave along a series.

    Attributes
    ----------
    rows
        The rows that are predicted.
    predictions
        [rows, outputs], the data's own units: of each row, from everything before it.
    widths
        [rows, levels, outputs], half-widths of the intervals around the predictions; None without levels.
    scores
        [rows], how surprising each row was; None without levels.
    """

    rows: range
    predictions: Floats
    widths: Floats | None
    scores: Floats | None


def build_artifact(
    network: RecurrentNetwork,
    dataset: Dataset,
    recipe: Recipe,
    learning: Learning | None = None,
    name: str = "trained",
    metrics: Mapping[str, Any] | None = None,
) -> Artifact:
    """Make an artifact of a trained network.

    Parameters
    ----------
    learning
        What sessions learn; the recipe's by default.

    Raises
    ------
    BadArtifact
        If anything does not fit together.
    """
    learning = recipe.learning if learning is None else learning
    weights = {key: weight.detach().cpu().numpy() for key, weight in network.state_dict().items()}
    if learning.rank:
        weights["readout.basis"] = leading_directions(network, dataset, learning.rank)
    return Artifact(
        name=name,
        inputs=dataset.columns,
        targets=dataset.targets,
        hidden_size=recipe.hidden_size,
        num_layers=recipe.num_layers,
        scaling=dataset.scaling,
        target_scaling=dataset.target_scaling,
        weights=weights,
        predicts=recipe.predicts,
        learning=learning,
        future=dataset.future,
        time_features=dataset.time_features,
        interval_seconds=dataset.interval_seconds,
        architecture=recipe.architecture,
        metrics=metrics or {},
    )


def leading_directions(network: RecurrentNetwork, dataset: Dataset, rank: int) -> Floats:
    """The directions in which the hidden features vary most over the training part: [hidden, rank].

    Their principal components (Jolliffe, Principal Component Analysis, 2002): the right singular vectors of
    the features less their mean.
    """
    device = next(network.parameters()).device
    with torch.no_grad():
        observations = dataset.observations[None, : dataset.split.train].to(device)
        hidden = network.recur(network.embed(observations))[0][0].cpu().numpy()
    directions = np.linalg.svd(hidden - hidden.mean(0), full_matrices=False)[2]
    return np.ascontiguousarray(directions[:rank].T, dtype=np.float32)


@DIVERGENCE_ALLOWED
def simulate(forecaster: Forecaster, observations: Doubles, rows: range, chunk: int = 512) -> SimulatedRun:
    """Run one session from row 0 on, chunk by chunk; only the carry passes between chunks.

    Parameters
    ----------
    observations
        [rows, inputs] in the data's own units; NaN where a target was not observed.
    rows
        The rows to return, from row 1 at least: nothing comes before row 0.
    """
    inputs = observations[: rows.stop].astype(np.float32)
    carries = forecaster.new_carry[None]
    predictions: list[Floats] = []
    widths: list[Floats] = []
    scores: list[Floats] = []
    for start in range(0, len(inputs), chunk):
        piece = inputs[start : start + chunk]
        result = forecaster.observe(piece, np.array([len(piece)]), carries)
        carries = result.carries
        predictions.append(result.predictions)
        if result.scores is not None:
            widths.append(result.scores.widths)
            scores.append(result.scores.scores)
    before = slice(rows.start - 1, rows.stop - 1)  # a row is predicted at the row before it
    tracked = forecaster.learning.tracks_errors
    return SimulatedRun(
        rows=rows,
        predictions=np.concatenate(predictions)[before],
        widths=np.concatenate(widths)[before] if tracked else None,
        scores=np.concatenate(scores)[rows.start :] if tracked else None,
    )


@DIVERGENCE_ALLOWED
def with_horizons_prior(artifact: Artifact, dataset: Dataset) -> Artifact:
    """The artifact with what one session has learned to forecast by the end of the training part.

    New sessions begin with it. The validation part follows it, so errors measured there are not in-sample.
    """
    forecaster = Forecaster(artifact)
    observed = unscaled_observations(dataset)[: dataset.split.train].astype(np.float32)
    carry = forecaster.observe(observed, np.array([len(observed)]), forecaster.new_carry[None]).carries[0]
    return replace(artifact, weights={**artifact.weights, **forecaster.horizons_prior(carry)})


def streaming_error(network: RecurrentNetwork, dataset: Dataset, recipe: Recipe, rows: range) -> float:
    """The one-step MSE, scaled, over the rows, of a session that corrects its readout from row 0 on."""
    readout_only = replace(recipe.learning, levels=(), spread=(), horizons=())
    forecaster = Forecaster(build_artifact(network, dataset, recipe, readout_only))
    predictions = simulate(forecaster, unscaled_observations(dataset), rows).predictions
    return float(mean_observed(np.square(_errors(dataset, rows, predictions))))


@DIVERGENCE_ALLOWED
def calibrate_learning(network: RecurrentNetwork, dataset: Dataset, recipe: Recipe) -> Learning:
    """The recipe's learning with `spread` and `growth` measured on the validation part.

    `spread` is the quantile of the absolute errors at each level (split conformal prediction: Papadopoulos et
    al., ECML 2002). `growth` is how their root mean square grows with the horizon of a free run. What cannot
    be measured stays as the recipe has it: without a validation part, or where a target was never observed in
    it, or where an error is infinite.
    """
    learning, rows = recipe.learning, dataset.split.validation_rows
    if not learning.tracks_errors or not rows:
        return learning
    forecaster = Forecaster(build_artifact(network, dataset, recipe, learning))
    observations = unscaled_observations(dataset)
    sizes = np.abs(_errors(dataset, rows, simulate(forecaster, observations, rows).predictions))
    spread = _spread(sizes, learning.levels)
    growth = () if learning.forecasts_directly else _growth(forecaster, dataset, observations, rows)
    return replace(learning, spread=spread or learning.spread, growth=growth or learning.growth)


def _spread(sizes: Doubles, levels: Sequence[float]) -> tuple[tuple[float, ...], ...]:
    """Quantiles of absolute errors [rows, outputs], scaled; empty where they cannot be measured."""
    if not np.isfinite(sizes).any(axis=0).all() or np.isinf(sizes).any():
        return ()
    widths = np.clip(np.nanquantile(sizes, levels, axis=0), SMALLEST_WIDTH, LARGEST)  # [levels, outputs]
    return tuple(tuple(float(f"{width:.5g}") for width in row) for row in widths)


def unscaled_observations(dataset: Dataset) -> Doubles:
    """[rows, inputs], the observations in the data's own units: NaN where a target was not observed.

    A gap in an input that is not a target stays filled: no prediction can replace it.
    """
    values = dataset.scaling.unscale(dataset.observations.double().numpy())
    if dataset.gaps is not None:
        predicted = [name in dataset.targets for name in dataset.names]
        values[dataset.gaps & predicted] = np.nan
    return values


def _errors(dataset: Dataset, rows: range, predictions: Floats) -> Doubles:
    """[rows, outputs], scaled; NaN where nothing was observed."""
    truth: Doubles = dataset.truth[rows.start : rows.stop].double().numpy()
    return dataset.target_scaling.scale(predictions.astype(np.float64)) - truth


def _growth(
    forecaster: Forecaster, dataset: Dataset, observations: Doubles, rows: range
) -> tuple[float, ...]:
    """Root mean square error at 1, 2, 4, ... steps, divided by that at 1; empty if too few runs fit in."""
    count = min(HORIZONS, int(log2(max(len(rows) // 4, 1))) + 1)
    longest = 2 ** (count - 1)
    starts = np.arange(rows.start, rows.stop - longest + 1, max(1, (len(rows) - longest) // 100))
    if forecaster.missing or len(starts) < FEWEST_RUNS:
        return ()
    forecasts = free_forecasts(forecaster, dataset, observations, starts, longest)
    errors = forecasts - dataset.truth.double().numpy()[starts[:, None] + np.arange(longest)]
    at = 2 ** np.arange(count) - 1
    sizes = np.sqrt(mean_observed(np.square(errors[:, at]), axis=0)) + 1e-9  # [horizons, outputs]
    ratios = np.exp(np.log(sizes / sizes[0]).mean(axis=1))
    if not np.isfinite(ratios).all():
        return ()
    return tuple(float(f"{ratio:.4g}") for ratio in np.minimum(np.maximum.accumulate(ratios), LARGEST))


def free_forecasts(
    forecaster: Forecaster, dataset: Dataset, observations: Doubles, starts: Ints, steps: int
) -> Doubles:
    """What one session, which observes every row from row 0 on, forecasts before each of these rows.

    Parameters
    ----------
    observations
        [rows, inputs] in the data's own units.
    starts
        Ascending, the first row of each forecast.

    Returns
    -------
    [starts, steps, outputs], scaled.
    """
    rows = starts[:, None] + np.arange(steps)
    known = forecaster.future_inputs
    ahead = observations[rows][..., known].astype(np.float32) if known else None
    forecast, _ = forecaster.roll_out(_carries(forecaster, observations, starts), steps, ahead)
    return dataset.target_scaling.scale(forecast.astype(np.float64))


def _carries(forecaster: Forecaster, observations: Doubles, starts: Ints) -> Floats:
    """[starts, carry_size], the carry of one session just before it observes each of these rows."""
    carries: list[Floats] = [forecaster.new_carry[None]]
    for begin, end in zip([0, *starts[:-1]], starts, strict=True):
        piece = observations[begin:end].astype(np.float32)
        carries.append(forecaster.observe(piece, np.array([len(piece)]), carries[-1]).carries)
    return np.concatenate(carries[1:])
