"""How bands are scored, and where surprising rows lie, against what is counted by hand."""

import numpy as np
import pytest

from models.evaluation.bands import WINDOW, coverage, surprise_threshold, surprising_ranges


def test_coverage_is_counted_by_target_and_in_every_window():
    rng = np.random.default_rng(0)
    sizes, widths = np.abs(rng.normal(size=(1300, 2))), rng.uniform(0.5, 2, size=(1300, 2))
    measured = coverage(sizes, widths)
    inside = [[bool(sizes[row, i] <= widths[row, i]) for row in range(1300)] for i in range(2)]
    shares = [sum(column) / 1300 for column in inside]
    windows = [sum(column[start : start + WINDOW]) / WINDOW for column in inside for start in range(301)]
    assert (measured.least, measured.most) == (pytest.approx(min(shares)), pytest.approx(max(shares)))
    assert (measured.window_least, measured.window_most) == (min(windows), max(windows))
    assert measured.mean == pytest.approx(np.mean(shares))
    assert measured.width == pytest.approx(2 * widths.mean())


def test_too_few_rows_have_no_windows():
    measured = coverage(np.ones((WINDOW - 1, 1)), np.full((1, 1), 2.0))
    assert (measured.mean, measured.window_least, measured.window_most) == (1.0, None, None)
    assert measured.width == 4.0


def test_surprising_rows_near_each_other_are_one_range_and_the_highest_comes_first():
    scores = np.random.default_rng(0).uniform(0, 0.5, size=2000)
    scores[100:104], scores[106], scores[900], scores[1500:1515] = 0.9, 0.91, 0.99, 0.8
    scores[3] = np.nan
    assert surprising_ranges(scores, range(50, 2050), share=20 / 2000) == [
        range(950, 951),
        range(150, 157),
        range(1550, 1565),
    ]
    assert surprise_threshold(scores, share=20 / 2000) == pytest.approx(0.8)


def test_a_series_without_scores_still_has_surprising_ranges():
    assert surprising_ranges(np.full(10, np.nan), range(10)) == [range(10)]
