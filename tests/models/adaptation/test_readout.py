"""The readout that a session learns: recursive least squares beside a batch solve, and in the long run."""

import numpy as np
import pytest

from models.adaptation import readout


def streams(sessions, steps, size, outputs, seed=0):
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(steps, sessions, 1, size)).astype(np.float32)
    features[..., -1] = 1.0
    truth = draw.normal(size=(sessions, 1, outputs, size)).astype(np.float32)
    noise = draw.normal(size=(steps, sessions, 1, outputs)).astype(np.float32)
    return features, (truth @ features[..., None])[..., 0] + 0.1 * noise


def learned(features, targets, forgetting, prior, observed=None):
    steps, sessions, groups, size = features.shape
    weights = np.zeros((sessions, groups, targets.shape[-1], size), np.float32)
    covariance = np.zeros((sessions, groups, size, size), np.float32)
    lam, pull = (np.full((sessions, groups), value, np.float32) for value in (forgetting, prior))
    readout.initialize(weights, covariance, pull)
    for step in range(steps):
        errors = targets[step] - readout.corrections(weights, features[step])
        now = np.ones((sessions, groups), bool) if observed is None else observed[step]
        renewed_feature = np.full((sessions, groups), step % size)
        readouts = readout.Readouts(weights, covariance, lam, pull, renewed_feature)
        readout.update(readouts, features[step], errors * now[..., None], now)
    return weights, covariance


def solved(features, targets, forgetting, prior):
    """The weighted least squares of one session in one solve, float64, the kept-up prior written as rows."""
    steps, size = features.shape
    information, moment = prior * np.eye(size), np.zeros((size, targets.shape[1]))
    for step in range(steps):
        information = forgetting * information + np.outer(features[step], features[step])
        moment = forgetting * moment + np.outer(features[step], targets[step])
        information[step % size, step % size] += size * (1 - forgetting) * prior
    return np.linalg.solve(information, moment).T, np.linalg.inv(information)


@pytest.mark.parametrize("forgetting", [0.98, 0.999, 1.0])
@pytest.mark.parametrize("prior", [0.1, 10.0])
def test_the_recursion_equals_the_batch_solve_of_weighted_least_squares(forgetting, prior):
    features, targets = streams(3, 400, 9, 2)
    weights, covariance = learned(features, targets, forgetting, prior)
    for session in range(3):
        exact = solved(
            *(part[:, session, 0].astype(np.float64) for part in (features, targets)), forgetting, prior
        )
        np.testing.assert_allclose(weights[session, 0], exact[0], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(covariance[session, 0], exact[1], rtol=1e-2, atol=1e-6)


def test_sessions_learn_the_same_together_and_alone():
    features, targets = streams(5, 60, 7, 3)
    together, _ = learned(features, targets, 0.99, 1.0)
    for session in range(5):
        own = slice(session, session + 1)
        alone, _ = learned(features[:, own], targets[:, own], 0.99, 1.0)
        np.testing.assert_allclose(together[own], alone, rtol=1e-5, atol=1e-6)


def test_where_nothing_is_observed_nothing_is_learned_or_forgotten():
    features, targets = streams(2, 50, 5, 1)
    observed = np.ones((50, 2, 1), bool)
    observed[30:, 1] = False
    weights, covariance = learned(features, targets, 0.99, 1.0, observed)
    early, early_covariance = learned(features[:30], targets[:30], 0.99, 1.0)
    np.testing.assert_array_equal(weights[1], early[1])
    np.testing.assert_array_equal(covariance[1], early_covariance[1])
    assert np.abs(weights[0] - early[0]).max() > 0


def test_the_covariance_stays_exactly_symmetric_and_positive():
    features, targets = streams(2, 20_000, 9, 1)
    _, covariance = learned(features, targets, 0.98, 1.0)
    np.testing.assert_array_equal(covariance, covariance.swapaxes(-1, -2))
    assert np.linalg.eigvalsh(covariance.astype(np.float64)).min() > 0


def test_a_direction_that_nothing_excites_does_not_wind_up():
    """Without a prior that is kept up, the covariance would be 0.98**-20000 there: beyond any float."""
    features, targets = streams(1, 20_000, 6, 1)
    features[..., 1:5] = 0.0
    weights, covariance = learned(features, targets, 0.98, 2.0)
    assert np.diagonal(covariance[0, 0]).max() < 2 / 2.0  # P is near 1 / prior at most
    assert np.isfinite(weights).all()


def test_a_correction_that_the_data_no_longer_supports_fades():
    features, targets = streams(1, 3_000, 6, 1)
    features[1000:, ..., 2] = 0.0
    before, _ = learned(features[:1000], targets[:1000], 0.98, 1.0)
    after, _ = learned(features, targets, 0.98, 1.0)
    assert abs(after[0, 0, 0, 2]) < 0.05 * abs(before[0, 0, 0, 2])


def test_an_invalid_covariance_is_renewed_and_the_weights_stay():
    features, targets = streams(2, 40, 4, 1)
    weights, covariance = learned(features, targets, 0.99, 4.0)
    covariance[0] = -np.eye(4, dtype=np.float32)
    kept, other = weights[0].copy(), weights[1].copy()
    ones = np.ones((2, 1), np.float32)
    renewed_feature = np.zeros((2, 1), np.int64)
    errors = np.ones((2, 1, 1), np.float32)
    readouts = readout.Readouts(weights, covariance, 0.99 * ones, 4 * ones, renewed_feature)
    readout.update(readouts, features[0], errors, np.ones((2, 1), bool))
    np.testing.assert_array_equal(covariance[0, 0], np.eye(4, dtype=np.float32) / 4)
    np.testing.assert_array_equal(weights[0], kept)
    assert np.abs(weights[1] - other).max() > 0
