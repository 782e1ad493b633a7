"""The figures that are promised, each a ratio of two rows of one run, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Literal

from benchmarks.measure import Sample, Scenario

Medians = Mapping[Scenario, Sample]
Quantity = Literal["requests", "session_steps", "p50_us", "p99_us"]
SINGLE = "session-steps/s relative to http with 64 connections"
REPEATED = "session-steps/s relative to bulk, the sessions in one order"
HTTP = "requests/s relative to http with 64 connections"


@dataclass(frozen=True)
class Figure:
    """A ratio: `quantity` of `ours` over that of `beside`; bounded above where it is a time, else below.

    Parameters
    ----------
    must, aim
        The bounds; None when the ratio is only reported.
    """

    title: str
    ours: Scenario
    beside: Scenario
    quantity: Quantity
    must: float | None = None
    aim: float | None = None

    @property
    def is_time(self) -> bool:
        """Whether smaller is better."""
        return self.quantity.endswith("_us")

    def measured(self, medians: Medians) -> float | None:
        """Return the ratio; None when either row was not part of the run."""
        if self.ours not in medians or self.beside not in medians:
            return None
        above, below = (getattr(medians[row], self.quantity) for row in (self.ours, self.beside))
        ratio: float = above / below
        return ratio

    def reaches(self, bound: float | None, ratio: float) -> bool:
        """Tell whether a measured ratio is on the right side of a bound."""
        return bound is None or (ratio <= bound if self.is_time else ratio >= bound)


def promised_figures() -> list[Figure]:
    """Return the figures in the order of the report; the last ones have no bound."""

    def ours(connections: int, steps: int = 1, way: str = "http") -> Scenario:
        return Scenario("carryover", way, connections, steps)

    def peer(name: str, connections: int, steps: int = 1) -> Scenario:
        return Scenario(name, "http", connections, steps)

    figures = [
        Figure(_title(64, 1, "requests/s", "fastapi"), ours(64), peer("fastapi", 64), "requests", 38, 52),
        Figure(
            _title(64, 50, "requests/s", "fastapi"), ours(64, 50), peer("fastapi", 64, 50), "requests", 10, 14
        ),
    ]
    for name in ("mosec", "mosec, tuned", "triton"):
        bounds = (3.0, 4.2) if name == "mosec, tuned" else (None, None)
        for connections in (64, 256):
            title = _title(connections, 1, "requests/s", name)
            figures.append(Figure(title, ours(connections), peer(name, connections), "requests", *bounds))
    figures += [
        Figure(_title(1, 1, "p50", "fastapi"), ours(1), peer("fastapi", 1), "p50_us", 0.2, 0.12),
        Figure(_title(64, 1, "p99", "fastapi"), ours(64), peer("fastapi", 64), "p99_us", 0.06, 0.04),
    ]
    for connections in (1, 2, 4):
        for form in ("json", "binary"):
            title = f"bulk {form}, {_connections(connections)}, 1,000 sessions, 1 step: {SINGLE}"
            bulk = ours(connections, way=f"bulk-{form}")
            figures.append(Figure(title, bulk, ours(64), "session_steps"))
    for form in ("json", "binary"):
        title = f"mixed {form}, 2 connections, 1,000 sessions, 1 step: {REPEATED}"
        mixed, repeated = ours(2, way=f"mixed-{form}"), ours(2, way=f"bulk-{form}")
        figures.append(Figure(title, mixed, repeated, "session_steps", 0.85, 0.95))
    floor_title = _title(64, 1, "requests/s", "the bare protocol, floor")
    figures.append(Figure(floor_title, ours(64), peer("floor", 64), "requests", 0.55, 0.7))
    figures += _socket_figures(ours(64))
    for connections in (1, 64, 256):
        plain = peer("carryover, plain route", connections)
        title = f"hot route, {_connections(connections)}, 1 step: requests/s relative to the plain route"
        figures.append(Figure(title, ours(connections), plain, "requests"))
    return figures


def _socket_figures(http: Scenario) -> list[Figure]:
    figures = []
    kinds = (("socket", "1 message", (None, None)), ("pipelined", "8 messages", (1.3, 1.6)))
    for kind, in_flight, bounds in kinds:
        for form in ("json", "binary"):
            title = f"64 WebSockets, {form}, {in_flight} in flight on each, 1 step: {HTTP}"
            way = Scenario("carryover", f"{kind}-{form}", 64, 1)
            figures.append(Figure(title, way, http, "requests", *bounds))
    for form in ("json", "binary"):
        title = f"1 WebSocket, {form}, 64 sessions in flight, 1 step: {HTTP}"
        figures.append(Figure(title, Scenario("carryover", f"shared-{form}", 1, 1), http, "requests"))
    return figures


def _title(connections: int, steps: int, quantity: str, peer: str) -> str:
    return f"{_connections(connections)}, {steps} step{'s' * (steps > 1)}: {quantity} relative to {peer}"


def _connections(count: int) -> str:
    return f"{count} connection{'s' * (count > 1)}"


def medians_of(samples: Mapping[Scenario, Sequence[Sample]]) -> dict[Scenario, Sample]:
    """Return the median of each measured quantity over the rounds of each scenario."""
    return {scenario: _median(rounds) for scenario, rounds in samples.items() if rounds}


def spread(rounds: Sequence[Sample]) -> float:
    """Return how far the rounds' rates lie apart: their range over their median."""
    rates = [sample.requests for sample in rounds]
    return (max(rates) - min(rates)) / median(rates)


def _median(rounds: Sequence[Sample]) -> Sample:
    names = [item.name for item in fields(Sample)]
    return Sample(**{name: median(getattr(sample, name) for sample in rounds) for name in names})
