"""What came of the requests of one model under `/v2`, as Triton's statistics extension tells it.

A request is in four parts: it is read (`compute_input`), waits for its wave (`queue`), goes through the
network with all of its wave (`compute_infer`), and its answer is written (`compute_output`). An execution is
a wave with requests of the model in it; its batch size is how many.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

EXACT_SIZES = 64  # of batches; larger ones are told as the next power of two, so that the answer stays short
PARTS = ("compute_input", "compute_infer", "compute_output")


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


class Batches:
    """The executions of one size: how many, and the nanoseconds of reading, of the passes, of writing."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = [0, 0, 0]


class Statistics:
    """The counters of one model, since the server started. Plain integers: the hot route counts here."""

    def __init__(self) -> None:
        self.last_inference = 0  # ms since 1970
        self.executions = 0
        self.successes = self.failures = self.failed_ns = 0
        self.read_ns = self.queued_ns = self.inferred_ns = self.written_ns = 0
        self._batches: defaultdict[int, Batches] = defaultdict(Batches)
        self._tick = -1  # whose batch is open
        self._size = self._read = self._infer = self._written = 0  # of that batch

    def succeeded(self, watch: Watch, tick: int, pass_seconds: float) -> None:
        """A request was answered in this tick, whose pass through the network took so long."""
        written = time.perf_counter_ns() - watch.replied
        read = watch.asked - watch.began
        waited = watch.replied - watch.asked
        infer = min(int(1e9 * pass_seconds), waited)
        self.last_inference = time.time_ns() // 1_000_000
        self.successes += 1
        self.read_ns += read
        self.queued_ns += waited - infer
        self.inferred_ns += infer
        self.written_ns += written
        if tick != self._tick:
            self._close()
            self._tick = tick
            self.executions += 1
        self._size += 1
        self._read += read
        self._infer = infer
        self._written += written

    def failed(self, watch: Watch) -> None:
        """A request was refused."""
        self.failures += 1
        self.failed_ns += time.perf_counter_ns() - watch.began

    def told(self, model: str, version: str) -> dict[str, Any]:
        """As the protocol has it."""
        self._close()
        parts = (self.read_ns, self.inferred_ns, self.written_ns)
        stats = {
            "success": _duration(self.successes, self.queued_ns + sum(parts)),
            "fail": _duration(self.failures, self.failed_ns),
            "queue": _duration(self.successes, self.queued_ns),
            **{name: _duration(self.successes, ns) for name, ns in zip(PARTS, parts, strict=True)},
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        }
        return {
            "name": model,
            "version": version,
            "last_inference": self.last_inference,
            "inference_count": self.successes,
            "execution_count": self.executions,
            "inference_stats": stats,
            "batch_stats": [_told(size, batches) for size, batches in sorted(self._batches.items())],
        }

    def _close(self) -> None:
        """Count the batch that is open."""
        if not self._size:
            return
        batches = self._batches[_rounded(self._size)]
        batches.count += 1
        for i, ns in enumerate((self._read, self._infer, self._written)):
            batches.ns[i] += ns
        self._size = self._read = self._infer = self._written = 0
        self._tick = -1  # what follows in the same tick is counted as another


def _told(size: int, batches: Batches) -> dict[str, Any]:
    parts = zip(PARTS, batches.ns, strict=True)
    return {"batch_size": size} | {name: _duration(batches.count, ns) for name, ns in parts}


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _rounded(size: int) -> int:
    return size if size <= EXACT_SIZES else 1 << (size - 1).bit_length()
