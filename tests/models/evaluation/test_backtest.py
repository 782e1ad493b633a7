"""The backtest: streamed with the carry kept, against baselines worked out by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact.files import Artifact, Column, Scaling
from models.artifact.learning import Learning
from models.data import calendar
from models.data.dataset import Dataset, Split, identity_scaling, prepare, sine, split_rows
from models.data.series import Series
from models.errors import BadData
from models.evaluation.backtest import (
    FROZEN,
    NETWORK,
    PERSISTENCE,
    RESET,
    SEASONAL,
    backtest,
    predict_in_chunks,
)
from models.evaluation.baselines import find_season
from models.evaluation.figures import BacktestPlot, draw_backtest
from models.forecaster import Forecaster
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import DRIFTING, Recipe
from models.training.simulation import build_artifact, calibrate_learning
from models.training.training import Training

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained() -> Artifact:
    dataset = prepare(sine(), [Column("value")], ["value"], split_rows(1000))
    training = Training(dataset, Recipe(hidden_size=16, epochs=60, patience=0, streams=1))
    list(training.run())
    weights = {name: weight.numpy() for name, weight in training.best_network().state_dict().items()}
    return Artifact(
        "wave", dataset.columns, ("value",), 16, 1, dataset.scaling, dataset.target_scaling, weights
    )


def untrained(columns: int = 2) -> tuple[Artifact, Series]:
    torch.manual_seed(0)
    network = RecurrentNetwork(columns, 4, 1, columns)
    names = tuple("abc"[:columns])
    scaling = Scaling(np.arange(1.0, columns + 1), np.arange(2.0, columns + 2))
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    series = Series("x.csv", names, np.random.default_rng(0).normal(3, 2, size=(90, columns)))
    return Artifact("raw", tuple(map(Column, names)), names, 4, 1, scaling, scaling, weights), series


def test_keeping_the_carry_improves_the_backtest_of_a_sine(trained):
    scores = backtest(trained, sine(), split_rows(1000)).scores
    assert scores[NETWORK].mse * 100 < scores[RESET].mse
    assert scores[NETWORK].mse < scores[PERSISTENCE].mse
    assert scores[SEASONAL].mse < scores[PERSISTENCE].mse


@settings(max_examples=25, deadline=None)
@given(chunk=st.integers(1, 100), start=st.integers(1, 80))
def test_chunks_of_any_size_equal_one_pass(chunk, start):
    artifact, series = untrained()
    dataset = prepared(artifact, series)
    network, rows = artifact.network(), range(start, 90)
    with torch.no_grad():
        whole, _ = network(dataset.observations[None])
    streamed = predict_in_chunks(network, dataset, rows, chunk)
    torch.testing.assert_close(streamed, whole[0, start - 1 : 89], atol=1e-6, rtol=0)


def test_the_reset_method_zeroes_the_carry_at_each_chunk():
    artifact, series = untrained()
    split = Split(60, 10, 20)
    result = backtest(artifact, series, split, chunk=7)
    dataset, network = prepared(artifact, series), artifact.network()
    with torch.no_grad():
        parts = [network(dataset.observations[None, s : min(s + 7, 89)])[0][0] for s in range(69, 89, 7)]
    expected = artifact.target_scaling.unscale(torch.cat(parts).double().numpy())
    np.testing.assert_allclose(result.predictions[RESET], expected, atol=1e-5)


def test_every_score_follows_its_formula():
    artifact, series = untrained()
    result = backtest(artifact, series, Split(60, 10, 20), chunk=8, season=12)
    values, std = series.values, artifact.target_scaling.std
    shifted = {PERSISTENCE: values[69:89], SEASONAL: values[58:78], NETWORK: result.predictions[NETWORK]}
    naive = np.abs(np.diff(values[:60], axis=0)).mean(0)
    persistence = (((values[69:89] - values[70:90]) / std) ** 2).mean()
    for method, predicted in shifted.items():
        error = predicted - values[70:90]
        score = result.scores[method]
        assert score.mse == pytest.approx(((error / std) ** 2).mean())
        assert score.mae == pytest.approx(np.abs(error / std).mean())
        assert score.rmse == pytest.approx(score.mse**0.5)
        assert score.mase == pytest.approx((np.abs(error).mean(0) / naive).mean())
        assert score.skill == pytest.approx(1 - score.mse / persistence)
        own = result.by_target["b"][method]
        assert own.mae == pytest.approx(np.abs(error[:, 1]).mean())
        assert own.mase == pytest.approx(np.abs(error[:, 1]).mean() / naive[1])
    assert result.scores[PERSISTENCE].skill == 0


def test_no_prediction_sees_its_own_row_or_a_later_one():
    artifact, series = untrained()
    split, changed = Split(60, 10, 20), series.values.copy()
    changed[80:] += 100
    result = backtest(artifact, series, split, season=5)
    changed_result = backtest(artifact, Series("x.csv", series.columns, changed), split, season=5)
    for method, predicted in result.predictions.items():
        np.testing.assert_allclose(
            predicted[:11], changed_result.predictions[method][:11], atol=1e-5, err_msg=method
        )


def test_a_constant_series_has_no_mase_and_no_skill_rather_than_a_crash():
    artifact, series = untrained()
    result = backtest(artifact, Series("x.csv", series.columns, np.ones((90, 2))), Split(60, 10, 20))
    assert result.season is None
    assert SEASONAL not in result.scores
    assert (result.scores[NETWORK].mase, result.scores[NETWORK].skill) == (None, None)
    json.dumps(result.as_dict(), allow_nan=False)


@pytest.mark.parametrize("period", [7, 24, 63])
def test_a_season_is_found_under_noise_and_trend(period):
    rows = np.arange(1000)
    values = (
        np.sin(2 * np.pi * rows / period) + 0.1 * np.random.default_rng(0).normal(size=1000) + 0.01 * rows
    )
    assert find_season(values[:, None]) == period


@pytest.mark.parametrize(
    "values",
    [np.zeros(300), np.arange(300.0), np.random.default_rng(0).normal(size=300), np.zeros(1), np.arange(5.0)],
)
def test_no_season_is_found_where_there_is_none(values):
    assert find_season(values[:, None]) is None


def test_a_split_without_rows_to_test_on_is_refused():
    artifact, series = untrained()
    with pytest.raises(BadData, match="no rows to test on"):
        backtest(artifact, series, Split(90, 0, 0))


def test_a_series_without_a_column_of_the_model_is_refused():
    artifact, series = untrained()
    with pytest.raises(BadData, match="no column 'b'"):
        backtest(artifact, Series("x.csv", ("a",), series.values[:, :1]), Split(60, 10, 20))


def test_a_figure_is_drawn_of_more_targets_than_panels(tmp_path):
    names = [f"t{i}" for i in range(6)]
    values = np.random.default_rng(0).normal(size=(30, 6))
    draw_backtest(tmp_path / "x.png", "x", names, BacktestPlot(range(30), values, {"network": values}))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def prepared(artifact: Artifact, series: Series) -> Dataset:
    scalings = artifact.scaling, artifact.target_scaling
    return prepare(series, artifact.inputs, artifact.targets, Split(60, 10, 20), scalings)


def learning() -> tuple[Artifact, Series]:
    """Untrained, with a readout and intervals that learn."""
    artifact, series = untrained()
    return replace(artifact, learning=Learning(readout="rls", levels=(0.5, 0.9))), series


def test_a_learning_session_is_compared_with_the_frozen_network():
    artifact, series = learning()
    split = Split(60, 10, 20)
    result = backtest(artifact, series, split, chunk=7)
    frozen = backtest(replace(artifact, learning=Learning()), series, split, chunk=7)
    np.testing.assert_allclose(result.predictions[FROZEN], frozen.predictions[NETWORK], atol=1e-5)
    assert FROZEN not in frozen.predictions
    assert (frozen.bands, frozen.widths, frozen.surprise, frozen.surprises()) == ((), None, None, [])
    forecaster, carry, expected = Forecaster(artifact), None, []
    carry = forecaster.new_carry[None]
    for row in series.values.astype(np.float32):
        passed = forecaster.observe(row[None], np.array([1]), carry)
        carry = passed.carries
        expected.append(passed.predictions[0])
    np.testing.assert_allclose(result.predictions[NETWORK], expected[69:89], rtol=1e-4, atol=1e-5)


def test_intervals_are_compared_with_fixed_bands_of_the_validation_rows():
    artifact, series = learning()
    result = backtest(artifact, series, Split(50, 20, 20))
    assert result.widths is not None
    errors = np.abs(result.truth - result.predictions[NETWORK])
    for i, band in enumerate(result.bands):
        inside = errors <= result.widths[:, i]
        assert band.level == (0.5, 0.9)[i]
        assert (band.given.mean, band.given.least) == (inside.mean(), inside.mean(axis=0).min())
        assert band.fixed is not None
    assert result.bands[0].fixed.width < result.bands[1].fixed.width  # type: ignore[union-attr]
    assert backtest(artifact, series, Split(70, 0, 20)).bands[0].fixed is None
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_figure_shows_the_band_its_misses_and_the_scores(tmp_path):
    rng = np.random.default_rng(0)
    times = np.datetime64("2024-01-01", "us") + np.arange(90) * np.timedelta64(1, "h")
    values, names = rng.normal(size=(90, 2)), ("a", "b")
    drawn = BacktestPlot(times, values, {"network": values * 0}, 0.9, values * 0 - 1, values * 0 + 1)
    plain, scored = tmp_path / "plain.png", tmp_path / "scored.png"
    draw_backtest(plain, "x", names, drawn)
    surprise = rng.uniform(size=90)
    surprise[0] = np.nan
    draw_backtest(scored, "x", names, replace(drawn, surprise=surprise, surprise_threshold=0.99))
    heights = [int.from_bytes(path.read_bytes()[20:24], "big") for path in (plain, scored)]
    assert heights[0] < heights[1]
    draw_backtest(plain, "x", ["b"], drawn.pick([1]))
    assert int.from_bytes(plain.read_bytes()[20:24], "big") < heights[0]


def test_a_series_with_other_seconds_from_row_to_row_is_refused():
    artifact, _ = untrained(3)
    columns = (Column("a"), *map(Column, calendar.columns(("hour_of_day",))))
    network = RecurrentNetwork(3, 4, 1, 1)
    weights = {name: weight.detach().numpy() for name, weight in network.state_dict().items()}
    artifact = replace(
        artifact,
        inputs=columns,
        targets=("a",),
        weights=weights,
        scaling=identity_scaling(3),
        target_scaling=identity_scaling(1),
        time_features=("hour_of_day",),
        interval_seconds=3600.0,
    )
    times = np.datetime64("2024-01-01", "us") + np.arange(90) * np.timedelta64(30, "m")
    series = Series("x.csv", ("a",), np.zeros((90, 1)), times).with_time_features(["hour_of_day"])
    with pytest.raises(BadData, match="every 1800 s, the model was trained on one every 3600 s"):
        backtest(artifact, series, Split(60, 10, 20))


def test_gaps_are_filled_by_predictions_and_excluded_from_every_score():
    artifact, series = learning()
    values = series.values.copy()
    values[np.random.default_rng(2).random(values.shape) < 0.2] = np.nan
    gappy = Series("x.csv", series.columns, values, gaps=True)
    result = backtest(artifact, gappy, Split(60, 10, 20), chunk=6)
    known = gappy.fill_gaps().values
    np.testing.assert_array_equal(result.predictions[PERSISTENCE], known[69:89])
    for method, predicted in result.predictions.items():
        error = (predicted - values[70:90]) / artifact.target_scaling.std
        seen = ~np.isnan(error)
        assert 0.6 < seen.mean() < 1
        assert np.isfinite(predicted).all()
        assert result.scores[method].mse == pytest.approx(np.square(error[seen]).mean())
    inside = np.abs(result.truth - result.predictions[NETWORK])[:, None] <= result.widths
    seen = ~np.isnan(values[70:90])
    for i, band in enumerate(result.bands):
        assert band.given.mean == pytest.approx(inside[:, i][seen].mean())
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_learning_session_beats_the_frozen_network_and_fixed_bands():
    rng, rows = np.random.default_rng(3), np.arange(1800)
    wave = np.sin(2 * np.pi * rows / 24) * np.where(rows < 900, 1.0, 1.8)  # the swing grows after training
    other = np.roll(wave, 6) + np.where(rows < 900, 0.0, 3.0)  # and the level jumps
    values = np.stack([wave + np.roll(other, 1), other], axis=1) + 0.2 * rng.normal(size=(1800, 2))
    series = Series("x.csv", ("a", "b"), values)
    dataset = prepare(series, [Column("a"), Column("b")], ["a", "b"], split := Split(600, 200, 1000))
    recipe = replace(DRIFTING, hidden_size=8, epochs=10, judge_every=10)
    training = Training(dataset, recipe)
    list(training.run())
    network = training.best_network()
    artifact = build_artifact(network, dataset, recipe, calibrate_learning(network, dataset, recipe))
    result = backtest(artifact, series, split)
    error = {method: score.mse for method, score in result.scores.items()}
    assert error[NETWORK] < 0.9 * error[FROZEN]
    assert error[NETWORK] < 0.8 * error[PERSISTENCE]
    nine = next(band for band in result.bands if band.level == 0.9)
    assert nine.fixed is not None
    assert 0.885 < nine.given.least <= nine.given.most < 0.915
    assert nine.fixed.least < 0.85


def test_the_drawn_band_is_that_of_the_nearest_level():
    values, widths = np.zeros((5, 2)), np.arange(30.0).reshape(5, 3, 2)
    drawn = BacktestPlot(range(5), values, {"network": values + 1}).with_interval(
        (0.5, 0.8, 0.95), widths, level=0.9
    )
    assert drawn.level == 0.95
    np.testing.assert_array_equal(drawn.lower, 1 - widths[:, 2])
    np.testing.assert_array_equal(drawn.upper, 1 + widths[:, 2])
