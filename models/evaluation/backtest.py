"""Streaming backtest: a network fed chunk by chunk with its carry kept, compared with baselines.

Every row of the test part is predicted from the rows before it, by
    the network     as one session of the service, which keeps its carry, and learns if the artifact says so
    frozen          the same network without learning, if its sessions learn
    reset           the frozen network, its carry zeroed before each chunk
    the baselines   of models/evaluation/baselines.py
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.arrays import Doubles, Floats, Times
from models.artifact.files import Artifact
from models.data.dataset import Dataset, Split, prepare
from models.data.measures import json_fields, mean_observed, measured, skill
from models.data.series import Series, fill_gaps
from models.errors import BadData
from models.evaluation.bands import Band, evaluate_bands, surprise_threshold, surprising_ranges
from models.evaluation.baselines import find_season, online_autoregression
from models.evaluation.rolling import session_observations
from models.forecaster import Forecaster
from models.nets.recurrent import Carry, RecurrentNetwork
from models.training.rollout import one_step
from models.training.simulation import SimulatedRun, simulate

NETWORK, FROZEN, RESET = "network", "network, frozen", "network, reset each chunk"
PERSISTENCE, SEASONAL, ONLINE_AR = "persistence", "seasonal naive", "online AR"


@dataclass(frozen=True)
class Score:
    """Errors of predictions; NaN, or infinite, where they could not be measured.

    Attributes
    ----------
    mse, mae, rmse
        In the unit of the errors.
    mase
        MAE divided by the MAE of persistence on the training part (Hyndman and Koehler, 2006), averaged over
        columns.
    skill
        1 - MSE / MSE of persistence on the same rows; None where persistence makes no error.
    """

    mse: float
    mae: float
    rmse: float
    mase: float | None
    skill: float | None


@dataclass(frozen=True, eq=False)
class Backtest:
    """The result of a backtest.

    Attributes
    ----------
    rows, times
        The rows that were predicted, and their times; None for a series without times.
    truth, predictions
        [rows, targets] in the data's own units; predictions by method.
    scores
        By method, over all targets, in scaled units.
    by_target
        By target and method, in the target's own unit.
    bands, widths, surprise
        How the intervals did, by level; their half-widths [rows, levels, targets] in the data's own units;
        how surprising each row was, [rows]. Empty and None for an artifact without intervals.
    season
        Rows of a season; None if none was found: then there is no seasonal baseline.
    """

    artifact: Artifact
    rows: range
    times: Times | None
    truth: Doubles
    predictions: Mapping[str, Doubles]
    scores: Mapping[str, Score]
    by_target: Mapping[str, Mapping[str, Score]]
    bands: tuple[Band, ...]
    widths: Doubles | None
    surprise: Doubles | None
    season: int | None
    chunk: int

    def as_dict(self) -> dict[str, Any]:
        """The result without the predictions, as JSON values: None for what could not be measured."""
        return {
            "model": self.artifact.name,
            "fingerprint": self.artifact.fingerprint,
            "first_row": self.rows.start,
            "rows": len(self.rows),
            "chunk": self.chunk,
            "season": self.season,
            "intervals": [band.as_dict() for band in self.bands],
            "surprises": [{"first_row": rows.start, "last_row": rows.stop - 1} for rows in self.surprises()],
            "scaled": {method: json_fields(score) for method, score in self.scores.items()},
            "by_target": {
                target: {method: json_fields(score) for method, score in scores.items()}
                for target, scores in self.by_target.items()
            },
        }

    def surprises(self) -> list[range]:
        """Ranges of rows with the highest 1 % of surprise; rows near each other form one; highest first."""
        return [] if self.surprise is None else surprising_ranges(self.surprise, self.rows)

    def surprise_threshold(self) -> float:
        """The lowest surprise of those 1 %; 1 for an artifact without intervals."""
        return 1.0 if self.surprise is None else surprise_threshold(self.surprise)


def backtest(
    artifact: Artifact,
    series: Series,
    split: Split,
    *,
    chunk: int = 50,
    season: int | None = None,
    served: Artifact | None = None,
) -> Backtest:
    """Stream the test part through the artifact's network.

    Parameters
    ----------
    series
        With all columns of the artifact, time features included.
    split
        Its test part is predicted; the carry starts at row 0, as for a client that sent every row.
    chunk
        Observations of a chunk.
    season
        Rows of a season; without it, one is looked for in the training part.
    served
        Serves the session in place of the artifact: the same network, whose session does not know the scale
        of this series. The errors are in the scale of the artifact, and so is the frozen network.

    Raises
    ------
    BadData
        The test part is empty, a column is missing, or rows are not as far apart as in the training.
    """
    rows = split.test_rows
    if not rows or rows.start < 1:
        raise BadData(f"{series.source}: the split leaves no rows to test on")
    if artifact.time_features and series.interval_seconds() != artifact.interval_seconds:
        raise BadData(
            f"{series.source} has a row every {series.interval_seconds():g} s, the model was trained on one "
            f"every {artifact.interval_seconds:g} s"
        )
    scaling = (artifact.scaling, artifact.target_scaling)
    dataset = prepare(series, artifact.inputs, artifact.targets, split, scaling, artifact.future)
    values = series.pick(artifact.targets)
    known = fill_gaps(series.source, artifact.targets, values)
    season = season or find_season(known[: split.train])
    run = None
    if artifact.learning.enabled or served is not None:
        run = _simulate_session(served or artifact, series, split, chunk)
    predictions = _predictions(artifact, dataset, known, rows, chunk, season)
    if run is not None:
        frozen = {FROZEN: predictions.pop(NETWORK)}
        predictions = {NETWORK: run.predictions[-len(rows) :].astype(np.float64), **frozen, **predictions}
    spread = artifact.target_scaling.std
    truth, past = values[rows.start : rows.stop], values[: split.train]
    errors = {method: predicted - truth for method, predicted in predictions.items()}
    return Backtest(
        artifact=artifact,
        rows=rows,
        times=None if series.times is None else series.times[rows.start : rows.stop],
        truth=truth,
        predictions=predictions,
        scores=_scores({method: error / spread for method, error in errors.items()}, past / spread),
        by_target={
            target: _scores({method: error[:, [i]] for method, error in errors.items()}, past[:, [i]])
            for i, target in enumerate(artifact.targets)
        },
        bands=() if run is None else evaluate_bands(artifact, run, values, split),
        widths=_last(run.widths, rows) if run is not None else None,
        surprise=_last(run.scores, rows) if run is not None else None,
        season=season,
        chunk=chunk,
    )


def predict_in_chunks(network: RecurrentNetwork, dataset: Dataset, rows: range, chunk: int) -> Tensor:
    """Predict each of the rows, feeding chunk by chunk; only the carry passes between chunks.

    Returns
    -------
    Tensor
        [rows, outputs], scaled.
    """
    observations = dataset.observations[None]
    outputs: list[Tensor] = []
    carry: Carry | None = None
    with torch.no_grad():
        if rows.start > 1:
            _, carry = network(observations[:, : rows.start - 1])
        for start in range(rows.start - 1, rows.stop - 1, chunk):
            predicted, carry = network(observations[:, start : min(start + chunk, rows.stop - 1)], carry)
            outputs.append(predicted[0])
    return torch.cat(outputs)


def _simulate_session(artifact: Artifact, series: Series, split: Split, chunk: int) -> SimulatedRun:
    """One session from row 0 on, over validation and test part: fixed bands are measured on the former."""
    rows = range(max(split.validation_rows.start, 1), split.test_rows.stop)
    return simulate(Forecaster(artifact), session_observations(artifact, series), rows, chunk)


def _last(values: Floats | None, rows: range) -> Doubles | None:
    return None if values is None else values[-len(rows) :].astype(np.float64)


def _predictions(
    artifact: Artifact, dataset: Dataset, values: Doubles, rows: range, chunk: int, season: int | None
) -> dict[str, Doubles]:
    network = artifact.network()
    unscale = artifact.target_scaling.unscale
    predictions = {
        NETWORK: unscale(predict_in_chunks(network, dataset, rows, chunk).double().numpy()),
        RESET: unscale(one_step(network, dataset, rows, reset_every=chunk).double().numpy()),
        PERSISTENCE: values[rows.start - 1 : rows.stop - 1],
        ONLINE_AR: unscale(online_autoregression(artifact.target_scaling.scale(values), rows)),
    }
    if season is not None and season <= rows.start:
        predictions[SEASONAL] = values[rows.start - season : rows.stop - season]
    return predictions


def _scores(errors: Mapping[str, Doubles], past: Doubles) -> dict[str, Score]:
    naive = mean_observed(np.abs(np.diff(past, axis=0)), axis=0)  # [targets]
    persistence = measured(mean_observed(np.square(errors[PERSISTENCE])))
    return {method: _score(error, naive, persistence) for method, error in errors.items()}


def _score(error: Doubles, naive: Doubles, persistence: float | None) -> Score:
    mse = float(mean_observed(np.square(error)))
    by_column = mean_observed(np.abs(error), axis=0)  # NaN for a target that was never observed
    return Score(
        mse=mse,
        mae=float(mean_observed(by_column)),
        rmse=mse**0.5,
        mase=measured(mean_observed(by_column / naive)) if naive.all() else None,
        skill=skill(measured(mse), persistence),
    )
