"""How bands are judged, and where surprising rows lie, against what is counted by hand."""

import numpy as np
import pytest

from models.evaluation.bands import WINDOW, coverage, least_surprising, places


def test_coverage_is_counted_by_target_and_in_every_window():
    rng = np.random.default_rng(0)
    sizes, widths = np.abs(rng.normal(size=(1300, 2))), rng.uniform(0.5, 2, size=(1300, 2))
    told = coverage(sizes, widths)
    inside = [[bool(sizes[row, i] <= widths[row, i]) for row in range(1300)] for i in range(2)]
    shares = [sum(column) / 1300 for column in inside]
    windows = [sum(column[start : start + WINDOW]) / WINDOW for column in inside for start in range(301)]
    assert (told.least, told.most) == (pytest.approx(min(shares)), pytest.approx(max(shares)))
    assert (told.window_least, told.window_most) == (min(windows), max(windows))
    assert told.mean == pytest.approx(np.mean(shares))
    assert told.width == pytest.approx(2 * widths.mean())


def test_too_few_rows_have_no_windows():
    told = coverage(np.ones((WINDOW - 1, 1)), np.full((1, 1), 2.0))
    assert (told.mean, told.window_least, told.window_most) == (1.0, None, None)
    assert told.width == 4.0


def test_surprising_rows_near_each_other_are_one_place_and_the_highest_comes_first():
    scores = np.random.default_rng(0).uniform(0, 0.5, size=2000)
    scores[100:104], scores[106], scores[900], scores[1500:1515] = 0.9, 0.91, 0.99, 0.8
    scores[3] = np.nan
    assert places(scores, range(50, 2050), share=20 / 2000) == [
        range(950, 951),
        range(150, 157),
        range(1550, 1565),
    ]
    assert least_surprising(scores, share=20 / 2000) == pytest.approx(0.8)


def test_a_series_that_was_never_judged_has_places_all_the_same():
    assert places(np.full(10, np.nan), range(10)) == [range(10)]
