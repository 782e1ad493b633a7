"""Baselines, against independent computations."""

import numpy as np
import pytest

from models.evaluation.baselines import online_autoregression


def least_squares(values: np.ndarray, row: int, lags: int, forgetting: float, prior: float) -> float:
    """The prediction of a row, from all before it solved at once."""
    past = np.concatenate([np.zeros(lags), values])
    features = np.array([[*past[t : t + lags], 1.0] for t in range(1, row + 1)])  # of rows 0 to row - 1
    changes = values[1:row] - values[: row - 1]
    weights = forgetting ** np.arange(row - 2, -1, -1.0)
    design = features[:-1]
    normal = design.T @ (weights[:, None] * design) + prior * np.eye(lags + 1)
    return float(values[row - 1] + features[-1] @ np.linalg.solve(normal, design.T @ (weights * changes)))


def test_the_online_ar_is_weighted_least_squares_on_the_past():
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(120, 2)), axis=0) / 5
    # Without forgetting the kept-up prior is the prior: the recursion is then exactly the solution.
    predictions = online_autoregression(values, range(2, 120), lags=3, forgetting=1.0, prior=0.5)
    for row in (2, 3, 10, 60, 119):
        for column in range(2):
            expected = least_squares(values[:, column], row, 3, 1.0, 0.5)
            assert predictions[row - 2, column] == pytest.approx(expected, abs=2e-4)


def test_the_online_ar_learns_a_sine_that_changes_its_frequency():
    rows = np.arange(3000)
    values = np.sin(np.where(rows < 1500, rows / 5, rows / 8))[:, None]
    errors = online_autoregression(values, range(1, 3000))[:, 0] - values[1:, 0]
    persistence = np.diff(values[:, 0])
    for part in (slice(1000, 1490), slice(2500, 2998)):
        assert np.square(errors[part]).mean() < 1e-3 * np.square(persistence[part]).mean()


def test_columns_do_not_mix():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 3))
    together = online_autoregression(values, range(50, 200))
    alone = online_autoregression(values[:, [1]], range(50, 200))
    np.testing.assert_allclose(together[:, [1]], alone, atol=1e-5)
