"""`/metrics` in Prometheus' text format: the counters and gauges of one server, read on a scrape.

No label is unbounded: models, routes, stages, statuses and reasons all come from the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.access.callers import Authenticator
from app.api.merged_metrics import Page, merge, plain_page
from app.engine.coverage import coverage_tallies
from app.engine.engine import Engine
from app.observability.metrics import CoverageTally, Histogram, Metrics, ScoreTally
from app.workers.workers import Workers

CONTENT_TYPE = CONTENT_TYPE_LATEST

COUNTERS = {
    "chunks": "chunks applied",
    "observations": "observations consumed",
    "replays": "chunks that were applied before and were answered again",
    "forecasts": "forecasts rolled out",
    "tokens": "tokens of text drawn",
    "created": "sessions created",
    "expired": "sessions that idled too long",
    "deleted": "sessions deleted",
    "evicted": "sessions that left the slab for the store",
    "restored": "sessions brought back from the store",
    "fenced": "sessions that another replica had advanced before this one could",
    "failed_ticks": "ticks that failed as a whole",
    "alerts": "alerts raised",
    "webhooks_sent": "alerts that webhooks took",
    "webhooks_failed": "attempts that webhooks did not take",
    "webhooks_dropped": "alerts that were not sent to their webhooks",
    "sockets_opened": "sockets opened",
    "messages": "messages received over sockets",
    "handed_over": "chunks and commands sent to another worker, which owns their session",
    "connections_moved": "connections passed to another worker, which owns their session",
}
METRIC_NAMES = {
    "created": "sessions_created",
    "expired": "sessions_expired",
    "deleted": "sessions_deleted",
    "evicted": "sessions_evicted",
    "restored": "sessions_restored",
    "messages": "socket_messages",
}


class PrometheusExporter:
    """The metrics of one server.

    Parameters
    ----------
    store_path : the file of a store on disk, for its size
    workers : the other workers of the server; None if there are none
    """

    def __init__(
        self,
        engine: Engine,
        authenticator: Authenticator,
        version: str,
        store_path: Path | None = None,
        workers: Workers | None = None,
    ) -> None:
        self._engine = engine
        self._workers = workers
        self._registry = CollectorRegistry()
        self._registry.register(_Server(engine, authenticator, version, store_path))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        if workers is not None:
            workers.answers["metrics"] = self._own_figures

    async def render(self) -> bytes:
        """The page with the present values, of all workers that can be reached."""
        figures = [await self._own_figures()]
        if self._workers is not None:
            figures += await self._workers.ask_reachable("metrics")
        tallies: dict[str, ScoreTally] = {}
        coverage: dict[tuple[str, float], CoverageTally] = {}
        for _, scores, covered in figures:
            for model, level, *counts in covered:
                sampled = CoverageTally(model, level, *counts)
                if (model, level) in coverage:
                    coverage[model, level].add_tally(sampled)
                else:
                    coverage[model, level] = sampled
            for name, *sums in scores:
                tally = ScoreTally.of_sums(*sums)
                if name in tallies:
                    tallies[name].add_tally(tally)
                else:
                    tallies[name] = tally
        families = merge([page for page, _, _ in figures])
        families += _scores(self._engine, tallies)
        families += _coverage(coverage.values())
        if self._workers is not None:
            families.append(
                GaugeMetricFamily("carryover_workers", "workers that these figures are of", len(figures))
            )
        return generate_latest(_Families(families))

    async def _own_figures(self) -> tuple[Page, list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """The metrics of this worker, and the sums that its models' scores and coverage are computed from."""
        engine = self._engine
        scores = [(name, *tally.sums) for name, tally in engine.metrics.scores.items()]
        models = engine.residents.models
        # Sessions that learn otherwise than their model have a slab of their own.
        slabs = [slab for current in models.current.values() for slab in models.sibling_slabs(current)]
        covered = [tally.sums for slab in slabs for tally in coverage_tallies(slab)]
        return plain_page(self._registry.collect()), scores, covered


