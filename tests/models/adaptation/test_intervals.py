"""Prediction intervals: the tracked half-widths beside a plain loop, and the coverage that they hold."""

import numpy as np
import pytest

from models.adaptation import intervals
from models.artifact.learning import Learning

LEVELS = np.array([0.5, 0.9], np.float32)


def tracked(errors, ratios, scale):
    return np.array([intervals.track(ratios, np.abs(error), scale, LEVELS) for error in errors])


def test_ratios_equal_a_plain_loop():
    draw = np.random.default_rng(0)
    errors = draw.normal(size=(200, 3, 2)).astype(np.float32)
    errors[50:60, 0, 1] = np.nan
    scale = draw.uniform(0.5, 2, size=(3, 2)).astype(np.float32)
    ratios = np.ones((3, 2, 2), np.float32)
    plain = ratios.astype(np.float64).copy()
    tracked(errors, ratios, scale)
    for error in errors:
        for session in range(3):
            for level in range(2):
                for output in range(2):
                    size = abs(float(error[session, output]))
                    if not np.isnan(size):
                        width = max(plain[session, level, output], 0) * scale[session, output]
                        plain[session, level, output] += intervals.RATE * (
                            (size > width) - (1 - LEVELS[level])
                        )
    np.testing.assert_allclose(ratios, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stream", ["normal", "heavy", "jumps", "trend", "silent"])
def test_long_run_coverage_holds_for_every_stream(stream):
    draw = np.random.default_rng(1)
    steps = 20_000
    errors = {
        "normal": draw.normal(size=steps),
        "heavy": draw.standard_t(2, size=steps).clip(-50, 50),
        "jumps": draw.normal(size=steps) * np.where(np.arange(steps) // 2500 % 2, 5.0, 1.0),
        "trend": draw.normal(size=steps) * np.linspace(1, 10, steps),
        "silent": np.zeros(steps),
    }[stream].astype(np.float32)
    ratios = np.ones((1, 2, 1), np.float32)
    missed = tracked(errors[:, None, None], ratios, np.full((1, 1), 3, np.float32))
    covered = 1 - missed.mean(axis=0)[0, :, 0]
    if stream == "silent":  # every error is within an interval that has shrunk to a point
        np.testing.assert_array_equal(covered, 1.0)
    else:
        np.testing.assert_allclose(covered, LEVELS, atol=0.01)


def test_a_long_time_without_any_error_does_not_take_as_long_to_undo():
    ratios, scale = np.ones((1, 2, 1), np.float32), np.ones((1, 1), np.float32)
    tracked(np.zeros((20_000, 1, 1), np.float32), ratios, scale)
    errors = np.random.default_rng(2).normal(size=(1000, 1, 1)).astype(np.float32)
    covered = 1 - tracked(errors, ratios, scale).mean(axis=0)[0, :, 0]
    np.testing.assert_allclose(covered, LEVELS, atol=0.05)


def test_a_gap_moves_no_interval():
    ratios = np.ones((1, 2, 1), np.float32)
    missed = intervals.track(ratios, np.full((1, 1), np.nan, np.float32), np.ones((1, 1), np.float32), LEVELS)
    assert not missed.any()
    np.testing.assert_array_equal(ratios, 1.0)


def test_initial_ratios_are_those_of_normal_errors_or_of_the_artifact():
    ratios, square = intervals.initial_state(Learning(levels=(0.5, 0.9)), 2)
    np.testing.assert_allclose(ratios, [[0.6745, 0.6745], [1.6449, 1.6449]], atol=1e-4)
    np.testing.assert_array_equal(square, 1.0)
    spread = ((0.1, 0.2), (0.3, 0.4))
    ratios, square = intervals.initial_state(Learning(levels=(0.5, 0.9), spread=spread), 2)
    np.testing.assert_allclose(ratios * np.sqrt(square), spread, rtol=1e-6)


def test_the_intervals_of_a_forecast_widen_as_training_measured():
    np.testing.assert_allclose(intervals.growth(Learning(), 4), np.sqrt([1, 2, 3, 4]), rtol=1e-6)
    measured = intervals.growth(Learning(growth=(1.0, 1.5, 2.0)), 16)
    np.testing.assert_allclose(measured[[0, 1, 3, 15]], [1.0, 1.5, 2.0, 4.0], rtol=1e-6)
    assert (np.diff(measured) > 0).all()
