"""Forecasts from every row of the test part, compared with baselines (rolling origin: Tashman, International
Journal of Forecasting 2000).

    the network     as one session of the service, which observes each row before it forecasts
    persistence     the last value
    seasonal naive  the value at the same place of the last season
    seasonal mean   the mean of the values at that place in the last seven seasons
    direct AR       for each column and step a linear map of the column's last values, learned on the way
    NLinear         one linear map for all columns of the last 96 values less the last one (Zeng et al., Are
                    Transformers Effective for Time Series Forecasting?, AAAI 2023), learned on the way

The last two are fitted by recursive least squares; a row corrects each step that it is the target of. Every
method knows the rows up to its origin, and no later one.
"""

from __future__ import annotations

import math
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
from models.evaluation.direct_linear import DirectLinear
from models.forecaster import Forecaster

NETWORK, PERSISTENCE, SEASONAL, SEASONAL_MEAN, DIRECT_AR, NLINEAR = (
    "network",
    "persistence",
    "seasonal naive",
    "seasonal mean",
    "direct AR",
    "NLinear",
)
AR_LAGS, NLINEAR_LAGS = 49, 96
SEASONS = 7  # of the seasonal mean
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
        MAE over that of persistence, one step ahead, on the training part (Hyndman and Koehler, 2006); NaN
        where a column does not change there.
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
        Lowest and highest coverage of a column, of those that were observed.
    least_phase
        Lowest coverage, over all columns, at a place of the season, or in one of 24 parts of a longer one.
    after_miss
        Coverage one row after an observation outside its interval.
    interval_score
        Width plus, for an observation outside, its distance times 2 / (1 - level) (Gneiting and Raftery,
        2007).
    quantile_loss
        Mean pinball loss of the quantiles of all levels, over the mean absolute value of the observations;
        NaN where that is 0.
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


@dataclass(frozen=True, eq=False)
class SessionForecasts:
    """What one session forecasts after each of some rows, in scaled units.

    Attributes
    ----------
    values : [origins, steps, columns]
    widths : [origins, steps, levels, columns], half-widths of the intervals; without intervals no levels
    """

    values: Doubles
    widths: Doubles


