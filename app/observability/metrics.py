"""What happened, as plain numbers. Counted where it happens; nothing here knows of Prometheus.

A counter is an attribute that is added to, and a histogram a list of counts: the hot route can afford
neither locks nor labels that are looked up. All of it belongs to the event loop's thread, but for what the
store's calls take, which that thread measures, too, from the outside. `app.exposition` reads it on a scrape.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from app.errors import slug
from models.adaptation.learner import Scores
from models.forecaster import Forecaster

STAGES = ("collect", "admit", "step", "commit", "publish", "reply")
SECONDS = tuple(round(base * 10.0**power, 6) for power in range(-5, 2) for base in (1, 2.5, 5))[:-2]
FRESH = 256  # values that wait to be sorted in
SIZES = tuple(float(2**power) for power in range(17))


class Histogram:
    """How often a value was at most each bound: `counts[i]` for `bounds[i]`; the last is for the rest.

    Values are sorted in by the hundred: one at a time, they would cost as much as half a tick of one chunk.
    """

    __slots__ = ("_counts", "_fresh", "_total", "bounds")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._total = 0.0
        self._fresh: list[float] = []  # not sorted in yet

    def add(self, value: float) -> None:
        """Count one value."""
        self._fresh.append(value)
        if len(self._fresh) >= FRESH:
            self._sort_in()

    @property
    def counts(self) -> list[int]:
        self._sort_in()
        counts: list[int] = self._counts.tolist()
        return counts

    @property
    def total(self) -> float:
        self._sort_in()
        return self._total

    @property
    def count(self) -> int:
        return sum(self.counts)

    def _sort_in(self) -> None:
        fresh, self._fresh = self._fresh, []
        self._counts += np.bincount(np.searchsorted(self.bounds, fresh), minlength=len(self._counts))
        self._total += sum(fresh)


class StageTimer:
    """How long each stage of a tick takes: `begin` a tick, then say which stage has ended."""

    def __init__(self) -> None:
        self.histograms = {stage: Histogram() for stage in STAGES}
        self._since = 0.0

    def begin(self) -> None:
        """A tick begins."""
        self._since = perf_counter()

    def end(self, stage: str) -> None:
        """What took from the last call to this one was this stage."""
        now = perf_counter()
        self.histograms[stage].add(now - self._since)
        self._since = now


class ScoreTally:
    """How good the predictions of one model's learning sessions have been, added up over all of them.

    count, squares, changes : [outputs], how many, their squared errors, and those of persistence
    missed : [levels], of `interval_count` observations those outside their intervals, all outputs together
    """

    def __init__(self, outputs: int, levels: tuple[float, ...]) -> None:
        self.levels = levels
        self.interval_count = 0
        self.count = np.zeros(outputs)
        self.squares = np.zeros(outputs)
        self.changes = np.zeros(outputs)
        self.missed = np.zeros(len(levels))

    def add(self, judged: Scores, levels: tuple[float, ...]) -> None:
        """Count what a pass found out; sessions that keep other levels count for their errors alone."""
        seen = ~np.isnan(judged.errors)
        self.count += seen.sum(axis=0)
        self.squares += np.square(judged.errors, where=seen, out=np.zeros_like(judged.errors)).sum(axis=0)
        self.changes += np.square(judged.changes, where=seen, out=np.zeros_like(judged.errors)).sum(axis=0)
        if levels == self.levels:
            self.interval_count += int(seen.sum())
            self.missed += judged.missed.sum(axis=(0, 2))


@dataclass(slots=True)
class Metrics:
    """The counters of one server, all of them from its start."""

    chunks: int = 0
    observations: int = 0
    replays: int = 0
    forecasts: int = 0
    created: int = 0
    expired: int = 0
    deleted: int = 0
    evicted: int = 0
    restored: int = 0
    fenced: int = 0
    stored_bytes: int = 0
    failed_ticks: int = 0
    scores: dict[str, ScoreTally] = field(default_factory=dict)  # by model
    refusals: Counter[str] = field(default_factory=Counter)  # by the kind of error
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)  # by route and status
    request_seconds: dict[str, Histogram] = field(default_factory=dict)  # by route
    sockets_opened: int = 0
    messages: int = 0
    batches: Histogram = field(default_factory=lambda: Histogram(SIZES))
    stages: StageTimer = field(default_factory=StageTimer)
    store_seconds: dict[str, Histogram] = field(default_factory=dict)  # by call

    def record_scores(self, forecaster: Forecaster, judged: Scores) -> None:
        """What sessions of this model found out about their predictions."""
        model, levels = forecaster.artifact.name, forecaster.learning.levels
        if model not in self.scores:
            self.scores[model] = ScoreTally(forecaster.output_size, levels)
        self.scores[model].add(judged, levels)

    def record_refusal(self, error: Exception) -> None:
        """A request, a message, or a chunk of a bulk request was refused with this error."""
        self.refusals[slug(type(error))] += 1

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is a template, never what a client made up."""
        self.requests[route, status] += 1
        try:
            self.request_seconds[route].add(seconds)
        except KeyError:
            self.request_seconds[route] = histogram = Histogram()
            histogram.add(seconds)

    def record_store_call(self, call: str, seconds: float) -> None:
        """A call of the store has ended."""
        self.store_seconds.setdefault(call, Histogram()).add(seconds)
