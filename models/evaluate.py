"""Streaming backtest: the network fed chunk by chunk with its carry kept, beside baselines.

Every row of the part is predicted from what came before it and from nothing else, by
    the network     its carry kept from chunk to chunk
    reset           the same network, its carry zeroed before each chunk
    persistence     the value of the row before
    seasonal naive  the value of one season before
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.artifact import Artifact
from models.data import Dataset, Split, prepare
from models.errors import BadData
from models.network import Carry, StatefulLSTM
from models.rollout import one_step
from models.scaling import Floats
from models.series import Series

NETWORK, RESET, PERSISTENCE, SEASONAL = (
    "network",
    "network, reset each chunk",
    "persistence",
    "seasonal naive",
)


@dataclass(frozen=True)
class Score:
    """How far predictions are off.

    `mse`, `mae`, `rmse` in whatever unit the errors were in; `mase` is the MAE over the MAE of persistence on
    the training part (Hyndman and Koehler, 2006), averaged over columns; `skill` is 1 - MSE / MSE of
    persistence on the same rows, None where persistence makes no error.
    """

    mse: float
    mae: float
    rmse: float
    mase: float | None
    skill: float | None


@dataclass(frozen=True, eq=False)
class Backtest:
    """What came of it.

    Attributes
    ----------
    rows
        The rows that were predicted.
    truth, predictions
        float64 [rows, targets] in the data's own units, predictions by method.
    scores
        By method, over all targets, in scaled units.
    by_target
        By target and method, in the target's own unit.
    season
        Rows to a season, None where none was found: then there is no seasonal naive.
    """

    artifact: Artifact
    rows: range
    truth: Floats
    predictions: Mapping[str, Floats]
    scores: Mapping[str, Score]
    by_target: Mapping[str, Mapping[str, Score]]
    season: int | None
    chunk: int

    def told(self) -> dict[str, Any]:
        """All but the predictions, as JSON values."""
        return {
            "model": self.artifact.name,
            "fingerprint": self.artifact.fingerprint,
            "first_row": self.rows.start,
            "rows": len(self.rows),
            "chunk": self.chunk,
            "season": self.season,
            "scaled": {method: vars(score) for method, score in self.scores.items()},
            "by_target": {
                target: {method: vars(score) for method, score in scores.items()}
                for target, scores in self.by_target.items()
            },
        }


def backtest(
    artifact: Artifact, series: Series, split: Split, *, chunk: int = 50, season: int | None = None
) -> Backtest:
    """Stream the test part through the artifact's network.

    Parameters
    ----------
    series
        With all columns of the artifact, time features included.
    split
        Its test part is predicted; the carry starts at row 0, as it would for a client that sent everything.
    chunk
        Observations to a chunk.
    season
        Rows to a season; when absent it is looked for in the training part.

    Raises
    ------
    BadData
        If the test part is empty or a column is missing.
    """
    rows = split.test_rows
    if not rows or rows.start < 1:
        raise BadData(f"{series.source}: the split leaves no rows to test on")
    scaling = (artifact.scaling, artifact.target_scaling)
    dataset = prepare(series, artifact.inputs, artifact.targets, split, scaling)
    values = series.pick(artifact.targets)
    season = season or find_season(values[: split.train])
    predictions = _predictions(artifact, dataset, values, rows, chunk, season)
    spread = artifact.target_scaling.std
    truth, past = values[rows.start : rows.stop], values[: split.train]
    errors = {method: predicted - truth for method, predicted in predictions.items()}
    return Backtest(
        artifact=artifact,
        rows=rows,
        truth=truth,
        predictions=predictions,
        scores=_scores({method: error / spread for method, error in errors.items()}, past / spread),
        by_target={
            target: _scores({method: error[:, [i]] for method, error in errors.items()}, past[:, [i]])
            for i, target in enumerate(artifact.targets)
        },
        season=season,
        chunk=chunk,
    )


def stream(network: StatefulLSTM, dataset: Dataset, rows: range, chunk: int) -> Tensor:
    """Predict each of the rows, feeding chunk by chunk; the carry is all that passes between chunks.

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


def find_season(past: Floats) -> int | None:
    """The lag of the first high autocorrelation beyond one below zero, of the first column.

    Parameters
    ----------
    past
        [rows, columns]; at least three seasons must fit in it.

    Returns
    -------
    int | None
        Rows, or None for a series that never turns or where no lag reaches a correlation of 0.3.
    """
    rows, values = np.arange(len(past)), past[:, 0]
    if len(values) < 7:
        return None
    # Changes first: slow drift looks like itself at every lag. Under noise only the levels tell.
    levels = values - np.polyval(np.polyfit(rows, values, 1), rows)
    return _first_peak(np.diff(values)) or _first_peak(levels)


def _first_peak(values: Floats) -> int | None:
    lags = len(values) // 3
    if np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None
    spectrum = np.abs(np.fft.rfft(values, 2 * len(values))) ** 2  # padded: a lag must not wrap around
    correlation = np.fft.irfft(spectrum)[:lags] / np.arange(len(values), len(values) - lags, -1)
    below = np.flatnonzero(correlation < 0)
    best = correlation[below[0] :].max() if len(below) else 0.0
    if best < 0.3 * correlation[0]:
        return None
    # The first peak near the highest: two seasons match about as well as one.
    peak = below[0] + int(np.argmax(correlation[below[0] :] >= 0.9 * best))
    while peak + 1 < lags and correlation[peak + 1] > correlation[peak]:
        peak += 1
    return int(peak)


def _predictions(
    artifact: Artifact, dataset: Dataset, values: Floats, rows: range, chunk: int, season: int | None
) -> dict[str, Floats]:
    network = artifact.network()
    unscale = artifact.target_scaling.unscale
    predictions = {
        NETWORK: unscale(stream(network, dataset, rows, chunk).double().numpy()),
        RESET: unscale(one_step(network, dataset, rows, reset_every=chunk).double().numpy()),
        PERSISTENCE: values[rows.start - 1 : rows.stop - 1],
    }
    if season is not None and season <= rows.start:
        predictions[SEASONAL] = values[rows.start - season : rows.stop - season]
    return predictions


def _scores(errors: Mapping[str, Floats], past: Floats) -> dict[str, Score]:
    naive = np.abs(np.diff(past, axis=0)).mean(axis=0)  # [targets]
    persistence = float(np.square(errors[PERSISTENCE]).mean())
    return {method: _score(error, naive, persistence) for method, error in errors.items()}


def _score(error: Floats, naive: Floats, persistence: float) -> Score:
    mse = float(np.square(error).mean())
    by_column = np.abs(error).mean(axis=0)
    return Score(
        mse=mse,
        mae=float(by_column.mean()),
        rmse=mse**0.5,
        mase=float((by_column / naive).mean()) if naive.all() else None,
        skill=1 - mse / persistence if persistence else None,
    )
