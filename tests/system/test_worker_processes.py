"""`carryover serve --workers N`: replicas on one machine that share their sessions."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app.config import Settings
from app.errors import ConfigError
from app.worker_processes import WORKER_PROGRAM, Workers
from benchmarks.failover.processes import HAPROXY, Replica, wait_until
from tests.helpers.redis_server import needs_redis


def test_workers_that_would_not_share_their_sessions_are_refused():
    with pytest.raises(ConfigError, match="share their sessions"):
        Workers(Settings(port=8000), 2, {})


def test_workers_need_ports_that_are_known():
    with pytest.raises(ConfigError, match="name the first"):
        Workers(Settings(port=0, store="redis://localhost"), 2, {})


@contextmanager
def serving(url: str, **environment: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Two workers: the port that was asked for, and the process that looks after them."""
    port = free_ports(3)
    told = {name: value for name, value in os.environ.items() if not name.startswith("CARRYOVER_")}
    parent = subprocess.Popen(
        [sys.executable, *WORKER_PROGRAM, "serve", "--workers", "2", "--port", str(port)],
        env=told | {"CARRYOVER_STORE": url, "CARRYOVER_RESIDENT_SESSIONS": "1024"} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield port, parent
    finally:
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(30) == 0
        parent.stdout.close()


@needs_redis
def test_a_session_goes_on_at_any_worker_and_one_that_died_comes_back(redis_url, tmp_path):
    with serving(redis_url, PATH="/nonexistent") as (first, parent):  # no HAProxy there
        both = [Replica(tmp_path, {}, port) for port in (first, first + 1)]
        for one in both:
            one.wait()
        told = [post(both[i % 2].port, {"observations": [[0.1]], "at": i}) for i in range(4)]
        assert [answer["position"] for answer in told] == [1, 2, 3, 4]
        victim = next(pid for pid in children(parent.pid) if cores(pid) == {min(os.sched_getaffinity(0))})
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in children(parent.pid) and both[0].ready(), "the worker is back")
        assert post(both[0].port, {"observations": [[0.1]], "at": 4})["position"] == 5


@needs_redis
@pytest.mark.skipif(HAPROXY is None, reason="no haproxy here: apt-get install haproxy")
def test_behind_the_balancer_they_are_one_address(redis_url, tmp_path):
    with serving(redis_url) as (first, parent):
        for port in range(first, first + 3):
            Replica(tmp_path, {}, port).wait()
        told = [post(first, {"observations": [[0.1]], "at": i}) for i in range(4)]
        assert [answer["position"] for answer in told] == [1, 2, 3, 4]
        assert f"HAProxy listens on http://127.0.0.1:{first}, 2 workers" in parent.stdout.readline()


def free_ports(count: int) -> int:
    """The first of as many free ones in a row, below those that connections are given."""
    for first in range(20_000 + os.getpid() % 10_000, 32_000, count):
        try:
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise OSError("no free ports")


def post(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/sessions/a/observations", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as names:  # noqa: PTH123
        return [int(name) for name in names.read().split()]


def cores(pid: int) -> set[int]:
    return set(os.sched_getaffinity(pid))
