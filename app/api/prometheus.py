"""What `/metrics` tells, in Prometheus' text format: the counters and gauges of one server, read on a scrape.

No label is of unbounded size: models, routes, stages, statuses and reasons are all of the server's making.
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
from app.engine.engine import Engine
from app.observability.metrics import Histogram, Metrics, ScoreTally

CONTENT_TYPE = CONTENT_TYPE_LATEST

COUNTERS = {
    "chunks": "chunks applied",
    "observations": "observations consumed",
    "replays": "chunks that had been applied already and were answered again",
    "forecasts": "forecasts rolled out",
    "created": "sessions created",
    "expired": "sessions that idled too long",
    "deleted": "sessions deleted",
    "evicted": "sessions that left the slab for the store",
    "restored": "sessions brought back from the store",
    "fenced": "sessions that another replica had moved on when this one wanted to",
    "failed_ticks": "ticks that failed as a whole",
    "sockets_opened": "sockets opened",
    "messages": "messages that came over sockets",
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
    store_path : the file of a store on disk, whose size is told
    """

    def __init__(
        self, engine: Engine, authenticator: Authenticator, version: str, store_path: Path | None = None
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Server(engine, authenticator, version, store_path))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def render(self) -> bytes:
        """The page, as it is now."""
        return generate_latest(self._registry)


class _Server(Collector):
    def __init__(
        self, engine: Engine, authenticator: Authenticator, version: str, store_path: Path | None
    ) -> None:
        self._engine = engine
        self._authenticator = authenticator
        self._version = version
        self._store_path = store_path

    def describe(self) -> Iterable[Metric]:
        return []  # or the registry would collect once just to learn the names

    def collect(self) -> Iterator[Metric]:
        metrics = self._engine.metrics
        yield InfoMetricFamily("carryover", "The server", {"version": self._version})
        for name, about in COUNTERS.items():
            yield CounterMetricFamily(
                f"carryover_{METRIC_NAMES.get(name, name)}", about, getattr(metrics, name)
            )
        yield from self._gauges()
        yield from _by_label(metrics)
        yield from _models(self._engine)
        yield from self._store(metrics)

    def _gauges(self) -> Iterator[Metric]:
        engine, sessions = self._engine, self._engine.residents
        told = {
            "sessions": ("sessions kept, resident or not", len(sessions)),
            "sessions_resident": ("sessions whose carry is in the slab", sessions.resident),
            "sessions_stored": ("sessions that the store keeps", len(sessions.store)),
            "queue_jobs": ("jobs that wait", engine.queue_length),
            "queue_bytes": ("bytes of observations that wait", engine.queue_bytes),
            "sockets": ("sockets that are open", len(self._authenticator.sockets)),
            "tasks": ("tasks of the event loop", len(asyncio.all_tasks())),
            "ready": ("1 if requests may be sent here", not engine.readiness_problems()),
        }
        for name, (about, value) in told.items():
            yield GaugeMetricFamily(f"carryover_{name}", about, value)

    def _store(self, metrics: Metrics) -> Iterator[Metric]:
        yield _histograms(
            "carryover_store_seconds", "what calls of the store take", "call", metrics.store_seconds
        )
        yield CounterMetricFamily(
            "carryover_store_written_bytes", "bytes of sessions written to the store", metrics.stored_bytes
        )
        if self._store_path is not None:
            size = sum(path.stat().st_size for path in _files(self._store_path))
            yield GaugeMetricFamily("carryover_store_bytes", "bytes of the store's files", size)


def _by_label(metrics: Metrics) -> Iterator[Metric]:
    refusals = CounterMetricFamily("carryover_refusals", "what was refused, and why", labels=["reason"])
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
        "carryover_tick_seconds", "what each stage of a tick takes", "stage", metrics.stages.histograms
    )
    batches = HistogramMetricFamily("carryover_batch_sessions", "sessions that one tick took together")
    batches.add_metric([], *_buckets(metrics.batches))
    yield batches


def _models(engine: Engine) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}

    def add(name: str, about: str, labels: Mapping[str, str], value: float) -> None:
        if name not in families:
            families[name] = GaugeMetricFamily(f"carryover_model_{name}", about, labels=list(labels))
        families[name].add_metric(list(labels.values()), value)

    for name, slab in engine.residents.models.current.items():
        add("resident", "resident sessions of the model", {"model": name}, len(slab))
    for name, tally in engine.metrics.scores.items():
        _judged(add, engine, name, tally)
    yield from families.values()


def _judged(
    add: Callable[[str, str, Mapping[str, str], float], None], engine: Engine, name: str, tally: ScoreTally
) -> None:
    """Errors, skill and coverage of one model's learning sessions, since the start."""
    slab = engine.residents.models.current.get(name)
    if slab is None:
        return
    told = zip(slab.forecaster.artifact.targets, tally.count, tally.squares, tally.changes, strict=True)
    for output, count, squares, changes in told:
        labels = {"model": name, "output": output}
        add("predictions_judged", "predictions that met their observation", labels, count)
        if count:
            add("mse", "mean squared error, own units", labels, squares / count)
        if changes:
            add("skill", "1 - MSE over that of saying what was observed last", labels, 1 - squares / changes)
    for level, missed in zip(tally.levels, tally.missed, strict=True):
        if tally.interval_count:
            labels = {"model": name, "level": f"{level:g}"}
            add(
                "coverage",
                "share of observations in their interval",
                labels,
                1 - missed / tally.interval_count,
            )


def _histograms(name: str, about: str, label: str, told: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, histogram in dict(told).items():
        family.add_metric([value], *_buckets(histogram))
    return family


def _buckets(histogram: Histogram) -> tuple[list[Any], float]:
    """Cumulative counts by upper bound, and the sum, as the client library takes them."""
    cumulative, below = [], 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        below += count
        cumulative.append(("+Inf" if bound == float("inf") else f"{bound:g}", below))
    return cumulative, histogram.total


def _files(path: Path) -> Iterator[Path]:
    return (
        path.with_name(path.name + end) for end in ("", "-wal") if path.with_name(path.name + end).exists()
    )
