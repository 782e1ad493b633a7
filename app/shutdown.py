"""The time that the server has to stop."""

from __future__ import annotations

import logging
import math
import os
import threading
import time

log = logging.getLogger("carryover")

LAST_SECONDS = 1.0  # after the deadline, until the process ends itself


class StopDeadline:
    """When the server must have stopped; starts with the stop.

    Parameters
    ----------
    seconds : from the start of the stop
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = math.inf

    def start(self) -> None:
        """Start to count, unless it has started."""
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self.seconds

    def remaining_seconds(self) -> float:
        """Seconds until the deadline, at least 0; infinite before the start."""
        return max(0.0, self._deadline - time.monotonic())

    def end_process_when_missed(self) -> None:
        """End the process soon after the deadline, whatever it still does.

        That is safe: a chunk that has not been committed has not been answered, so its client sends it again.
        """
        timer = threading.Timer(self.remaining_seconds() + LAST_SECONDS, _end_process, [self.seconds])
        timer.daemon = True  # does not keep a process alive that has stopped in time
        timer.start()


def _end_process(seconds: float) -> None:
    message = "not stopped within %g seconds (CARRYOVER_STOP_SECONDS): the process ends now"
    # On a thread, because writing blocks for ever if nobody reads the log.
    logging_ = threading.Thread(target=log.critical, args=(message, seconds), daemon=True)
    logging_.start()
    logging_.join(LAST_SECONDS)
    os._exit(1)
