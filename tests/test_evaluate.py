"""The backtest: streamed with the carry kept, against baselines worked out by hand."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artifact import Artifact, Column, Scaling
from models.data import Dataset, Split, prepare, sine, split_rows
from models.errors import BadData
from models.evaluate import NETWORK, PERSISTENCE, RESET, SEASONAL, backtest, find_season, stream
from models.figures import draw_backtest
from models.network import StatefulLSTM
from models.recipe import Recipe
from models.series import Series
from models.train import Training

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained() -> Artifact:
    dataset = prepare(sine(), [Column("value")], ["value"], split_rows(1000))
    training = Training(dataset, Recipe(hidden_size=16, epochs=60, patience=0, streams=1))
    list(training.run())
    weights = {name: weight.numpy() for name, weight in training.trained().state_dict().items()}
    return Artifact(
        "wave", dataset.columns, ("value",), 16, 1, dataset.scaling, dataset.target_scaling, weights
    )


def untrained(columns: int = 2) -> tuple[Artifact, Series]:
    torch.manual_seed(0)
    network = StatefulLSTM(columns, 4, 1, columns)
    names = tuple("abc"[:columns])
    scaling = Scaling(np.arange(1.0, columns + 1), np.arange(2.0, columns + 2))
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    series = Series("x.csv", names, np.random.default_rng(0).normal(3, 2, size=(90, columns)))
    return Artifact("raw", tuple(map(Column, names)), names, 4, 1, scaling, scaling, weights), series


def test_the_carry_pays_in_the_backtest_of_a_wave(trained):
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
    streamed = stream(network, dataset, rows, chunk)
    torch.testing.assert_close(streamed, whole[0, start - 1 : 89], atol=1e-6, rtol=0)


def test_reset_is_the_same_network_from_zero_at_each_chunk():
    artifact, series = untrained()
    split = Split(60, 10, 20)
    result = backtest(artifact, series, split, chunk=7)
    dataset, network = prepared(artifact, series), artifact.network()
    with torch.no_grad():
        parts = [network(dataset.observations[None, s : min(s + 7, 89)])[0][0] for s in range(69, 89, 7)]
    expected = artifact.target_scaling.unscale(torch.cat(parts).double().numpy())
    np.testing.assert_allclose(result.predictions[RESET], expected, atol=1e-5)


def test_every_score_is_what_its_formula_says():
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
    one = backtest(artifact, series, split, season=5)
    two = backtest(artifact, Series("x.csv", series.columns, changed), split, season=5)
    for method, predicted in one.predictions.items():
        np.testing.assert_allclose(predicted[:11], two.predictions[method][:11], atol=1e-5, err_msg=method)


def test_a_constant_series_has_no_mase_and_no_skill_rather_than_a_crash():
    artifact, series = untrained()
    result = backtest(artifact, Series("x.csv", series.columns, np.ones((90, 2))), Split(60, 10, 20))
    assert result.season is None
    assert SEASONAL not in result.scores
    assert (result.scores[NETWORK].mase, result.scores[NETWORK].skill) == (None, None)
    json.dumps(result.told(), allow_nan=False)


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
def test_no_season_is_made_up(values):
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
    draw_backtest(tmp_path / "x.png", "x", names, range(30), values, {"network": values})
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def prepared(artifact: Artifact, series: Series) -> Dataset:
    scalings = artifact.scaling, artifact.target_scaling
    return prepare(series, artifact.inputs, artifact.targets, Split(60, 10, 20), scalings)
