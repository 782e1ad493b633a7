"""Metrics of several workers as those of one server.

Each worker's page is plain values, which can be sent. Counters and histograms add up, and so do gauges, but
for those that `LEAST` and `GREATEST` name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

Page = list[list[Any]]
"""Of each family: its name, documentation, type, and samples, which are name, labels and value."""

LEAST = {"carryover_ready", "process_start_time_seconds"}
GREATEST = {"process_max_fds"}


def plain_page(families: Iterable[Metric]) -> Page:
    """The families as plain values."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[sample.name, dict(sample.labels), float(sample.value)] for sample in family.samples],
        ]
        for family in families
    ]


def merge(pages: Sequence[Page]) -> list[Metric]:
    """The families of all pages, each sample once."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for name, documentation, kind, samples in (family for page in pages for family in page):
        families.setdefault(name, Metric(name, documentation, kind))
        combine = _combination(name, kind)
        merged = values.setdefault(name, {})
        for sample, labels, value in samples:
            key = sample, tuple(labels.items())
            merged[key] = combine((merged[key], value)) if key in merged else value
    for name, family in families.items():
        family.samples = [
            Sample(sample, dict(labels), value) for (sample, labels), value in values[name].items()
        ]
    return list(families.values())


def _combination(name: str, kind: str) -> Callable[[Iterable[float]], float]:
    if name in LEAST:
        return min
    return max if name in GREATEST or kind == "info" else sum
