"""Counters and histograms as plain numbers. Nothing here knows of Prometheus.

A counter is an attribute, and a histogram a list of counts: the hot route can afford neither locks nor
look-ups of labels. Only the event loop's thread writes them; it also measures the calls of the store.
`api/prometheus.py` reads them on a scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import mul
from time import perf_counter
from typing import Any

import numpy as np

from app.errors import slug
from models.adaptation.learner import Scores
from models.arrays import Doubles, Ints
from models.forecaster import Forecaster

STAGES = ("collect", "admit", "step", "commit", "publish", "reply")
SECONDS = tuple(round(base * 10.0**power, 6) for power in range(-5, 2) for base in (1, 2.5, 5))[:-2]
FRESH = 256  # values that are counted together
SIZES = tuple(float(2**power) for power in range(17))


class Histogram:
    """Counts of values by upper bound: `counts[i]` for `bounds[i]`, and the last for all larger values.

    Values are counted by the hundred: counting each at once would cost half as much as a tick of one chunk.
    """

    __slots__ = ("_counts", "_fresh", "_fresh_counts", "_total", "bounds")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._fresh: list[float] = []  # not counted yet
        self._fresh_counts: list[int] = []  # how often each of them

    def add(self, value: float, count: int = 1) -> None:
        """Count a value, as often as this."""
        self._fresh.append(value)
        self._fresh_counts.append(count)
        if len(self._fresh) >= FRESH:
            self._count_fresh()

    @property
    def counts(self) -> list[int]:
        self._count_fresh()
        counts: list[int] = self._counts.tolist()
        return counts

    @property
    def total(self) -> float:
        self._count_fresh()
        return self._total

    @property
    def count(self) -> int:
        return sum(self.counts)

    def _count_fresh(self) -> None:
        fresh, counts = self._fresh, self._fresh_counts
        self._fresh, self._fresh_counts = [], []
        np.add.at(self._counts, np.searchsorted(self.bounds, fresh), counts)
        self._total += sum(map(mul, fresh, counts))


class StageTimer:
    """How long each stage of a tick takes: call `begin`, then `end` after each stage."""

    def __init__(self) -> None:
        self.histograms = {stage: Histogram() for stage in STAGES}
        self._since = 0.0

    def begin(self) -> None:
        """Start the clock of a tick."""
        self._since = perf_counter()

    def end(self, stage: str) -> None:
        """Count the time since the last call for this stage."""
        now = perf_counter()
        self.histograms[stage].add(now - self._since)
        self._since = now


class ScoreTally:
    """The errors of one model's learning sessions, added up over all of them.

    count, squares, changes : [outputs], predictions, their squared errors, and those of persistence
    missed : [levels], how many of `interval_count` observations lay outside their intervals, over all outputs
    """

    def __init__(self, outputs: int, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.interval_count = 0
        self.count = np.zeros(outputs)
        self.squares = np.zeros(outputs)
        self.changes = np.zeros(outputs)
        self.missed = np.zeros(len(levels))

    @property
    def sums(self) -> tuple[Any, ...]:
        """All that the tally holds; `of_sums` makes the same tally of it."""
        return self.levels, self.interval_count, self.count, self.squares, self.changes, self.missed

    @classmethod
    def of_sums(
        cls, levels: Iterable[float], interval_count: int, count: Doubles, squares: Doubles,
        changes: Doubles, missed: Doubles,
    ) -> ScoreTally:  # fmt: skip
        """The tally with these sums."""
        tally = cls(len(count), tuple(levels))
        tally.interval_count = interval_count
        tally.count, tally.squares, tally.changes, tally.missed = count, squares, changes, missed
        return tally

    def add_tally(self, other: ScoreTally) -> None:
        """Add the tally of another worker. One of other outputs or levels is left out."""
        if other.levels == self.levels and len(other.count) == len(self.count):
            self.interval_count += other.interval_count
            self.count = self.count + other.count
            self.squares = self.squares + other.squares
            self.changes = self.changes + other.changes
            self.missed = self.missed + other.missed

    def add(self, scores: Scores, levels: tuple[float, ...]) -> None:
        """Add the scores of a pass. Sessions with other levels add their errors and not their intervals."""
        observed = ~np.isnan(scores.errors)
        self.count += observed.sum(axis=0)
        for sums, values in ((self.squares, scores.errors), (self.changes, scores.changes)):
            # In float64: the square of 1e20, and of 1e-25, is no float32.
            sums += np.square(values, where=observed, out=np.zeros(values.shape), dtype=np.float64).sum(
                axis=0
            )
        if levels == self.levels:
            self.interval_count += int(observed.sum())
            self.missed += scores.missed.sum(axis=(0, 2))


@dataclass(slots=True)
class CoverageTally:
    """The intervals of one level that some sessions of a model had, in what is kept of their past.

    after_miss : [1, 2], intervals whose predecessor was missed, and how many of them were missed, too
    by_hour : [24, 2], intervals by the hour of the day (UTC) that they were for, and how many were missed
    by_part : [24, 2], the same by the part of the season, each a 24th, or shorter seasons step by step
    """

    model: str
    level: float
    after_miss: Ints
    by_hour: Ints
    by_part: Ints

    @classmethod
    def empty(cls, model: str, level: float) -> CoverageTally:
        """Nothing counted yet."""
        return cls(model, level, *(np.zeros((places, 2), np.int64) for places in (1, 24, 24)))

    @property
    def sums(self) -> tuple[Any, ...]:
        """All that the tally holds, in the order of its fields."""
        return self.model, self.level, self.after_miss, self.by_hour, self.by_part

    def add_tally(self, other: CoverageTally) -> None:
        """Add the tally of another worker."""
        self.after_miss = self.after_miss + other.after_miss
        self.by_hour = self.by_hour + other.by_hour
        self.by_part = self.by_part + other.by_part


@dataclass(slots=True)
class Metrics:
    """The counters of one server since its start."""

    chunks: int = 0
    observations: int = 0
    replays: int = 0
    forecasts: int = 0
    tokens: int = 0
    created: int = 0
    expired: int = 0
    deleted: int = 0
    evicted: int = 0
    restored: int = 0
    fenced: int = 0
    stored_bytes: int = 0
    failed_ticks: int = 0
    alerts: int = 0
    webhooks_sent: int = 0
    webhooks_failed: int = 0
    webhooks_dropped: int = 0
    scores: dict[str, ScoreTally] = field(default_factory=dict)  # by model
    refusals: Counter[str] = field(default_factory=Counter)  # by the kind of error
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by route and status
    request_seconds: dict[str, Histogram] = field(default_factory=dict)  # by route
    sockets_opened: int = 0
    messages: int = 0
    handed_over: int = 0
    connections_moved: int = 0
    batches: Histogram = field(default_factory=lambda: Histogram(SIZES))
    stages: StageTimer = field(default_factory=StageTimer)
    store_seconds: dict[str, Histogram] = field(default_factory=dict)  # by call

    def record_scores(self, forecaster: Forecaster, scores: Scores) -> None:
        """Add the scores of sessions of this model."""
        model, levels = forecaster.artifact.name, forecaster.learning.levels
        if model not in self.scores:
            self.scores[model] = ScoreTally(forecaster.output_size, levels)
        self.scores[model].add(scores, levels)

    def record_refusal(self, error: Exception) -> None:
        """Count a request, a message, or a chunk of a bulk request that was refused with this error."""
        self.refusals[slug(type(error))] += 1

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request. `route` is a template and never text of a client."""
        self.requests[route, status] += 1
        try:
            self.request_seconds[route].add(seconds)
        except KeyError:
            self.request_seconds[route] = histogram = Histogram()
            histogram.add(seconds)

    def record_requests(self, route: str, status: int, count: int, seconds: float) -> None:
        """Count requests that were answered together, after as many seconds or a little less."""
        self.requests[route, status] += count
        if route not in self.request_seconds:
            self.request_seconds[route] = Histogram()
        self.request_seconds[route].add(seconds, count)

    def record_store_call(self, call: str, seconds: float) -> None:
        """Count a finished call of the store."""
        self.store_seconds.setdefault(call, Histogram()).add(seconds)
