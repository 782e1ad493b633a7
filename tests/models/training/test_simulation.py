"""A session led along a series: what is measured in training is what the service will do."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact.learning import Learning
from models.data.dataset import Dataset, Split, prepare
from models.data.scaling import Column
from models.data.series import Series
from models.forecaster import Forecaster
from models.training.recipe import Recipe
from models.training.rollout import one_step
from models.training.simulation import (
    build_artifact,
    calibrate_learning,
    leading_directions,
    simulate,
    streaming_error,
    unscaled_observations,
)
from models.training.training import initial_network

torch.set_num_threads(1)

LEARNING = Learning(readout="rls", inputs=True, forgetting=0.99, levels=(0.5, 0.9))
RECIPE = Recipe(hidden_size=6, predicts="change", learning=LEARNING)


def readings(rows: int = 400) -> Dataset:
    """A wave and its echo under noise, hourly."""
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(rows) / 5)
    values = np.stack([wave, 3 * np.roll(wave, 4)], axis=1) + 0.1 * rng.normal(size=(rows, 2))
    times = np.datetime64("2024-01-01", "us") + np.arange(rows) * np.timedelta64(1, "h")
    series = Series("x.csv", ("a", "b"), values, times).with_time_features(["hour_of_day"])
    columns = [Column(name) for name in series.columns]
    return prepare(series, columns, ["a", "b"], Split(200, 120, 80))


@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_a_simulation_does_not_depend_on_the_chunk_size(chunk):
    dataset = readings(120)
    forecaster = Forecaster(build_artifact(initial_network(dataset, RECIPE).eval(), dataset, RECIPE))
    whole = simulate(forecaster, unscaled_observations(dataset), range(40, 120), chunk=1000)
    pieces = simulate(forecaster, unscaled_observations(dataset), range(40, 120), chunk=chunk)
    np.testing.assert_allclose(pieces.predictions, whole.predictions, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pieces.widths, whole.widths, rtol=1e-5)
    np.testing.assert_allclose(pieces.scores, whole.scores, atol=1e-5)
    assert pieces.predictions.shape == (80, 2)
    assert pieces.widths is not None
    assert pieces.widths.shape == (80, 2, 2)


def test_no_row_affects_its_own_prediction():
    dataset = readings()
    forecaster = Forecaster(build_artifact(initial_network(dataset, RECIPE).eval(), dataset, RECIPE))
    observations = unscaled_observations(dataset)
    before = simulate(forecaster, observations, range(200, 300))
    observations[250:] += 100
    after = simulate(forecaster, observations, range(200, 300))
    np.testing.assert_array_equal(before.predictions[:51], after.predictions[:51])
    assert (before.predictions[51] != after.predictions[51]).all()


def test_a_simulation_without_learning_is_the_frozen_network():
    dataset, recipe = readings(), replace(RECIPE, learning=Learning())
    network = initial_network(dataset, recipe).eval()
    followed = simulate(
        Forecaster(build_artifact(network, dataset, recipe)), unscaled_observations(dataset), range(1, 400)
    )
    expected = dataset.target_scaling.unscale(one_step(network, dataset, range(1, 400)).double().numpy())
    np.testing.assert_allclose(followed.predictions, expected, atol=1e-4)
    assert (followed.widths, followed.scores) == (None, None)


def test_a_readout_that_learns_makes_a_smaller_error_than_an_untrained_network():
    dataset = readings()
    network = initial_network(dataset, RECIPE).eval()
    rows = dataset.split.validation_rows
    frozen = (one_step(network, dataset, rows) - dataset.truth[rows.start : rows.stop]).square().mean()
    assert streaming_error(network, dataset, RECIPE, rows) < 0.5 * float(frozen)


def test_initial_intervals_come_from_the_errors_of_the_validation_part():
    dataset = readings()
    network = initial_network(dataset, RECIPE).eval()
    learned = calibrate_learning(network, dataset, RECIPE)
    followed = simulate(
        Forecaster(build_artifact(network, dataset, RECIPE)), unscaled_observations(dataset), range(200, 320)
    )
    truth = dataset.truth[200:320].double().numpy()
    sizes = np.abs(dataset.target_scaling.scale(followed.predictions.astype(float)) - truth)
    for level, row in zip(LEARNING.levels, learned.spread, strict=True):
        np.testing.assert_allclose((sizes <= np.array(row)).mean(axis=0), level, atol=0.02)
    assert learned.growth[0] == 1
    assert len(learned.growth) == 5  # 1, 2, 4, 8, 16 steps, of 120 rows
    assert list(learned.growth) == sorted(learned.growth)
    assert replace(learned, spread=(), growth=()) == LEARNING


def test_growth_is_measured_on_free_runs_with_inputs_known_ahead():
    dataset = readings()
    network = initial_network(dataset, RECIPE).eval()
    recipe = replace(RECIPE, learning=Learning(levels=(0.9,)))
    forecaster = Forecaster(build_artifact(network, dataset, recipe))
    observations = unscaled_observations(dataset).astype(np.float32)
    sizes = np.zeros((5, 2))
    carry = forecaster.new_carry[None]
    for row in range(320 - 16 + 1):
        if row >= 200:
            forecast = forecaster.roll_out(carry, 16, observations[None, row : row + 16, 2:])[0][0]
            truth = dataset.truth[row : row + 16].double().numpy()
            errors = dataset.target_scaling.scale(forecast.astype(float)) - truth
            sizes += np.square(errors[[0, 1, 3, 7, 15]])
        carry = forecaster.observe(observations[row : row + 1], np.array([1]), carry).carries
    ratios = np.sqrt(sizes / sizes[0]).prod(axis=1) ** 0.5
    expected = np.maximum.accumulate(ratios)
    np.testing.assert_allclose(calibrate_learning(network, dataset, recipe).growth, expected, rtol=1e-3)


def test_forecasts_that_explode_and_a_growth_beyond_all_bounds_make_a_valid_learning(monkeypatch):
    dataset = readings()
    recipe = replace(RECIPE, learning=Learning(levels=(0.9,)))
    network = initial_network(dataset, recipe).eval()
    steps = np.arange(16)[:, None]
    for forecast in (10.0 ** (steps + 1), np.where(steps < 8, 1.0, np.inf), np.where(steps < 8, 1.0, np.nan)):
        forecasts = np.broadcast_to(forecast, (105, 16, 2))
        monkeypatch.setattr("models.training.simulation.free_forecasts", lambda *given, f=forecasts: f)
        growth = calibrate_learning(network, dataset, recipe).growth
        assert growth == () or 1 == growth[0] <= growth[-1] < 1e6


def test_without_validation_rows_initial_intervals_are_those_of_the_recipe():
    dataset = replace(readings(), split=Split(300, 0, 100))
    assert calibrate_learning(initial_network(dataset, RECIPE).eval(), dataset, RECIPE) == LEARNING


def test_the_basis_has_the_directions_that_vary_most():
    dataset = readings()
    network = initial_network(dataset, RECIPE).eval()
    basis = leading_directions(network, dataset, 3)
    with torch.no_grad():
        hidden = network.recurrent(dataset.observations[None, :200])[0][0].double().numpy()
    variances, vectors = np.linalg.eigh(np.cov(hidden.T))
    np.testing.assert_allclose(np.abs(np.sum(basis * vectors[:, ::-1][:, :3], axis=0)), 1, atol=1e-4)
    np.testing.assert_allclose(np.cov((hidden @ basis).T), np.diag(variances[::-1][:3]), atol=1e-7)
    recipe = replace(RECIPE, learning=replace(LEARNING, rank=3))
    artifact = build_artifact(network, dataset, recipe)
    np.testing.assert_array_equal(artifact.weights["readout.basis"], basis)