def evaluate_forecasts(
    artifact: Artifact,
    series: Series,
    split: Split,
    horizons: Sequence[int],
    season: int | None = None,
    served: Artifact | None = None,
    session: SessionForecasts | None = None,
    *,
    baselines: bool = True,
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
    served
        Serves the session in place of the artifact, as in `backtest`.
    session
        The network's forecasts from the rows of `origins`, if they were made elsewhere.
    baselines
        Whether to compare them.

    Raises
    ------
    BadData
        The test part is shorter than the longest forecast, or the model does not forecast.
    """
    steps, forecaster = max(horizons), Forecaster(served or artifact)
    rows = origins(series, split, steps)
    if forecaster.missing or forecaster.future_inputs:
        raise BadData(f"{artifact.name!r} needs more than its own predictions to forecast; see `forecast`")
    scaling, names = artifact.target_scaling, artifact.targets
    truth = scaling.scale(series.pick(names))
    known = scaling.scale(fill_gaps(series.source, names, series.pick(names)))
    if season is None and forecaster.learning.forecasts_directly and forecaster.learning.season > 1:
        season = forecaster.learning.season
    season = season or find_season(known[: split.train])
    if session is None:
        session = forecast_session(artifact, series, rows, steps, served)
    forecasts = {NETWORK: session.values}
    if baselines:
        forecasts |= _baselines(known, rows, steps, season)
    targets = np.arange(rows.start, rows.stop)[:, None] + 1 + np.arange(steps)  # [origins, steps]
    usual = mean_observed(np.abs(np.diff(truth[: split.train], axis=0)), axis=0)
    errors = {name: values - truth[targets] for name, values in forecasts.items()}
    scores = {
        name: tuple(_score(found[:, :horizon], usual) for horizon in horizons)
        for name, found in errors.items()
    }
    levels = forecaster.learning.levels
    bands = [_band(horizon, session, truth[targets], rows, season, levels) for horizon in horizons if levels]
    return Rolling(
        rows=rows,
        horizons=tuple(horizons),
        scores=scores,
        bands=tuple(bands),
        level=levels[nearest_level(levels)] if levels else None,
        excess=_excess(session.values, known, rows),
        season=season,
    )


def origins(series: Series, split: Split, steps: int) -> range:
    """The rows that are forecast from: all targets are test rows.

    Raises
    ------
    BadData
        There is none.
    """
    test = split.test_rows
    rows = range(test.start - 1, test.stop - steps)
    if rows.start < 0 or not rows:
        raise BadData(f"{series.source}: the test part has {len(test)} rows, too few for {steps} steps")
    return rows


def forecast_session(
    artifact: Artifact, series: Series, rows: range, steps: int, served: Artifact | None = None
) -> SessionForecasts:
    """Forecast from each of these rows, in a session that observes every row from row 0 on.

    `served` serves the session in place of the artifact, as in `backtest`.
    """
    forecaster, scale, one = Forecaster(served or artifact), artifact.target_scaling, np.ones(1, np.int64)
    observations = session_observations(artifact, series).astype(np.float32)
    values: list[Doubles] = []
    widths: list[Doubles] = []
    carries = forecaster.new_carry[None]
    for row in range(rows.stop):
        observation = observations[row : row + 1]
        if forecaster.learner is not None or np.isnan(observation).any():
            carries = forecaster.observe(observation, one, carries).carries
        else:
            carries = forecaster.advance(observation, one, carries)[1]
        if row >= rows.start:
            values.append(scale.scale(forecaster.roll_out(carries, steps)[0][0].astype(np.float64)))
            if forecaster.learning.levels:
                half = forecaster.forecast_widths(carries, steps)[0].astype(np.float64)
                widths.append(half / scale.std)
    empty = np.empty((len(rows), steps, 0, len(artifact.targets)))
    return SessionForecasts(np.stack(values), np.stack(widths) if widths else empty)


def session_observations(artifact: Artifact, series: Series) -> Doubles:
    """[rows, inputs], what a session observes of a series: NaN where a target has a gap.

    A gap in an input that is not a target is filled: no prediction can replace it.
    """
    observations = series.pick(artifact.columns)
    others = [i for i, name in enumerate(artifact.columns) if name not in artifact.targets]
    if others:
        names = [artifact.columns[i] for i in others]
        observations[:, others] = fill_gaps(series.source, names, observations[:, others])
    return observations


def _baselines(known: Doubles, rows: range, steps: int, season: int | None) -> dict[str, Doubles]:
    """[origins, steps, columns] by method, from values [rows, columns] without gaps."""
    methods: dict[str, Forecasts] = {PERSISTENCE: lambda row: known[[row] * steps]}
    if season is not None and rows.start >= season:
        ahead = np.arange(steps) % season - season + 1
        methods[SEASONAL] = lambda row: known[row + ahead]
        past = ahead - season * np.arange(SEASONS)[:, None]  # [seasons, steps]
        if season > 1 and rows.start + past.min() >= 0:
            methods[SEASONAL_MEAN] = lambda row: known[row + past].mean(axis=0)
    methods[DIRECT_AR] = DirectLinear(known, steps, AR_LAGS, shared=False)
    methods[NLINEAR] = DirectLinear(known, steps, NLINEAR_LAGS, shared=True)
    return {
        name: np.stack([method(row) for row in range(rows.stop)][rows.start :])
        for name, method in methods.items()
    }


def _score(errors: Doubles, usual: Doubles) -> HorizonScore:
    """The score of errors [origins, steps, columns]; `usual` [columns]: MAE of persistence at one step."""
    by_column = mean_observed(np.abs(errors.reshape(-1, errors.shape[2])), axis=0)
    return HorizonScore(
        mse=float(mean_observed(np.square(errors))),
        mae=float(mean_observed(np.abs(errors))),
        mase=float(mean_observed(by_column / usual)) if usual.all() else math.nan,
    )


def nearest_level(levels: Sequence[float]) -> int:
    """Index of the level whose coverage and score are given."""
    return int(np.abs(np.array(levels) - LEVEL).argmin())


def _band(
    horizon: int,
    session: SessionForecasts,
    truth: Doubles,
    rows: range,
    season: int | None,
    levels: Sequence[float],
) -> HorizonBand:
    """How the intervals of the last step did; truth is [origins, steps, columns], scaled."""
    half = session.widths[:, horizon - 1]  # [origins, levels, columns]
    errors = truth[:, horizon - 1] - session.values[:, horizon - 1]
    sizes, level = np.abs(errors), nearest_level(levels)
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
    by_column, usual = mean_observed(inside, axis=0), mean_observed(np.abs(truth[:, horizon - 1]))
    return HorizonBand(
        least=float(np.fmin.reduce(by_column)),
        most=float(np.fmax.reduce(by_column)),
        least_phase=float(np.fmin.reduce(by_phase)),
        after_miss=float(mean_observed(inside[1:][inside[:-1] == 0])),
        interval_score=float(mean_observed(2 * half[:, level] + beyond)),
        quantile_loss=float(2 * mean_observed(np.stack(losses)) / usual) if usual else math.nan,
    )


def _excess(forecasts: Doubles, known: Doubles, rows: range) -> float:
    low, high = np.minimum.accumulate(known)[rows], np.maximum.accumulate(known)[rows]
    beyond = np.maximum(forecasts - high[:, None], low[:, None] - forecasts)
    return float(max(np.max(beyond / np.maximum(high - low, 1e-12)[:, None]), 0))
