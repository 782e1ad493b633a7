"""A network that was trained on many series -> one artifact, whose sessions begin with what all have taught.

spread, growth       of intervals: the mean over the series
horizons' readouts   the least-squares fit to all series: their readouts weighted by their precision, as
                     Bayes' rule joins normal estimates; as sure as one series is, so a session still learns
scale                of each series; `Fleet`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from models.arrays import Doubles, Floats
from models.artifact.artifact import HORIZONS, Artifact
from models.artifact.fleet import STAGES, Fleet
from models.artifact.learning import Learning
from models.data.dataset import Dataset
from models.data.fleets import check_alike, fleet_scaling, spread_growth
from models.errors import BadData, BadRecipe
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import Recipe
from models.training.simulation import build_artifact, calibrate_learning, with_horizons_prior
from models.training.training import MOST_JUDGED

READOUTS, VARIANCES = HORIZONS + "readouts", HORIZONS + "variances"


def build_fleet_artifact(
    network: RecurrentNetwork, datasets: Mapping[str, Dataset], recipe: Recipe, name: str = "trained"
) -> Artifact:
    """Make the artifact of a network that was trained on these series, which `check_fleet` lets through.

    What sessions begin with is measured on all of them, or on `MOST_JUDGED` of them.
    """
    series = list(datasets.values())
    some = series[:: -(-len(series) // MOST_JUDGED)]
    learning = _joined_learning([calibrate_learning(network, dataset, recipe) for dataset in some])
    artifact = build_artifact(network, series[0], recipe, learning, name)
    if learning.forecasts_directly:
        learned = [with_horizons_prior(artifact.of_series(each.scaling), each).weights for each in some]
        artifact = replace(artifact, weights={**artifact.weights, **joined_priors(learned)})
    scaling = fleet_scaling([dataset.scaling for dataset in series])
    growth = tuple(spread_growth(series, stage) for stage in STAGES)
    return replace(artifact.of_series(scaling), fleet=_fleet(datasets, growth))


def check_fleet(datasets: Mapping[str, Dataset], recipe: Recipe) -> None:
    """Refuse, before a training, what cannot become an artifact.

    Raises
    ------
    BadRecipe
        The series are not scaled.
    BadData
        The series have other columns, or a target is not an input.
    BadArtifact
        A name is too long.
    """
    if not recipe.scaled:
        raise BadRecipe("a network of many series scales each of them by its own training part")
    check_alike(datasets)
    first = next(iter(datasets.values()))
    for target in first.targets:
        if target not in first.names:
            raise BadData(f"a network of many series needs its targets as inputs; {target!r} is not an input")
    _fleet(datasets, (1.0,) * len(STAGES))


def _fleet(datasets: Mapping[str, Dataset], growth: tuple[float, ...]) -> Fleet:
    scalings = [dataset.scaling for dataset in datasets.values()]
    mean, std = (np.stack([getattr(each, name) for each in scalings]) for name in ("mean", "std"))
    return Fleet(tuple(datasets), mean.astype(np.float32), std.astype(np.float32), STAGES, growth)


def joined_priors(learned: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The weights `horizons.*` that fit all series, of those that fit each.

    With the covariance P and the readout w of each series, the joined precision is the mean of the inverses
    of P, and the joined readout is the joined covariance times the mean of inv(P) w. All else is the mean.
    """
    names = [name for name in learned[0] if name.startswith(HORIZONS)]
    joined = {name: _mean([weights[name] for weights in learned]) for name in names}
    precisions = [np.linalg.inv(weights[VARIANCES].astype(np.float64)) for weights in learned]
    covariance = np.linalg.inv(np.mean(precisions, axis=0))  # [outputs, features, features]
    pulls = [
        np.einsum("oij,hoj->hoi", precision, weights[READOUTS].astype(np.float64))
        for precision, weights in zip(precisions, learned, strict=True)
    ]
    readouts = np.einsum("oij,hoj->hoi", covariance, np.mean(pulls, axis=0))
    symmetric = (covariance + covariance.transpose(0, 2, 1)) / 2
    if np.isfinite(readouts).all() and np.isfinite(symmetric).all():
        joined[READOUTS], joined[VARIANCES] = readouts.astype(np.float32), symmetric.astype(np.float32)
    return joined


def _joined_learning(found: Sequence[Learning]) -> Learning:
    """The mean of what was calibrated on each series."""
    spreads = [np.array(each.spread) for each in found if each.spread]
    growths = [each.growth for each in found if each.growth]
    shortest = min((len(growth) for growth in growths), default=0)
    return replace(
        found[0],
        spread=tuple(tuple(_short(width) for width in row) for row in np.mean(spreads, axis=0))
        if spreads
        else (),
        growth=tuple(_short(ratio) for ratio in np.mean([growth[:shortest] for growth in growths], axis=0))
        if growths
        else (),
    )


def _mean(arrays: Sequence[Floats]) -> Floats:
    mean: Doubles = np.mean([array.astype(np.float64) for array in arrays], axis=0)
    return mean.astype(np.float32)


def _short(number: float) -> float:
    return float(f"{number:.5g}")
