"""The supervisor starts, watches and stops processes; here they are small programs in place of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.workers import supervisor
from app.workers.supervisor import Supervisor

WORKER = """
import json, os, signal, sys, time
from pathlib import Path

def end_test():
    os.kill(os.getppid(), signal.SIGTERM)

given = json.loads(sys.stdin.readline())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.signal(signal.SIGHUP, lambda *_: given["is_last"] and end_test())
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
Path(given["socket"]).touch()
time.sleep(given["seconds"])
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that its status tells
if given["status"] == 7:
    end_test()
sys.exit(given["status"])
"""
STAYED = {"seconds": 8.0, "status": 7}  # of a worker that nobody stops
ENDED = {"seconds": 0.5, "status": 1}  # of one that is started again


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs a supervisor until it is stopped. Returns its exit status."""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)

    def run(count: int, *, last_ends: bool = False) -> int:
        later = [{"socket": str(tmp_path / str(i)), "is_last": i == count - 1} | STAYED for i in range(count)]
        first = [*later[:-1], later[-1] | (ENDED if last_ends else {})]
        command = [sys.executable, "-c", WORKER]
        lines = [list(map(json.dumps, given)) for given in (first, later)]
        return Supervisor(command, *lines, lambda i: tmp_path / str(i)).run()

    return run


def signal_within_start(monkeypatch: Any, which: int, number: int) -> None:
    """Send this process a signal while it is starting a process, the first of which is number 0."""
    popen, starts = subprocess.Popen, iter(range(100))

    def starting(*arguments: Any, **named: Any) -> Any:
        process = popen(*arguments, **named)
        if next(starts) == which:
            os.kill(os.getpid(), number)
        return process

    monkeypatch.setattr(subprocess, "Popen", starting)


def signal_behind_start(monkeypatch: Any, which: int, number: int) -> None:
    """Send this process a signal when it has started a process, which has not come to its first line."""
    start, starts = supervisor._Worker.start, iter(range(100))

    def starting(worker: Any, command: Any) -> None:
        start(worker, command)
        if next(starts) == which:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(supervisor._Worker, "start", starting)


@pytest.mark.parametrize("which", [0, 1])
def test_sigterm_while_a_worker_is_being_started_stops_all_workers(run, monkeypatch, which):
    signal_within_start(monkeypatch, which, signal.SIGTERM)
    began = time.monotonic()
    assert run(3) == 0
    assert time.monotonic() - began < 8.0, "a worker was not stopped, and ended by itself"


def test_sigterm_while_a_worker_is_started_again_stops_all_workers(run, monkeypatch):
    signal_within_start(monkeypatch, 2, signal.SIGTERM)
    assert run(2, last_ends=True) == 0


@pytest.mark.parametrize(("which", "last_ends"), [(1, False), (2, True)], ids=["start", "start again"])
def test_sighup_while_a_worker_starts_is_for_later(run, monkeypatch, which, last_ends):
    signal_behind_start(monkeypatch, which, signal.SIGHUP)
    assert run(2, last_ends=last_ends) == 0
