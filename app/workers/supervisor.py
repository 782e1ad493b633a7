"""Starts the workers of a server, starts one again that has ended, and stops them all.

The supervisor serves nothing. A worker reads its settings from its standard input, which stays open: it ends
when the supervisor has died, and then the worker stops.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

log = logging.getLogger("carryover.workers")

POLL_SECONDS = 0.05
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
STEADY_SECONDS = 30.0  # after so long a worker counts as sound, and the pause before its next start is short


class Supervisor:
    """The workers as processes.

    Parameters
    ----------
    command : of a worker
    inputs : what each worker reads at its first start, a line
    later_inputs : what it reads when it is started again
    socket : where a worker of this index serves the others; it is there once the worker has started
    """

    def __init__(
        self,
        command: Sequence[str],
        inputs: Sequence[str],
        later_inputs: Sequence[str],
        socket: Callable[[int], Path],
    ) -> None:
        self._command = list(command)
        self._workers = [
            _Worker(index, *lines) for index, lines in enumerate(zip(inputs, later_inputs, strict=True))
        ]
        self._socket = socket
        self._is_stopping = False

    def run(self) -> int:
        """Run the workers until a signal stops them. Returns the exit status."""
        with ExitStack() as handlers:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                before = signal.signal(number, lambda received, _: self._pass_on(received))
                handlers.callback(signal.signal, number, before)
            try:
                if not self._start_all():
                    is_requested = self._is_stopping
                    status = self._stop_all()
                    return 0 if is_requested else status or 1
                while not self._is_stopping:
                    for worker in self._workers:
                        self._watch(worker)
                    time.sleep(POLL_SECONDS)
                return self._stop_all()
            finally:
                self._kill_all()

    def _start_all(self) -> bool:
        """Start the first worker, and the others once it has started: it says what is wrong, and only it."""
        for position, worker in enumerate(self._workers):
            if self._is_stopping:
                return False
            worker.start(self._command)
            while position == 0 and not self._socket(worker.index).exists():
                if worker.has_ended or self._is_stopping:
                    return False
                time.sleep(POLL_SECONDS)
        while not all(self._socket(worker.index).exists() for worker in self._workers):
            if any(worker.has_ended for worker in self._workers) or self._is_stopping:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _watch(self, worker: _Worker) -> None:
        """Start a worker again that has ended."""
        if not worker.has_ended or self._is_stopping:
            return
        if worker.restarts_at is None:
            self._socket(worker.index).unlink(missing_ok=True)
            log.error(
                "worker %d (process %d) has ended with status %d; it is started again in %g seconds",
                worker.index,
                worker.process.pid,
                worker.process.returncode,
                worker.pause(),
            )
        elif time.monotonic() >= worker.restarts_at:
            worker.start(self._command)

    def _pass_on(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._is_stopping = True
            number = signal.SIGTERM  # also for Ctrl-C, which reaches only the supervisor
        for worker in self._workers:
            worker.signal(number)

    def _stop_all(self) -> int:
        """Stop every worker, and wait for it. Returns the first exit status that is not 0."""
        self._is_stopping = True
        for worker in self._workers:
            if not worker.is_told_to_stop:  # one that was just being started when the signal came, too
                worker.signal(signal.SIGTERM)
        statuses = [worker.wait() for worker in self._workers]
        # SIGTERM itself ends a worker that is still starting: it has accepted nothing.
        return next((abs(status) for status in statuses if status not in (0, -signal.SIGTERM)), 0)

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGKILL)
            worker.wait()


class _Worker:
    """One worker, through all its processes."""

    def __init__(self, index: int, line: str, later_line: str) -> None:
        self.index = index
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self.restarts_at: float | None = None
        self.process: subprocess.Popen[bytes]
        self._line = line
        self._later_line = later_line
        self._is_started = False
        self._started = 0.0
        self.is_told_to_stop = False  # the process has got SIGTERM

    def start(self, command: Sequence[str]) -> None:
        """Start a process."""
        if self._is_started:
            self.wait()  # closes its input
        self._started = time.monotonic()
        self.restarts_at = None
        self.is_told_to_stop = False
        # By default SIGHUP would end a worker that is still starting: it waits until the worker can reload.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        # A group of its own: the terminal sends Ctrl-C to the supervisor alone, which stops the workers once.
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._is_started = True
        if self.process.stdin is not None:
            try:
                self.process.stdin.write(self._line.encode() + b"\n")
                self._line = self._later_line
                self.process.stdin.flush()
            except BrokenPipeError:
                log.error("worker %d has ended before it read its settings", self.index)

    def pause(self) -> float:
        """Choose in how many seconds to start again: more each time, unless the process ran for a while."""
        if time.monotonic() - self._started > STEADY_SECONDS:
            self._pause_seconds = FIRST_PAUSE_SECONDS
        seconds = self._pause_seconds
        self.restarts_at = time.monotonic() + seconds
        self._pause_seconds = min(2 * seconds, MAX_PAUSE_SECONDS)
        return seconds

    @property
    def has_ended(self) -> bool:
        return self._is_started and self.process.poll() is not None

    def signal(self, number: int) -> None:
        if self._is_started and self.process.poll() is None:
            self.process.send_signal(number)
            self.is_told_to_stop |= number == signal.SIGTERM

    def wait(self) -> int:
        if not self._is_started:
            return 0
        status = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status
