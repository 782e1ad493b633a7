"""What came of the requests of one model under `/v2`, as Triton's statistics extension tells it.

A request is in four parts: it is read (`compute_input`), waits for its wave (`queue`), goes through the
network with all of its wave (`compute_infer`), and its answer is written (`compute_output`). An execution is
a wave with requests of the model in it; its batch size is how many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

EXACT_SIZES = 64  # of batches; larger ones are told as the next power of two, so that the answer stays short
PARTS = ("compute_input", "compute_infer", "compute_output")


class Duration:
    """How many of something there were, and the nanoseconds that they took together."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = 0

    def add(self, ns: int) -> None:
        """Count one."""
        self.count += 1
        self.ns += ns

    def told(self) -> dict[str, int]:
        """As the protocol has it."""
        return {"count": self.count, "ns": self.ns}


class Watch:
    """The times of one request, in nanoseconds: `began` being read, `asked` of the engine, `replied` to."""

    __slots__ = ("asked", "began", "replied")

    def __init__(self) -> None:
        self.began = time.perf_counter_ns()
        self.asked = self.replied = self.began

    def ask(self) -> None:
        """It was read: the engine has it."""
        self.asked = time.perf_counter_ns()

    def reply(self) -> None:
        """The engine has answered."""
        self.replied = time.perf_counter_ns()


class Statistics:
    """The counters of one model, since the server started."""

    def __init__(self) -> None:
        self.last_inference = 0  # ms since 1970
        self.executions = 0
        self.success, self.fail, self.queue = Duration(), Duration(), Duration()
        self.parts = {part: Duration() for part in PARTS}
        self._batches: dict[int, dict[str, Duration]] = {}
        self._tick = -1  # whose batch is open
        self._open = [0, 0, 0, 0]  # its size; ns of reading, of the pass, of writing

    def succeeded(self, watch: Watch, tick: int, pass_seconds: float) -> None:
        """A request was answered in this tick, whose pass through the network took so long."""
        done = time.perf_counter_ns()
        reading, waiting, writing = (
            watch.asked - watch.began,
            watch.replied - watch.asked,
            done - watch.replied,
        )
        infer = min(int(1e9 * pass_seconds), waiting)
        self.last_inference = time.time_ns() // 1_000_000
        self.success.add(done - watch.began)
        self.queue.add(waiting - infer)
        for part, ns in zip(PARTS, (reading, infer, writing), strict=True):
            self.parts[part].add(ns)
        self._execute(tick, reading, infer, writing)

    def failed(self, watch: Watch) -> None:
        """A request was refused."""
        self.fail.add(time.perf_counter_ns() - watch.began)

    def told(self, model: str, version: str) -> dict[str, Any]:
        """As the protocol has it."""
        self._close()
        counted = {"success": self.success, "fail": self.fail, "queue": self.queue} | self.parts
        nothing = Duration()
        counted |= {"cache_hit": nothing, "cache_miss": nothing}
        return {
            "name": model,
            "version": version,
            "last_inference": self.last_inference,
            "inference_count": self.success.count,
            "execution_count": self.executions,
            "inference_stats": {name: duration.told() for name, duration in counted.items()},
            "batch_stats": list(self._told_batches()),
        }

    def _told_batches(self) -> Iterator[dict[str, Any]]:
        for size, parts in sorted(self._batches.items()):
            yield {"batch_size": size} | {name: duration.told() for name, duration in parts.items()}

    def _execute(self, tick: int, reading: int, infer: int, writing: int) -> None:
        if tick != self._tick:
            self._close()
            self._tick = tick
            self.executions += 1
        size, read, _, written = self._open
        self._open = [size + 1, read + reading, infer, written + writing]

    def _close(self) -> None:
        """Count the batch that is open, of a tick that may go on: then what follows is counted beside it."""
        size, *took = self._open
        if not size:
            return
        parts = self._batches.setdefault(_rounded(size), {part: Duration() for part in PARTS})
        for part, ns in zip(PARTS, took, strict=True):
            parts[part].add(ns)
        self._open = [0, 0, 0, 0]
        self._tick = -1


def _rounded(size: int) -> int:
    return size if size <= EXACT_SIZES else 1 << (size - 1).bit_length()
