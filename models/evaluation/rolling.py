"""Forecasts from every row of the test part, compared with baselines (rolling origin: Tashman, International
Journal of Forecasting 2000).

    the network     as one session of the service, which observes each row before it forecasts
    persistence     the last value
    seasonal naive  the value at the same place of the last season
    direct AR       for each column and step a linear map of the column's last values, learned on the way
    NLinear         one linear map for all columns of the last 96 values less the last one (Zeng et al., Are
                    Transformers Effective for Time Series Forecasting?, AAAI 2023), learned on the way

The last two are fitted by recursive least squares; a row corrects each step that it is the target of. Every
method knows the rows up to its origin, and no later one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import Doubles
from models.artifact.artifact import Artifact
from models.data.dataset import Split
from models.data.measures import json_fields, mean_observed
from models.data.series import Series, fill_gaps
from models.errors import BadData
from models.evaluation.baselines import find_season
from models.forecaster import Forecaster

NETWORK, PERSISTENCE, SEASONAL, DIRECT_AR, NLINEAR = (
    "network",
    "persistence",
    "seasonal naive",
    "direct AR",
    "NLinear",
)
AR_LAGS, NLINEAR_LAGS = 49, 96
FORGETTING, PRECISION = 0.9995, 1.0  # of the linear baselines
LEVEL = 0.9  # of the interval whose coverage and score are given; or the nearest
HOURS = 24

Forecasts = Callable[[int], Doubles]
"""Row of the origin -> forecasts [steps, columns], scaled; called for each row in order."""


@dataclass(frozen=True)
class HorizonScore:
    """Errors of forecasts, over all of their steps, all origins and all columns, in scaled units.

    Attributes
    ----------
    mse, mae
        Mean squared and absolute error.
    mase
        MAE over that of persistence, one step ahead, on the training part (Hyndman and Koehler, 2006).
    """

    mse: float
    mae: float
    mase: float


@dataclass(frozen=True)
class HorizonBand:
    """Intervals at the last step of forecasts, in scaled units.

    Attributes
    ----------
    least, most
        Lowest and highest coverage of a column.
    least_phase
        Lowest coverage, over all columns, at a place of the season, or in one of 24 parts of a longer one.
    after_miss
        Coverage one row after an observation outside its interval.
    interval_score
        Width plus, for an observation outside, its distance times 2 / (1 - level) (Gneiting and Raftery,
        2007).
    quantile_loss
        Mean pinball loss of the quantiles of all levels, over the mean absolute value of the observations.
    """

    least: float
    most: float
    least_phase: float
    after_miss: float
    interval_score: float
    quantile_loss: float


@dataclass(frozen=True, eq=False)
class Rolling:
    """The result.

    Attributes
    ----------
    rows : origins of the forecasts
    horizons : ascending
    scores : by method, one for each horizon
    bands : of the network, one for each horizon; empty without intervals
    level : of the coverage and the interval score; None without intervals
    excess : how far a forecast of the network left the range of the column's earlier rows, over that range
    season : rows; None if none was found
    """

    rows: range
    horizons: tuple[int, ...]
    scores: Mapping[str, tuple[HorizonScore, ...]]
    bands: tuple[HorizonBand, ...]
    level: float | None
    excess: float
    season: int | None

    def as_dict(self) -> dict[str, Any]:
        """JSON values; None for what could not be measured."""
        return {
            "first_row": self.rows.start,
            "origins": len(self.rows),
            "horizons": list(self.horizons),
            "season": self.season,
            "scaled": {
                method: [json_fields(score) for score in scores] for method, scores in self.scores.items()
            },
            "level": self.level,
            "intervals": [json_fields(band) for band in self.bands],
            "excess": self.excess,
        }


def evaluate_forecasts(
    artifact: Artifact,
    series: Series,
    split: Split,
    horizons: Sequence[int],
    season: int | None = None,
    fleet: Artifact | None = None,
) -> Rolling:
    """Forecast from the row before each test row whose last target is a test row.

    Parameters
    ----------
    series
        With all columns of the artifact, time features included.
    horizons
        Steps of the forecasts, ascending.
    season
        Rows of a season; without it, the artifact's, or one that is found in the training part.
    fleet
        Serves the session in place of the artifact, as in `backtest`.

    Raises
    ------
    BadData
        The test part is shorter than the longest forecast, or the model does not forecast.
    """
    steps, test = max(horizons), split.test_rows
    rows = range(test.start - 1, test.stop - steps)
    if rows.start < 0 or not rows:
        raise BadData(f"{series.source}: the test part has {len(test)} rows, too few for {steps} steps")
    forecaster = Forecaster(fleet or artifact)
    if forecaster.missing or forecaster.future_inputs:
        raise BadData(f"{artifact.name!r} needs more than its own predictions to forecast; see `forecast`")
    scaling = artifact.target_scaling
    truth = scaling.scale(series.pick(artifact.targets))
    known = scaling.scale(fill_gaps(series.source, artifact.targets, series.pick(artifact.targets)))
    if season is None and forecaster.learning.forecasts_directly:
        season = forecaster.learning.season
    season = season or find_season(known[: split.train])
    network = _Network(artifact, forecaster, series, steps)
    methods: dict[str, Forecasts] = {NETWORK: network, PERSISTENCE: lambda row: known[[row] * steps]}
    if season is not None and rows.start >= season:
        ahead = np.arange(steps) % season - season + 1
        methods[SEASONAL] = lambda row: known[row + ahead]
    methods[DIRECT_AR] = DirectLinear(known, steps, AR_LAGS, shared=False)
    methods[NLINEAR] = DirectLinear(known, steps, NLINEAR_LAGS, shared=True)
    targets = np.arange(rows.start, rows.stop)[:, None] + 1 + np.arange(steps)  # [origins, steps]
    usual = mean_observed(np.abs(np.diff(truth[: split.train], axis=0)), axis=0)
    scores, found = {}, np.empty((len(rows), steps, truth.shape[1]))
    for name, method in methods.items():
        forecasts = np.stack([method(row) for row in range(rows.stop)][rows.start :])
        errors = forecasts - truth[targets]
        scores[name] = tuple(_score(errors[:, :horizon], usual) for horizon in horizons)
        if name == NETWORK:
            found = forecasts
    widths = network.widths[rows.start :] if forecaster.learning.levels else []
    bands = [
        _band(horizon, found, widths, truth[targets], rows, season, forecaster)
        for horizon in horizons
        if len(widths)
    ]
    return Rolling(
        rows=rows,
        horizons=tuple(horizons),
        scores=scores,
        bands=tuple(bands),
        level=forecaster.learning.levels[_level(forecaster)] if bands else None,
        excess=_excess(found, known, rows),
        season=season,
    )


class _Network:
    """One session. Keeps the half-widths of its forecasts, each [steps, levels, columns], scaled."""

    def __init__(self, artifact: Artifact, forecaster: Forecaster, series: Series, steps: int) -> None:
        self._forecaster, self._steps = forecaster, steps
        self._observations = series.pick(artifact.columns).astype(np.float32)
        self._scale = artifact.target_scaling
        self._carries = forecaster.new_carry[None]
        self.widths: list[Doubles] = []

    def __call__(self, row: int) -> Doubles:
        forecaster, one = self._forecaster, np.ones(1, np.int64)
        observation = self._observations[row : row + 1]
        if forecaster.learner is not None:
            self._carries = forecaster.observe(observation, one, self._carries).carries
        else:
            self._carries = forecaster.advance(observation, one, self._carries)[1]
        if forecaster.learning.levels:
            widths = forecaster.forecast_widths(self._carries, self._steps)[0]
            self.widths.append(widths.astype(np.float64) / self._scale.std)
        forecast, _ = forecaster.roll_out(self._carries, self._steps)
        return self._scale.scale(forecast[0].astype(np.float64))


class DirectLinear:
    """For each step a linear map of the last values less the last one, learned as the targets are observed.

    Recursive least squares with one covariance for all steps: the gain of an origin is kept until its targets
    are there.

    Parameters
    ----------
    values : [rows, columns], of about unit size, no gaps; values before row 0 are taken as the first
    shared : one map for all columns, or one for each
    """

    def __init__(self, values: Doubles, steps: int, lags: int, *, shared: bool) -> None:
        rows, columns = values.shape
        past = np.concatenate([np.repeat(values[:1], lags, axis=0), values])
        windows = np.lib.stride_tricks.sliding_window_view(past, lags, axis=0)[
            1:, :, :-1
        ]  # [rows, columns, lags - 1]
        self._values, self._steps, self._shared = values, steps, shared
        self._features = np.concatenate([windows - values[:, :, None], np.ones((rows, columns, 1))], axis=2)
        size, maps = lags, 1 if shared else columns
        self._weights = np.zeros((maps, steps, size))
        self._covariance = np.repeat(np.eye(size)[None] / PRECISION, maps, axis=0)
        self._gains = np.zeros((rows, columns, size))

    def __call__(self, row: int) -> Doubles:
        """[steps, columns], the forecasts after this row; to be called for each row in order."""
        columns = range(self._values.shape[1])
        for column in columns:
            which = 0 if self._shared else column
            self._learn(row, column, which)
            self._add(row, column, which)
        self._covariance = (self._covariance + self._covariance.transpose(0, 2, 1)) / (2 * FORGETTING)
        maps = [0 if self._shared else column for column in columns]
        changes = np.einsum("csk,ck->sc", self._weights[maps], self._features[row])
        return np.asarray(self._values[row] + changes)

    def _learn(self, row: int, column: int, which: int) -> None:
        """Correct every step whose target this row is."""
        steps = np.arange(min(self._steps, row))
        origins = row - 1 - steps
        weights, features = self._weights[which], self._features[origins, column]
        changes = self._values[row, column] - self._values[origins, column]
        errors = changes - np.einsum("sk,sk->s", weights[: len(steps)], features)
        weights[: len(steps)] += errors[:, None] * self._gains[origins, column]

    def _add(self, row: int, column: int, which: int) -> None:
        """Add the features of this row to the covariance, and keep their gain."""
        features, covariance = self._features[row, column], self._covariance[which]
        product = covariance @ features
        self._gains[row, column] = gain = product / (1 + features @ product)
        covariance -= np.outer(product, gain)


def _score(errors: Doubles, usual: Doubles) -> HorizonScore:
    """The score of errors [origins, steps, columns]; `usual` [columns]: MAE of persistence at one step."""
    by_column = mean_observed(np.abs(errors.reshape(-1, errors.shape[2])), axis=0)
    return HorizonScore(
        mse=float(mean_observed(np.square(errors))),
        mae=float(mean_observed(np.abs(errors))),
        mase=float(mean_observed(by_column / usual)),
    )


def _level(forecaster: Forecaster) -> int:
    return int(np.abs(np.array(forecaster.learning.levels) - LEVEL).argmin())


def _band(
    horizon: int,
    forecasts: Doubles,
    widths: Sequence[Doubles],
    truth: Doubles,
    rows: range,
    season: int | None,
    forecaster: Forecaster,
) -> HorizonBand:
    """How the intervals of the last step did: forecasts and truth are [origins, steps, columns], scaled."""
    half = np.stack([width[horizon - 1] for width in widths])  # [origins, levels, columns]
    errors = truth[:, horizon - 1] - forecasts[:, horizon - 1]
    sizes, levels = np.abs(errors), forecaster.learning.levels
    level = _level(forecaster)
    observed = ~np.isnan(sizes)
    inside = np.where(observed, sizes <= half[:, level], np.nan)
    beyond = np.maximum(sizes - half[:, level], 0) * 2 / (1 - levels[level])
    season = season or 1
    phases = (np.array(rows) + horizon) % season * min(season, HOURS) // season
    by_phase = [mean_observed(inside[phases == phase]) for phase in np.unique(phases)]
    losses = [
        np.maximum(share * (errors - sign * half[:, i]), (share - 1) * (errors - sign * half[:, i]))
        for i, width_level in enumerate(levels)
        for sign, share in ((-1, (1 - width_level) / 2), (1, (1 + width_level) / 2))
    ]
    by_column = mean_observed(inside, axis=0)
    return HorizonBand(
        least=float(by_column.min()),
        most=float(by_column.max()),
        least_phase=float(min(by_phase)),
        after_miss=float(mean_observed(inside[1:][inside[:-1] == 0])),
        interval_score=float(mean_observed(2 * half[:, level] + beyond)),
        quantile_loss=float(
            2 * mean_observed(np.stack(losses)) / mean_observed(np.abs(truth[:, horizon - 1]))
        ),
    )


def _excess(forecasts: Doubles, known: Doubles, rows: range) -> float:
    low, high = np.minimum.accumulate(known)[rows], np.maximum.accumulate(known)[rows]
    beyond = np.maximum(forecasts - high[:, None], low[:, None] - forecasts)
    return float(max(np.max(beyond / np.maximum(high - low, 1e-12)[:, None]), 0))