class _Families(CollectorRegistry):
    """Families that are ready."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


class _Server(Collector):
    def __init__(
        self, engine: Engine, authenticator: Authenticator, version: str, store_path: Path | None
    ) -> None:
        self._engine = engine
        self._authenticator = authenticator
        self._version = version
        self._store_path = store_path

    def describe(self) -> Iterable[Metric]:
        return []  # so that the registry does not collect once just to learn the names

    def collect(self) -> Iterator[Metric]:
        metrics = self._engine.metrics
        yield InfoMetricFamily("carryover", "The server", {"version": self._version})
        for name, description in COUNTERS.items():
            yield CounterMetricFamily(
                f"carryover_{METRIC_NAMES.get(name, name)}", description, getattr(metrics, name)
            )
        yield from self._gauges()
        yield from _by_label(metrics)
        yield from _models(self._engine)
        yield from self._store(metrics)

    def _gauges(self) -> Iterator[Metric]:
        engine, sessions = self._engine, self._engine.residents
        gauges = {
            "sessions": ("sessions kept, resident or not", len(sessions)),
            "sessions_resident": ("sessions whose carry is in the slab", sessions.resident),
            "sessions_stored": ("sessions in the store", len(sessions.store)),
            "history_bytes": (
                "bytes of the observations and predictions that are kept to be shown",
                sessions.models.history_bytes,
            ),
            "queue_jobs": ("jobs in the queue", engine.queue_length),
            "queue_bytes": ("bytes of observations in the queue", engine.queue_bytes),
            "sockets": ("sockets that are open", len(self._authenticator.sockets)),
            "tasks": ("tasks of the event loop", len(asyncio.all_tasks())),
            "ready": ("1 if requests may be sent here", not engine.readiness_problems()),
        }
        for name, (description, value) in gauges.items():
            yield GaugeMetricFamily(f"carryover_{name}", description, value)

    def _store(self, metrics: Metrics) -> Iterator[Metric]:
        yield _histograms(
            "carryover_store_seconds", "seconds that calls of the store take", "call", metrics.store_seconds
        )
        yield CounterMetricFamily(
            "carryover_store_written_bytes", "bytes of sessions written to the store", metrics.stored_bytes
        )
        if self._store_path is not None:
            size = sum(path.stat().st_size for path in _files(self._store_path))
            yield GaugeMetricFamily("carryover_store_bytes", "bytes of the store's files", size)


def _by_label(metrics: Metrics) -> Iterator[Metric]:
    refusals = CounterMetricFamily("carryover_refusals", "refusals, by reason", labels=["reason"])
    for reason, count in metrics.refusals.copy().items():
        refusals.add_metric([reason], count)
    yield refusals
    requests = CounterMetricFamily("carryover_requests", "requests answered", labels=["route", "status"])
    for (route, status), count in metrics.requests.copy().items():
        requests.add_metric([route, str(status)], count)
    yield requests
    yield _histograms(
        "carryover_request_seconds", "from a request's head to its answer", "route", metrics.request_seconds
    )
    yield _histograms(
        "carryover_tick_seconds",
        "seconds that each stage of a tick takes",
        "stage",
        metrics.stages.histograms,
    )
    batches = HistogramMetricFamily("carryover_batch_sessions", "sessions in the batch of a tick")
    batches.add_metric([], *_buckets(metrics.batches))
    yield batches


def _models(engine: Engine) -> Iterator[Metric]:
    family = GaugeMetricFamily("carryover_model_resident", "resident sessions of the model", labels=["model"])
    for name, slab in engine.residents.models.current.items():
        family.add_metric([name], len(slab))
    yield family


def _scores(engine: Engine, tallies: Mapping[str, ScoreTally]) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}

    def add(name: str, description: str, labels: Mapping[str, str], value: float) -> None:
        if name not in families:
            families[name] = GaugeMetricFamily(f"carryover_model_{name}", description, labels=list(labels))
        families[name].add_metric(list(labels.values()), value)

    for name, tally in tallies.items():
        _add_scores(add, engine, name, tally)
    yield from families.values()


def _add_scores(
    add: Callable[[str, str, Mapping[str, str], float], None], engine: Engine, name: str, tally: ScoreTally
) -> None:
    """Add errors, skill and coverage of one model's learning sessions since the start."""
    slab = engine.residents.models.current.get(name)
    if slab is None:
        return
    columns = zip(slab.forecaster.artifact.targets, tally.count, tally.squares, tally.changes, strict=True)
    for output, count, squares, changes in columns:
        labels = {"model": name, "output": output}
        add("predictions_judged", "predictions whose observation has arrived", labels, count)
        if count:
            add("mse", "mean squared error, in the target's units squared", labels, squares / count)
        if changes:
            add("skill", "1 - MSE / MSE of predicting the last observation", labels, 1 - squares / changes)
    for level, missed in zip(tally.levels, tally.missed, strict=True):
        if tally.interval_count:
            labels = {"model": name, "level": f"{level:g}"}
            add(
                "coverage",
                "share of observations inside their interval",
                labels,
                1 - missed / tally.interval_count,
            )


def _coverage(tallies: Iterable[CoverageTally]) -> Iterator[Metric]:
    """How often intervals held after a miss, by hour and by part of the season."""

    def gauge(name: str, description: str, *labels: str) -> GaugeMetricFamily:
        name = f"carryover_model_coverage_{name}"
        return GaugeMetricFamily(name, description, labels=["model", "level", *labels])

    after = gauge("after_miss", "share of observations inside their interval, where the one before was not")
    hours = gauge("by_hour", "share of observations inside their interval, by hour of the day (UTC)", "hour")
    parts = gauge("by_season", "share of observations inside their interval, by part of the season", "part")
    for tally in tallies:
        labels = [tally.model, f"{tally.level:g}"]
        counts = ((after, tally.after_miss), (hours, tally.by_hour), (parts, tally.by_part))
        for family, by_place in counts:
            for place, (count, missed) in enumerate(by_place.tolist()):
                if count:
                    where = labels if family is after else [*labels, str(place)]
                    family.add_metric(where, 1 - missed / count)
    yield from (family for family in (after, hours, parts) if family.samples)


def _histograms(name: str, description: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, description, labels=[label])
    for value, histogram in dict(histograms).items():
        family.add_metric([value], *_buckets(histogram))
    return family


def _buckets(histogram: Histogram) -> tuple[list[Any], float]:
    """Cumulative counts by upper bound, and the sum of the values."""
    cumulative, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        cumulative.append(("+Inf" if bound == float("inf") else f"{bound:g}", below))
    return cumulative, histogram.total


def _files(path: Path) -> Iterator[Path]:
    return (
        path.with_name(path.name + end)
        for end in ("", "-wal", "-mark")
        if path.with_name(path.name + end).exists()
    )
