"""Many cores of one machine: as many single-process replicas, each pinned to a core, sharing one store.

With HAProxy installed they stand behind it, on the port that was asked for, and a session stays with its
replica; without, each has a port of its own, counted from that one. Any of them carries any session.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from app.config import Settings
from app.errors import ConfigError

log = logging.getLogger("carryover.workers")

POLL_SECONDS = 0.1
RESTART_SECONDS = 1.0  # between the end of a worker and its next start
WORKER_PROGRAM = ("-m", "carryover_server")

BALANCER = """
defaults
    mode http
    timeout connect 500ms
    timeout client 90s
    timeout server 60s
    timeout check 1s
    timeout tunnel 1h
    option redispatch
    retries 2
    retry-on conn-failure
frontend carryover
    bind {host}:{port}
    default_backend replicas
backend replicas
    balance hash path,field(3,/)
    hash-type consistent
    option httpchk
    http-check send meth GET uri /health/ready
    http-check expect status 200
    default-server check inter 500ms fastinter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
{servers}
"""


class Workers:
    """The processes of one machine.

    Parameters
    ----------
    settings : of every worker but for its port
    count : how many
    environment : what they are started in

    Raises
    ------
    ConfigError : they would not share their sessions, or could not have their ports
    """

    def __init__(self, settings: Settings, count: int, environment: Mapping[str, str]) -> None:
        if not settings.store_is_shared:
            raise ConfigError("workers share their sessions: name a redis:// store in CARRYOVER_STORE")
        if settings.grpc_port:
            raise ConfigError("workers would all want the one grpc_port: start replicas of your own for gRPC")
        if not 0 < settings.port <= 65_535 - count:
            raise ConfigError(f"{count} workers need ports that follow one another: name the first")
        self.settings = settings
        # To a balancer that speaks plain HTTP, workers that speak TLS would be dead.
        self.haproxy = None if settings.tls_certificate else shutil.which("haproxy")
        first = settings.port + (self.haproxy is not None)
        self.ports = range(first, first + count)
        self._environment = environment
        self._workers: dict[int, subprocess.Popen[bytes]] = {}  # by port
        self._ended: dict[int, float] = {}  # when to start it again, by port
        self._stopping = False

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; a worker that ends before is started again.

        Returns the exit status.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        with tempfile.TemporaryDirectory(prefix="carryover-") as folder:
            for port in self.ports:
                self._start(port)
            balancer = self._balancer(Path(folder))
            print(self._told(), flush=True)
            while not self._stopping:
                self._look_after()
                time.sleep(POLL_SECONDS)
            for worker in self._workers.values():
                worker.send_signal(signal.SIGTERM)
            for worker in self._workers.values():
                worker.wait()
            if balancer is not None:  # last: until here it sends what comes to those that are still there
                balancer.terminate()
                balancer.wait()
        return 0

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start(self, port: int) -> None:
        host = "127.0.0.1" if self.haproxy else self.settings.host
        command = [sys.executable, *WORKER_PROGRAM, "serve", "--host", host, "--port", str(port)]
        # In a session of its own: Ctrl-C is for the parent, which drains them in order.
        worker = subprocess.Popen(command, env=dict(self._environment), start_new_session=True)
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(worker.pid, {cores[(port - self.ports[0]) % len(cores)]})
        self._workers[port] = worker

    def _look_after(self) -> None:
        now = time.monotonic()
        for port, worker in self._workers.items():
            if worker.poll() is None:
                continue
            if port not in self._ended:
                log.error("the worker on port %d ended with %s; it is started again", port, worker.returncode)
                self._ended[port] = now + RESTART_SECONDS
            elif now >= self._ended[port]:
                del self._ended[port]
                self._start(port)

    def _balancer(self, folder: Path) -> subprocess.Popen[bytes] | None:
        if self.haproxy is None:
            return None
        servers = "\n".join(f"    server w{port} 127.0.0.1:{port}" for port in self.ports)
        config = folder / "haproxy.cfg"
        config.write_text(BALANCER.format(host=self.settings.host, port=self.settings.port, servers=servers))
        return subprocess.Popen([self.haproxy, "-db", "-f", str(config)], start_new_session=True)

    def _told(self) -> str:
        each = ", ".join(map(str, self.ports))
        if self.haproxy is None:
            return f"Carryover: {len(self.ports)} workers on ports {each}; any of them carries any session."
        here = f"http://{self.settings.host}:{self.settings.port}"
        return f"Carryover: HAProxy listens on {here}, {len(self.ports)} workers on ports {each}."
