"""Forecasts from every row: the baselines know no later row, and the figures are those of a plain loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.artifact.learning import Learning
from models.data.dataset import Split
from models.data.series import Series
from models.errors import BadData
from models.evaluation.direct_linear import FORGETTING, DirectLinear
from models.evaluation.rolling import (
    DIRECT_AR,
    NETWORK,
    NLINEAR,
    PERSISTENCE,
    SEASONAL,
    SEASONAL_MEAN,
    evaluate_forecasts,
    forecast_session,
    origins,
)
from models.forecaster import Forecaster

SPLIT = Split(150, 30, 60)
LEARNING = Learning(levels=(0.5, 0.9), horizons=(1, 4), season=6)


@pytest.fixture
def artifact(artifacts):
    return replace(artifacts["adaptive"], learning=LEARNING)


@pytest.fixture
def recorded():
    rng = np.random.default_rng(0)
    at = np.arange(240)
    wave = np.sin(2 * np.pi * at / 6)
    return Series("x.csv", ("a", "b"), np.stack([wave, -wave], axis=1) + 0.1 * rng.normal(size=(240, 2)))


def test_the_errors_are_those_of_a_session_that_forecasts_at_every_row(artifact, recorded):
    rolling = evaluate_forecasts(artifact, recorded, SPLIT, (1, 4))
    forecaster, scale = Forecaster(artifact), artifact.target_scaling
    values = recorded.pick(artifact.columns).astype(np.float32)
    truth = scale.scale(recorded.pick(artifact.targets))
    carries, errors, inside = forecaster.new_carry[None], [], []
    for row in range(236):
        carries = forecaster.observe(values[row : row + 1], np.array([1]), carries).carries
        if row >= 179:
            forecast = scale.scale(forecaster.roll_out(carries, 4)[0][0].astype(float))
            widths = forecaster.forecast_widths(carries, 4)[0, 3, 1] / scale.std
            errors.append(forecast - truth[row + 1 : row + 5])
            inside.append(np.abs(errors[-1][3]) <= widths)
    assert rolling.rows == range(179, 236)
    assert rolling.scores[NETWORK][1].mse == pytest.approx(np.square(errors).mean())
    assert rolling.scores[NETWORK][0].mse == pytest.approx(np.square(errors)[:, 0].mean())
    assert rolling.level == 0.9
    by_column = np.mean(inside, axis=0)
    assert (rolling.bands[1].least, rolling.bands[1].most) == (by_column.min(), by_column.max())


def test_the_season_is_better_than_the_last_value_where_there_is_one(artifact, recorded):
    scores = evaluate_forecasts(artifact, recorded, SPLIT, (4,)).scores
    assert set(scores) == {NETWORK, PERSISTENCE, SEASONAL, SEASONAL_MEAN, DIRECT_AR, NLINEAR}
    assert scores[SEASONAL][0].mse < 0.1 * scores[PERSISTENCE][0].mse
    values = artifact.target_scaling.scale(recorded.pick(artifact.targets))
    rows = np.arange(179, 236)[:, None] + 1 + np.arange(4)
    means = np.mean([values[rows - 6 * season] for season in range(1, 8)], axis=0)
    assert scores[SEASONAL_MEAN][0].mse == pytest.approx(np.square(means - values[rows]).mean())
    for learned in (NETWORK, DIRECT_AR, NLINEAR):
        assert scores[learned][0].mse < 0.2 * scores[PERSISTENCE][0].mse


def test_the_baselines_have_a_season_where_the_model_has_none(artifact, recorded):
    without = replace(artifact, learning=replace(LEARNING, season=1))
    found = evaluate_forecasts(without, recorded, SPLIT, (4,))
    assert found.season == 6
    assert found.scores[SEASONAL][0].mse < 0.1 * found.scores[PERSISTENCE][0].mse


def test_what_was_never_observed_is_left_out_of_the_coverage(artifact, recorded):
    """A place of the season, and a column of the test part."""
    values = recorded.values.copy()
    values[::6] = np.nan
    values[180:, 1] = np.nan
    (band, _) = evaluate_forecasts(artifact, replace(recorded, values=values, gaps=True), SPLIT, (1, 4)).bands
    assert 0 < band.least_phase <= band.least == band.most <= 1


def test_there_is_no_mase_where_a_column_does_not_change_in_training(artifact, recorded):
    values = recorded.values.copy()
    values[: SPLIT.train, 1] = 3
    scores = evaluate_forecasts(artifact, replace(recorded, values=values), SPLIT, (4,)).scores
    assert np.isnan(scores[NETWORK][0].mase)
    assert scores[NETWORK][0].mae > 0


def test_a_series_that_is_its_mean_throughout_has_no_relative_loss(artifact, recorded):
    values = np.repeat(artifact.scaling.mean[None], len(recorded.values), axis=0)
    (band,) = evaluate_forecasts(artifact, replace(recorded, values=values), SPLIT, (4,)).bands
    assert np.isnan(band.quantile_loss)
    assert band.interval_score >= 0


def test_forecasts_that_were_made_elsewhere_are_scored_alike(artifact, recorded):
    rows = origins(recorded, SPLIT, 4)
    session = forecast_session(artifact, recorded, rows, 4)
    found = evaluate_forecasts(artifact, recorded, SPLIT, (1, 4), session=session, baselines=False)
    whole = evaluate_forecasts(artifact, recorded, SPLIT, (1, 4))
    assert set(found.scores) == {NETWORK}
    assert (found.scores[NETWORK], found.bands) == (whole.scores[NETWORK], whole.bands)
    worse = replace(session, values=session.values + 1)
    scores = evaluate_forecasts(artifact, recorded, SPLIT, (4,), session=worse, baselines=False).scores
    assert scores[NETWORK][0].mse > 0.9


@pytest.mark.parametrize("shared", [False, True])
def test_a_linear_baseline_is_the_least_squares_fit_of_what_it_has_observed(shared):
    """Weighted by age, with a prior of weight 1, for each step ahead."""
    values = np.random.default_rng(1).normal(size=(40, 2)).cumsum(axis=0) / 5
    lags, steps, end = 4, 3, 39
    baseline = DirectLinear(values, steps, lags, shared=shared)
    found = [baseline(row) for row in range(end + 1)][-1]
    past = np.concatenate([np.repeat(values[:1], lags, axis=0), values])
    features = np.stack([past[row + 1 : row + lags] - values[row] for row in range(40)]).transpose(0, 2, 1)
    features = np.concatenate([features, np.ones((40, 2, 1))], axis=2)  # [rows, columns, lags]
    for step in range(1, steps + 1):
        for column in range(2):
            columns = [0, 1] if shared else [column]
            starts = np.arange(end + 1 - step)
            # The covariance has all rows: a gain is that of its own row, whenever its target comes.
            weights = _delayed(features, values, columns, starts, step, lags)
            change = features[end, column] @ weights
            np.testing.assert_allclose(found[step - 1, column], values[end, column] + change, atol=1e-9)


def _delayed(features, values, columns, starts, step, lags):
    """Recursive least squares over the origins, in order."""
    covariance, weights = np.eye(lags), np.zeros(lags)
    for origin in starts:
        for column in columns:
            own = features[origin, column]
            gain = covariance @ own / (1 + own @ covariance @ own)
            error = values[origin + step, column] - values[origin, column] - own @ weights
            weights = weights + gain * error
            covariance = covariance - np.outer(gain, own @ covariance)
        covariance = covariance / FORGETTING
    return weights


def test_a_linear_baseline_is_no_worse_after_values_that_stood_still():
    still, moving = 40_000, np.random.default_rng(3).normal(size=(1000, 1)).cumsum(axis=0) / 10
    values = np.concatenate([moving, np.repeat(moving[-1:], still, axis=0), moving[-1] + moving])
    baseline = DirectLinear(values, 1, 12, shared=False)
    found = np.concatenate([baseline(row) for row in range(len(values) - 1)])
    errors = np.square(found - values[1:])[-1000:].mean()
    assert errors < 1.3 * np.square(np.diff(values, axis=0))[-1000:].mean()


def test_later_rows_change_no_forecast_of_a_baseline():
    values = np.random.default_rng(2).normal(size=(60, 1))
    changed = values.copy()
    changed[41:] = 9
    for shared in (False, True):
        one, other = (DirectLinear(rows, 5, 8, shared=shared) for rows in (values, changed))
        for row in range(41):
            np.testing.assert_array_equal(one(row), other(row))


@pytest.mark.parametrize(("split", "steps"), [(Split(150, 30, 3), 4), (Split(0, 0, 3), 4)])
def test_a_test_part_that_is_too_short_is_refused(artifact, recorded, split, steps):
    with pytest.raises(BadData, match="too few"):
        evaluate_forecasts(artifact, recorded, split, (steps,))


def test_a_model_that_cannot_forecast_alone_is_refused(artifacts, recorded):
    with pytest.raises(BadData, match="more than its own predictions"):
        evaluate_forecasts(artifacts["partial"], recorded, SPLIT, (2,))


@pytest.mark.parametrize("model", ["partial", "sine"])
def test_gaps_leave_forecasts_that_can_be_measured(artifacts, model):
    """In an input that is not a target, and in the target of a session that learns nothing."""
    artifact = artifacts[model]
    if model == "partial":
        artifact = replace(artifact, learning=LEARNING)
    wave = np.sin(2 * np.pi * np.arange(240) / 6)
    values = np.repeat(wave[:, None], len(artifact.columns), axis=1)
    values[[50, 200], 0] = np.nan
    series = Series("x.csv", artifact.columns, values, gaps=True)
    for score in evaluate_forecasts(artifact, series, SPLIT, (1, 4)).scores[NETWORK]:
        assert np.isfinite([score.mse, score.mae, score.mase]).all()


def test_the_result_is_json_without_nan(artifact, recorded):
    document = evaluate_forecasts(artifact, recorded, SPLIT, (1, 4)).as_dict()
    assert document["horizons"] == [1, 4]
    assert [set(band) for band in document["intervals"]] == 2 * [
        {"least", "most", "least_phase", "after_miss", "interval_score", "quantile_loss"}
    ]
