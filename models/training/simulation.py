"""A trained network along a series as the service runs it: one session, with all that it learns on the way.

network, dataset -> as_artifact -> Forecaster -> follow -> predictions, half-widths, scores
                                              -> beginnings: what a session begins with
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import torch

from models.arrays import Doubles, Floats, Ints
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.data.dataset import Dataset
from models.forecaster import Forecaster
from models.nets.lstm import StatefulLSTM
from models.training.recipe import Recipe

HORIZONS = 8  # 1, 2, 4, ... 128 steps
FEWEST_RUNS = 16  # free runs that the growth of errors is measured on, or it is not


@dataclass(frozen=True, eq=False)
class SimulatedRun:
    """One session led along a series.

    Attributes
    ----------
    rows
        The rows that are predicted.
    predictions
        float32 [rows, outputs], own units: of each row, from everything before it.
    widths
        [rows, levels, outputs], half-widths of the intervals around them; None without levels.
    scores
        [rows], how surprising each row was; None without levels.
    """

    rows: range
    predictions: Floats
    widths: Floats | None
    scores: Floats | None


def build_artifact(
    network: StatefulLSTM,
    dataset: Dataset,
    recipe: Recipe,
    learning: Learning | None = None,
    name: str = "trained",
    metrics: Mapping[str, Any] | None = None,
) -> Artifact:
    """A trained network with all that is needed to serve it."""
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
        metrics=metrics or {},
    )


def leading_directions(network: StatefulLSTM, dataset: Dataset, rank: int) -> Floats:
    """[hidden, rank], the directions in which the hidden features of the training part vary most.

    Their principal components (Jolliffe, Principal Component Analysis, 2002): the right singular vectors of
    the features less their mean.
    """
    device = next(network.parameters()).device
    with torch.no_grad():
        hidden = (
            network.lstm(dataset.observations[None, : dataset.split.train].to(device))[0][0].cpu().numpy()
        )
    directions = np.linalg.svd(hidden - hidden.mean(0), full_matrices=False)[2]
    return np.ascontiguousarray(directions[:rank].T, dtype=np.float32)


def simulate(forecaster: Forecaster, observations: Doubles, rows: range, chunk: int = 512) -> SimulatedRun:
    """Lead one session from row 0 on, chunk by chunk; its carry is all that passes between two chunks.

    Parameters
    ----------
    observations
        [rows, inputs] in the data's own units; NaN where nothing was observed, if the session learns.
    rows
        Which rows to tell of, at least row 1: nothing comes before row 0.
    """
    given = observations[: rows.stop].astype(np.float32)
    carries = forecaster.new_carry[None]
    predictions: list[Floats] = []
    widths: list[Floats] = []
    scores: list[Floats] = []
    for start in range(0, len(given), chunk):
        piece = given[start : start + chunk]
        passed = forecaster.observe(piece, np.array([len(piece)]), carries)
        carries = passed.carries
        predictions.append(passed.predictions)
        if passed.scores is not None:
            widths.append(passed.scores.widths)
            scores.append(passed.scores.scores)
    before = slice(rows.start - 1, rows.stop - 1)  # the prediction of a row stands behind the row before it
    judged = forecaster.learning.tracks_errors
    return SimulatedRun(
        rows=rows,
        predictions=np.concatenate(predictions)[before],
        widths=np.concatenate(widths)[before] if judged else None,
        scores=np.concatenate(scores)[rows.start :] if judged else None,
    )


def streaming_error(network: StatefulLSTM, dataset: Dataset, recipe: Recipe, rows: range) -> float:
    """The one-step MSE (scaled) over the rows, the session's own readout at work from row 0 on."""
    correcting = replace(recipe.learning, levels=(), spread=())
    forecaster = Forecaster(build_artifact(network, dataset, recipe, correcting))
    predictions = simulate(forecaster, unscaled_observations(dataset), rows).predictions
    return float(np.nanmean(np.square(_errors(dataset, rows, predictions))))


def calibrate_learning(network: StatefulLSTM, dataset: Dataset, recipe: Recipe) -> Learning:
    """The recipe's learning, with what the validation part tells of errors put in.

    `spread` is each level's quantile of their absolute values (split conformal prediction: Papadopoulos et
    al., ECML 2002); `growth` is how their root mean square grows with the horizon of a free run.
    """
    learning, rows = recipe.learning, dataset.split.validation_rows
    if not learning.tracks_errors or not rows:
        return learning
    forecaster = Forecaster(build_artifact(network, dataset, recipe, learning))
    observations = unscaled_observations(dataset)
    sizes = np.abs(_errors(dataset, rows, simulate(forecaster, observations, rows).predictions))
    spread = np.maximum(np.nanquantile(sizes, learning.levels, axis=0), 1e-4)  # [levels, outputs]
    return replace(
        learning,
        spread=tuple(tuple(float(f"{width:.5g}") for width in row) for row in spread),
        growth=_growth(forecaster, dataset, observations, rows),
    )


def unscaled_observations(dataset: Dataset) -> Doubles:
    """[rows, inputs], the observations as the data had them: NaN where a target was not observed.

    Where an input that is no target is missing, nothing could stand in for it: there, it is filled.
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
    """Root mean square errors at 1, 2, 4, ... steps over that at 1; none where too few runs fit in."""
    count = min(HORIZONS, int(log2(max(len(rows) // 4, 1))) + 1)
    longest = 2 ** (count - 1)
    starts = np.arange(rows.start, rows.stop - longest + 1, max(1, (len(rows) - longest) // 100))
    if forecaster.missing or len(starts) < FEWEST_RUNS:
        return ()
    due = starts[:, None] + np.arange(longest)  # [runs, steps], the rows that are forecast
    ahead = (
        observations[due][..., forecaster.future_inputs].astype(np.float32)
        if forecaster.future_inputs
        else None
    )
    forecast, _ = forecaster.roll_out(_carries(forecaster, observations, starts), longest, ahead)
    errors = dataset.target_scaling.scale(forecast.astype(np.float64)) - dataset.truth.double().numpy()[due]
    at = 2 ** np.arange(count) - 1
    sizes = np.sqrt(np.nanmean(np.square(errors[:, at]), axis=0)) + 1e-9  # [horizons, outputs]
    ratios = np.exp(np.log(sizes / sizes[0]).mean(axis=1))
    return tuple(float(f"{ratio:.4g}") for ratio in np.maximum.accumulate(ratios))


def _carries(forecaster: Forecaster, observations: Doubles, starts: Ints) -> Floats:
    """[starts, carry_size], of one session that is about to observe each of these rows."""
    carries: list[Floats] = [forecaster.new_carry[None]]
    for begin, end in zip([0, *starts[:-1]], starts, strict=True):
        piece = observations[begin:end].astype(np.float32)
        carries.append(forecaster.observe(piece, np.array([len(piece)]), carries[-1]).carries)
    return np.concatenate(carries[1:])
