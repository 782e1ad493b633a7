"""How long a server's ticks take, stage by stage, by its own metrics."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.dialects import HOST

SUM, COUNT = "carryover_tick_seconds_sum", "carryover_tick_seconds_count"


@dataclass(frozen=True)
class Ticks:
    """Ticks of one server: how many, and the seconds that each stage of them took together."""

    count: float
    seconds: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Seconds that one took."""
        return sum(self.seconds.values()) / (self.count or 1.0)

    def share(self, stage: str) -> float:
        """The part of them that one stage took."""
        return self.seconds[stage] / (sum(self.seconds.values()) or 1.0)

    def since(self, before: Ticks) -> Ticks:
        """Those that came after."""
        seconds = {stage: spent - before.seconds[stage] for stage, spent in self.seconds.items()}
        return Ticks(self.count - before.count, seconds)


def ticks(port: int) -> Ticks:
    """All ticks of a server so far."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    seconds = {_stage(line): _value(line) for line in lines if line.startswith(SUM)}
    # Every tick replies. One job that is applied as it comes in is not collected.
    counts = [_value(line) for line in lines if line.startswith(COUNT) and _stage(line) == "reply"]
    return Ticks(sum(counts), seconds)


def _stage(line: str) -> str:
    return line.partition('stage="')[2].partition('"')[0]


def _value(line: str) -> float:
    return float(line.rpartition(" ")[2])
