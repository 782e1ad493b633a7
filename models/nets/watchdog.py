"""Ends the runs of graphs that take too long.

A thread looks at the runs in progress, some times within the limit of the shortest. While there are none it
waits, so a server at rest is not woken. onnxruntime ends a run between two operators: one that never returns
cannot be ended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

from models.arrays import AnyArray

CHECKS = 8  # within the limit of a run
SHORTEST_PAUSE = 0.005  # seconds


class RunTooLongError(Exception):
    """A run was ended because it took too long."""


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def run(self, names: Sequence[str], feeds: dict[str, AnyArray], options: Any) -> list[AnyArray]:
        """Compute the outputs of these names."""


class Watchdog:
    """Runs graphs, each within a limit of time. There is one for the whole process."""

    def __init__(self) -> None:
        self._runs: dict[Any, tuple[float, float]] = {}  # by RunOptions: when it is to end, and its limit
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def run(
        self, session: Session, names: Sequence[str], feeds: dict[str, AnyArray], options: Any, seconds: float
    ) -> list[AnyArray]:
        """Compute the outputs of these names.

        Parameters
        ----------
        options : `onnxruntime.RunOptions`, used for this run alone
        seconds : most that the run may take

        Raises
        ------
        RunTooLongError
        """
        self._runs[options] = (time.monotonic() + seconds, seconds)
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        self._wake.set()
        try:
            return session.run(names, feeds, options)
        except Exception:
            if options.terminate:
                raise RunTooLongError(
                    f"the network was stopped: it took more than {seconds:g} seconds"
                ) from None
            raise
        finally:
            del self._runs[options]

    def _watch(self) -> None:
        while True:
            if not self._runs:
                self._wake.clear()
                if not self._runs:  # one may have begun before the flag was cleared
                    self._wake.wait()
            runs = list(self._runs.items())
            now = time.monotonic()
            for options, (end, _) in runs:
                if end <= now:
                    options.terminate = True
            shortest = min((seconds for _, (_, seconds) in runs), default=1.0)
            time.sleep(max(SHORTEST_PAUSE, shortest / CHECKS))


WATCHDOG = Watchdog()
