"""Calls the store: on the event loop, or from one thread if the store waits for a disk or a network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.observability.metrics import Metrics
from app.stores import Store


class StoreCalls:
    """Calls the store's methods one after the other, and measures how long each takes."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.store = store
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "carryover-store") if store.may_block else None

    async def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the store; returns its result."""
        began = time.perf_counter()
        try:
            if self._thread is None:
                return function(*arguments)
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        finally:
            self._metrics.record_store_call(
                getattr(function, "__name__", "call"), time.perf_counter() - began
            )

    def shutdown(self) -> None:
        """Wait for the call in progress, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()
