"""Counts and times of the requests of one model under `/v2`: Triton's statistics extension.

A request has four phases: it is read (`compute_input`), it waits for its batch (`queue`), the network
computes the batch (`compute_infer`), and the answer is written (`compute_output`). An execution is a batch
with requests of the model; its batch size is their number.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

EXACT_SIZES = 64  # larger batch sizes are reported as the next power of two, which keeps the answer short
PHASES = ("compute_input", "compute_infer", "compute_output")


class RequestTimer:
    """When one request started to be read, was submitted to the engine and was answered by it, in ns."""

    __slots__ = ("answered_ns", "started_ns", "submitted_ns")

    def __init__(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self.submitted_ns = self.answered_ns = self.started_ns

    def mark_submitted(self) -> None:
        """The request was read and is now submitted to the engine."""
        self.submitted_ns = time.perf_counter_ns()

    def mark_answered(self) -> None:
        """The engine has answered."""
        self.answered_ns = time.perf_counter_ns()


class Batches:
    """The executions of one batch size: their number, and the nanoseconds of each of `PHASES`."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0
        self.ns = [0, 0, 0]


class Statistics:
    """The counters of one model since the server started; plain integers, for the hot route."""

    def __init__(self) -> None:
        self.last_inference = 0  # ms since 1970
        self.executions = 0
        self.successes = self.failures = self.failed_ns = 0
        self.read_ns = self.queued_ns = self.inferred_ns = self.written_ns = 0
        self._batches: defaultdict[int, Batches] = defaultdict(Batches)
        self._tick = -1  # the tick whose batch is being counted
        self._size = self._read = self._infer = self._written = 0  # of that batch

    def record_success(self, timer: RequestTimer, tick: int, pass_seconds: float) -> None:
        """Count a request that was answered in this tick; its batch took `pass_seconds` in the network."""
        written = time.perf_counter_ns() - timer.answered_ns
        read = timer.submitted_ns - timer.started_ns
        waited = timer.answered_ns - timer.submitted_ns
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

    def record_failure(self, timer: RequestTimer) -> None:
        """Count a request that was refused."""
        self.failures += 1
        self.failed_ns += time.perf_counter_ns() - timer.started_ns

    def as_dict(self, model: str, version: str) -> dict[str, Any]:
        """The counters in the format of the protocol."""
        self._close()
        parts = (self.read_ns, self.inferred_ns, self.written_ns)
        stats = {
            "success": _duration(self.successes, self.queued_ns + sum(parts)),
            "fail": _duration(self.failures, self.failed_ns),
            "queue": _duration(self.successes, self.queued_ns),
            **{name: _duration(self.successes, ns) for name, ns in zip(PHASES, parts, strict=True)},
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
            "batch_stats": [_batch_entry(size, batches) for size, batches in sorted(self._batches.items())],
        }

    def _close(self) -> None:
        """Add the batch that is being counted to the batches of its size."""
        if not self._size:
            return
        batches = self._batches[_rounded(self._size)]
        batches.count += 1
        for i, ns in enumerate((self._read, self._infer, self._written)):
            batches.ns[i] += ns
        self._size = self._read = self._infer = self._written = 0
        self._tick = -1  # later requests of the same tick count as a new batch


def add_statistics(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The statistics of one model at two workers, as those of one."""
    batches: dict[int, dict[str, Any]] = {}
    for entry in (*first["batch_stats"], *second["batch_stats"]):
        size = entry["batch_size"]
        batches[size] = _add(batches[size], entry) | {"batch_size": size} if size in batches else entry
    return first | {
        "last_inference": max(first["last_inference"], second["last_inference"]),
        "inference_count": first["inference_count"] + second["inference_count"],
        "execution_count": first["execution_count"] + second["execution_count"],
        "inference_stats": _add(first["inference_stats"], second["inference_stats"]),
        "batch_stats": [entry for _, entry in sorted(batches.items())],
    }


def _add(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The sum of all numbers of two nested dicts with the same keys."""
    return {
        name: _add(value, second[name]) if isinstance(value, dict) else value + second[name]
        for name, value in first.items()
    }


def _batch_entry(size: int, batches: Batches) -> dict[str, Any]:
    parts = zip(PHASES, batches.ns, strict=True)
    return {"batch_size": size} | {name: _duration(batches.count, ns) for name, ns in parts}


def _duration(count: int, ns: int) -> dict[str, int]:
    return {"count": count, "ns": ns}


def _rounded(size: int) -> int:
    return size if size <= EXACT_SIZES else 1 << (size - 1).bit_length()
