"""The measure of the anomaly benchmark: VUS-PR on scores whose value is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.anomaly import buffered, runs, vus_pr

ROWS = 1000


@pytest.fixture
def anomalous():
    marked = np.zeros(ROWS, np.bool_)
    marked[200:300] = marked[700:720] = True
    return marked


def test_scores_that_are_the_labels_have_an_area_of_1(anomalous):
    assert vus_pr(anomalous, anomalous.astype(float), 0) == pytest.approx(1.0)


def test_scores_that_say_nothing_have_the_share_of_the_labels(anomalous):
    random = np.random.default_rng(0)
    areas = [vus_pr(anomalous, random.random(ROWS), 0) for _ in range(20)]
    assert np.mean(areas) == pytest.approx(0.12, abs=0.03)


def test_a_score_beside_a_label_counts_within_the_buffer_only(anomalous):
    late = np.roll(anomalous, 15).astype(float)
    far = np.roll(anomalous, 120).astype(float)
    assert vus_pr(anomalous, late, 100) > vus_pr(anomalous, late, 0) + 0.05
    assert vus_pr(anomalous, far, 20) < 0.2


def test_the_buffer_falls_on_either_side(anomalous):
    labels = buffered(anomalous, 40)
    assert labels[anomalous].min() == 1
    assert labels[199] == pytest.approx(np.sqrt(1 - 1 / 40))
    assert labels[179] == labels[321] == 0
    assert [(part.start, part.stop) for part in runs(anomalous)] == [(200, 300), (700, 720)]
