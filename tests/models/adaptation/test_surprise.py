"""The anomaly score: a calibrated tail probability, beside a plain loop."""

import math
from itertools import pairwise

import numpy as np

from models.adaptation import surprise


def scored(sizes):
    histogram = np.zeros((1, surprise.BINS), np.float32)
    return np.array([surprise.score(histogram, np.array([size], np.float32))[0] for size in sizes])


def plain(sizes):
    """The same in lists and loops."""
    bins = [0.0] * surprise.BINS
    scores = []
    for size in sizes:
        place = (math.log2(max(size, 1e-9)) - surprise.LOWEST) * surprise.PER_OCTAVE
        at = min(max(math.floor(place), 0), surprise.BINS - 1)
        part = min(max(place - at, 0.0), 1.0)
        larger = sum(bins[at + 1 :]) + bins[at] * (1 - part)
        scores.append(1 - (larger + (1 + size * size / 3) ** -1.5) / (sum(bins) + 1))
        bins = [kept * float(surprise.FADING) for kept in bins]
        bins[at] += 1
    return np.array(scores)


def test_scores_equal_a_plain_loop():
    sizes = np.abs(np.random.default_rng(0).standard_t(3, size=500))
    np.testing.assert_allclose(scored(sizes), plain(sizes), atol=2e-4)


def test_a_score_is_the_share_of_smaller_errors():
    """Calibrated: of errors of one kind, one in ten is scored above 0.9, one in a hundred above 0.99."""
    for draw in (np.random.default_rng(1).standard_normal, np.random.default_rng(2).standard_cauchy):
        scores = scored(np.abs(draw(20_000)))[2_000:]
        for level in (0.5, 0.9, 0.99):
            assert abs((scores > level).mean() - (1 - level)) < 0.15 * (1 - level) + 0.002


def test_beyond_the_largest_error_the_score_still_rises_and_stays_below_one():
    history = np.abs(np.random.default_rng(3).standard_normal(2_000))
    beyond = [scored([*history, size])[-1] for size in (6.0, 20.0, 100.0, 1e4, 1e30)]
    assert all(low <= high for low, high in pairwise(beyond))
    assert beyond[0] < beyond[2]
    assert beyond[0] > 0.999
    assert beyond[-1] < 1.0


def test_a_gap_is_not_scored():
    histogram = np.zeros((2, surprise.BINS), np.float32)
    scores = surprise.score(histogram, np.array([1.0, np.nan], np.float32))
    np.testing.assert_array_equal(np.isnan(scores), [False, True])
    np.testing.assert_array_equal(histogram.sum(axis=1), [1, 0])


def test_surprise_is_smoothed_over_observed_values_only():
    surprise_of = np.array([1.0, 1.0, 2.0], np.float32)
    errors = np.array([[3.0, np.nan], [3.0, 4.0], [np.nan, np.nan]], np.float32)
    sizes = surprise.smooth(surprise_of, errors, np.array([1.0, 2.0], np.float32))
    squares = [0.9 + 0.1 * 9, 0.9 + 0.1 * (9 + 4) / 2]
    np.testing.assert_allclose(sizes, [*np.sqrt(squares), np.nan], rtol=1e-6)
    np.testing.assert_allclose(surprise_of, [*squares, 2.0], rtol=1e-6)


def test_the_last_score_is_found_again_in_what_a_session_has_learned():
    random = np.random.default_rng(0)
    histogram, smoothed = np.zeros((50, surprise.BINS), np.float32), np.ones(50, np.float32)
    rows, found, last = np.arange(49, -1, -1), np.empty(50, np.float32), np.full(50, np.nan, np.float32)
    for step in range(60):
        errors = random.standard_t(2, (50, 2)).astype(np.float32)
        errors[::3, :] *= 10.0 ** (step % 7 - 3)  # beyond both ends of the histogram
        errors[random.random(50) < 0.2] = np.nan  # nothing is scored, and the last score stays
        size = surprise.smooth(smoothed, errors, np.full((50, 2), 0.5, np.float32))
        score = surprise.score(histogram, size)
        last = np.where(np.isnan(score), last, score)
        surprise.last_scores(histogram, smoothed, rows, found)
        np.testing.assert_allclose(found, last[rows], atol=1e-5)
