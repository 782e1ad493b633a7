"""Artificial streams of bursts, a row every five minutes. For some hours the bursts are unusual.

Alarms were chosen on them, among others (`python -m benchmarks.anomaly DATA --choose`). They were made after
looking at the files of NAB that consist of bursts, because no other series had any.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from models.arrays import Bools, Doubles
from models.data.series import Series

ROWS, STEP, STREAMS = 4200, 300.0, 14
DAY = 288
LABELLED = 0.1  # of the rows, as in NAB


def burst_streams() -> Iterator[tuple[Series, Bools]]:
    """Each with its labels, [rows]."""
    times = np.datetime64("2026-01-05T00:00:00", "us") + np.arange(ROWS) * np.timedelta64(int(STEP), "s")
    for seed in range(STREAMS):
        values, anomalous = burst_stream(np.random.default_rng(1000 + seed))
        series = Series(f"bursts-{seed}", ("value",), values[:, None], times)
        yield series.with_time_features(["hour_of_day"]), anomalous


def burst_stream(random: np.random.Generator) -> tuple[Doubles, Bools]:
    """Values and labels, each [rows]. One to three times there are more, larger or longer bursts."""
    count = int(random.integers(1, 4))
    width = int(LABELLED * ROWS / count)
    anomalous = np.zeros(ROWS, np.bool_)
    rate = np.full(ROWS, random.uniform(0.004, 0.03))
    size, length = np.ones(ROWS), np.full(ROWS, random.uniform(1, 3))
    first = int(random.uniform(0, 0.12) * ROWS) if random.random() < 0.6 else 0
    rate[:first] = 0
    rate *= 2 * _busy(random)
    slots = np.linspace(0.2 * ROWS, 0.95 * ROWS, count + 1)
    for begin, end in pairwise(slots):
        center = int(random.uniform(begin + width / 2, end - width / 2))
        half = int(width * random.uniform(0.25, 0.8)) // 2
        rows = slice(center - half, center + half)
        anomalous[center - width // 2 : center + width // 2] = True
        kind = int(random.integers(4))
        if kind in (0, 2):
            rate[rows] = max(2 * rate.mean(), 0.01) * random.uniform(2.5, 5)
        if kind in (1, 2):
            size[rows] = random.uniform(1.8, 3.5)
        if kind == 1:
            rate[rows] = np.maximum(rate[rows], 0.03)
        if kind == 3:
            length[rows] *= random.uniform(3, 6)
            rate[rows] = np.maximum(rate[rows], 0.02)
    return _values(random, rate, size, length), anomalous


def _busy(random: np.random.Generator) -> Doubles:
    """[rows], how many bursts there are: hours with and without, or the same hours of each day."""
    busy, row, on = np.zeros(ROWS), 0, True
    while row < ROWS:
        length = int(random.exponential(120)) + 10
        busy[row : row + length] = 1.0 if on else random.uniform(0, 0.2)
        row, on = row + length, not on
    if random.random() < 0.3:
        busy[:] = 0.2 + 0.8 * (np.arange(ROWS) % DAY < int(random.uniform(60, 200)))
    return busy


def _values(random: np.random.Generator, rate: Doubles, size: Doubles, length: Doubles) -> Doubles:
    values, row = np.zeros(ROWS), 0
    spread = random.uniform(0.05, 0.8)
    while row < ROWS:
        if random.random() < rate[row]:
            rows = 1 + int(random.poisson(length[row] - 1))
            values[row : row + rows] += size[row] * np.exp(random.normal(0, spread))
            row += rows
        else:
            row += 1
    values *= random.choice([100.0, 1e6])
    if random.random() < 0.8:
        values += np.abs(random.normal(0, 1, ROWS)) * random.choice([0.01, 0.1, 1.0])
    return values
