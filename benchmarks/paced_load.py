"""An open-loop generator: every WebSocket sends a message each period, answered or not.

It runs in a process of its own, ``python -m benchmarks.paced_load PLAN OUTCOME``, on the generator's core.
The sockets take turns, evenly over the period. An answer's latency counts from the moment when its message
was due, so a generator or a server that falls behind is not hidden.
"""

from __future__ import annotations

import select
import time
from pathlib import Path

import msgspec

from benchmarks.load import percentile
from benchmarks.socket_load import Caller, Plan, answer_plan, run_module

DRAIN_SECONDS = 2.0  # for the answers that have not come at the end
SPIN_SECONDS = 0.002  # epoll waits whole milliseconds: below this it is only asked


class PacedPlan(msgspec.Struct, frozen=True):
    """A run: what the sockets send, and how many seconds lie between two messages of one socket."""

    plan: Plan
    period: float


class PacedOutcome(msgspec.Struct, frozen=True):
    """What a run found.

    in_time : answers that came before the next message of their socket was due
    latest_send_us : how late the generator sent a message at most 99 times out of 100
    """

    sent: int
    answered: int
    in_time: int
    p50_us: float
    p99_us: float
    latest_send_us: float
    period: float

    @property
    def generator_bound(self) -> bool:
        """Whether the generator itself was not in time."""
        return self.latest_send_us > 1e6 * self.period / 4

    def __str__(self) -> str:
        return (
            f"{self.in_time / self.sent:.2%} of {self.sent:,} frames answered in real time, "
            f"p50 {self.p50_us / 1e3:.1f} ms, p99 {self.p99_us / 1e3:.1f} ms"
        )


def run_paced(paced: PacedPlan, core: int, folder: Path) -> PacedOutcome:
    """Run the generator in its own process.

    Raises
    ------
    BadRun
        When it failed, or when any answer was not what the plan demands.
    """
    return run_module("benchmarks.paced_load", paced, PacedOutcome, core, folder, paced.plan.seconds)


def generate(paced: PacedPlan) -> PacedOutcome:
    """Run the open loop in this process."""
    plan = paced.plan
    callers = [Caller(plan, conversation) for conversation in plan.conversations]
    poller = select.epoll()
    by_descriptor = {caller.socket.fileno(): caller for caller in callers}
    for descriptor in by_descriptor:
        poller.register(descriptor, select.EPOLLIN)
    step, total = paced.period / len(callers), int(plan.seconds / paced.period) * len(callers)
    latencies: list[float] = []
    lateness: list[float] = []
    sent, start = 0, time.perf_counter()
    deadline = start + plan.seconds + DRAIN_SECONDS
    while (now := time.perf_counter()) < deadline and len(latencies) < total:
        while sent < total and (due := start + sent * step) <= now:
            callers[sent % len(callers)].send(1, due)
            lateness.append(now - due)
            sent += 1
        wait = (start + sent * step if sent < total else deadline) - time.perf_counter()
        for descriptor, _ in poller.poll(max(0.0, wait) if wait > SPIN_SECONDS else 0.0):
            caller = by_descriptor[descriptor]
            caller.judge(caller.receive(latencies))
    poller.close()
    for caller in callers:
        caller.socket.close()
    in_time = sum(latency <= paced.period for latency in latencies)
    p50, p99 = (percentile(latencies, part) * 1e6 for part in (0.50, 0.99))
    late = percentile(lateness, 0.99) * 1e6
    return PacedOutcome(sent, len(latencies), in_time, p50, p99, late, paced.period)


if __name__ == "__main__":
    answer_plan(PacedPlan, generate)
