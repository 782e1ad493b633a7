"""The result of an attack, and the bounds that a server must keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.attack.server import MIB, Server, Target, bystander

STOP_MS = 250.0
"""The longest stop of other clients that one request of at most 8 MiB may cause."""
GROWTH_MIB = 256
"""The most memory that one request of at most 8 MiB may take."""
MAX_SHOWN = 3
"""Failures that a row of the table names."""


@dataclass(frozen=True)
class Result:
    """One row of the table.

    Parameters
    ----------
    longest_ms, busy_ms
        The longest time that the bystander waited for an answer, and the most CPU time that the server used
        while it waited for one. Where other programs use the cores, the first is larger.
    peak_mib, growth_mib
        The server's highest resident memory during the attack, and the same less that before it. NaN, as the
        times: not measured.
    worked
        Whether the attack reached its aim: a bound was exceeded, or a wrong answer given.
    """

    attack: str
    sent: str
    longest_ms: float
    busy_ms: float
    peak_mib: float
    growth_mib: float
    outcome: str
    worked: bool


class Checks:
    """What an attack tried, and what of it did not hold."""

    def __init__(self) -> None:
        self.tries = 0
        self.failures: list[str] = []

    def expect(self, held: bool, otherwise: str) -> None:
        """Count a try; `otherwise` says what happened where it did not hold."""
        self.tries += 1
        if not held:
            self.failures.append(otherwise)

    @property
    def worked(self) -> bool:
        """Whether anything did not hold, or nothing was tried."""
        return bool(self.failures) or not self.tries

    def __str__(self) -> str:
        if not self.worked:
            return f"held in {self.tries} of {self.tries} tries"
        shown = "; ".join(self.failures[:MAX_SHOWN])
        return f"did not hold in {len(self.failures)} of {self.tries} tries: {shown}"


@dataclass
class Run:
    """The conditions of all attacks: the target, a scratch folder, and a factor for their size."""

    target: Target
    folder: Path
    scale: float = 1.0
    redis: bool = False
    noise_ms: float = 0.0
    """The longest wait without an attack: it is added to the bound, because it is not the server's."""
    _folders: int = 0

    def scaled(self, count: int) -> int:
        """Return a count times the scale, and at least 1."""
        return max(1, round(count * self.scale))

    def new_folder(self) -> Path:
        """Create a folder for the files of one server."""
        self._folders += 1
        folder = self.folder / f"server-{self._folders}"
        folder.mkdir()
        return folder


@dataclass
class View:
    """What the bystander saw, and the server's memory."""

    server: Server
    noise_ms: float
    report: dict[str, Any] = field(default_factory=dict)

    def result(
        self, attack: str, sent: str, outcome: str, *, worked: bool = False, bounded: bool = True
    ) -> Result:
        """Build the row; an attack also worked if the bystander's answers were spoiled.

        Parameters
        ----------
        bounded
            The attack also worked if the longest stop or the memory exceeded its bound.
        """
        server, longest = self.server, float(self.report.get("longest_ms", 0.0))
        busy = float(self.report.get("busiest_ms", 0.0))
        growth = (server.peak - server.baseline) / MIB
        failures = self.report.get("failures", {})
        if server.too_large:
            outcome = f"the server was killed at {server.memory_mib} MiB"
        elif failures:
            outcome += "; bystander: " + ", ".join(f"{count} x {name}" for name, count in failures.items())
        harmed = bool(failures) or server.too_large
        stopped = longest > STOP_MS + self.noise_ms and busy > STOP_MS
        harmed = harmed or (bounded and (stopped or growth > GROWTH_MIB))
        return Result(attack, sent, longest, busy, server.peak / MIB, growth, outcome, worked or harmed)


def unobserved(attack: str, sent: str, outcome: str, *, worked: bool, server: Server | None = None) -> Result:
    """Build the row of an attack beside which no other client ran; without `server` memory is not shown."""
    nan = float("nan")
    peak, growth = (
        (nan, nan) if server is None else (server.peak / MIB, (server.peak - server.baseline) / MIB)
    )
    return Result(attack, sent, nan, nan, peak, growth, outcome, worked)


@asynccontextmanager
async def observed(run: Run, server: Server, port: int | None = None) -> AsyncIterator[View]:
    """Run the bystander around an attack, by way of `port` if that is not the server's own."""
    view = View(server, run.noise_ms)
    async with bystander(server, port or server.port) as report:
        view.report = report
        await asyncio.sleep(0.5)  # the first chunks create the session and warm the server up
        server.begin()
        yield view
        await asyncio.sleep(0.1)
        server.sample()
