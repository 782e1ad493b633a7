"""`carryover serve --workers 2` as processes: one port, one server, whichever of them ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from models.artifact.files import save
from tests.helpers.paths import ROOT
from tests.helpers.two_workers import owned
from tests.helpers.zoo import TOLERANCE, made, one_pass, series
from tests.system.test_serve import answered, posted, serving

HERE, THERE = owned(0, 8), owned(1, 8)
SECONDS = 60.0


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and body of one request on a connection of its own."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(line):
        line.request(method, path, None if body is None else json.dumps(body))
        response = line.getresponse()
        content = response.read()
        is_json = "json" in (response.getheader("content-type") or "")
        return response.status, json.loads(content) if is_json else content.decode()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition of another process."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if condition():
                return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def processes(supervisor: int) -> list[int]:
    """The workers."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(child) for child in children]


@dataclass(frozen=True)
class Pair:
    """A server of two workers."""

    process: subprocess.Popen[str]
    port: int
    store: Path
    models: Path

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call(self.port, method, path, body)

    def is_ready(self) -> bool:
        return self.call("GET", "/health/ready")[0] == 200

    def worker(self, index: int) -> int:
        """The process that has the file of a worker open."""
        name = str(self.store.with_name(f"{self.store.name}.{index}-of-2"))
        for process in processes(self.process.pid):
            files = Path(f"/proc/{process}/fd").iterdir()
            if any(str(file.readlink()) == name for file in files if file.is_symlink()):
                return process
        raise AssertionError(f"no worker has {name} open")

    def stop(self) -> int:
        """Exit code after SIGTERM; the same when called again."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=SECONDS)


@pytest.fixture(scope="module")
def pair(artifacts, tmp_path_factory) -> Iterator[Pair]:
    """One server of two workers, which every test leaves ready: starting one takes seconds."""
    folder = tmp_path_factory.mktemp("workers")
    models, store = folder / "models", folder / "store.sqlite"
    save(artifacts["sine"], models / "sine")
    save(artifacts["partial"], models / "partial")  # which a test reloads
    with serving(models, CARRYOVER_WORKERS="2", CARRYOVER_STORE=f"sqlite:{store}") as (process, port):
        yield Pair(process, port, store, models)


def test_a_killed_worker_is_started_again_and_nothing_acknowledged_is_lost(pair, artifacts):
    whole = {name: series("sine", 9, seed) for seed, name in enumerate((HERE[0], THERE[0]))}
    got: dict[str, list[Any]] = {name: [] for name in whole}
    for at in range(0, 6, 3):
        for name, rows in whole.items():
            body = {"observations": rows[at : at + 3].tolist(), "at": at}
            status, answer = pair.call("POST", f"/sessions/{name}/observations", body)
            assert (status, answer["position"]) == (200, at + 3)
            got[name] += answer["predictions"]
    victim = pair.worker(1)
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in processes(pair.process.pid))

    # The other serves meanwhile, and says what is missing.
    eventually(lambda: pair.call("GET", "/health/ready")[1]["reasons"] == ["worker 1 is starting"])
    chunk = {"observations": [0.5], "at": 0}
    assert pair.call("POST", f"/sessions/{HERE[1]}/observations", chunk)[0] == 200
    status, problem = pair.call("POST", f"/sessions/{THERE[1]}/observations", chunk)
    assert (status, problem["type"]) == (503, "urn:carryover:worker-unavailable")

    eventually(pair.is_ready)
    assert len(processes(pair.process.pid)) == 2
    assert pair.call("POST", f"/sessions/{THERE[1]}/observations", chunk)[0] == 200
    for name, rows in whole.items():
        retry = {"observations": rows[3:6].tolist(), "at": 3}
        status, answer = pair.call("POST", f"/sessions/{name}/observations", retry)
        assert (status, answer["position"], answer["replayed"]) == (200, 6, True)
        assert_allclose(answer["predictions"], got[name][3:], atol=TOLERANCE)
        body = {"observations": rows[6:].tolist(), "at": 6}
        got[name] += pair.call("POST", f"/sessions/{name}/observations", body)[1]["predictions"]
        assert_allclose(got[name], one_pass(artifacts["sine"], rows), atol=2 * TOLERANCE)


def test_a_port_in_use_is_refused(pair):
    """Though the workers share theirs: two servers on one port would each have half of the sessions."""
    result = started(pair.models, "--workers", "2", "--port", str(pair.port))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{pair.port}" in result.stderr


def test_sighup_reloads_models_in_every_worker(pair):
    newer = made("partial", hidden=8, layers=1, seed=9)
    save(newer, pair.models / "partial")
    pair.process.send_signal(signal.SIGHUP)

    def new_sessions_have_it() -> bool:
        fingerprints = set()
        for name in (HERE[2], THERE[2]):
            pair.call("DELETE", f"/sessions/{name}")
            created = pair.call("POST", "/sessions", {"id": name, "model": "partial"})[1]
            fingerprints.add(created["fingerprint"])
        return fingerprints == {newer.fingerprint}

    eventually(new_sessions_have_it)


def started(zoo_folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is refused."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    return subprocess.run(
        [sys.executable, "-c", "from app.cli import main; main()", "serve", *arguments],
        cwd=ROOT,
        env=environment | {"CARRYOVER_MODELS": str(zoo_folder), "CARRYOVER_DEFAULT_MODEL": "sine"} | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_what_is_wrong_is_said_once(tmp_path):
    result = started(tmp_path, "--workers", "2", "--port", "0")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("carryover: ")]
    assert errors == [f"carryover: there is no model in {tmp_path}; set CARRYOVER_MODELS"]


def test_the_workers_end_with_their_supervisor(zoo_folder):
    with serving(zoo_folder, CARRYOVER_WORKERS="2") as (process, port):
        workers = processes(process.pid)
        process.kill()
        eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def queued_chunks(port: int) -> int:
    """Chunks that wait or were applied, at both workers."""
    page = call(port, "GET", "/metrics")[1]
    counts = re.findall(r"^carryover_(?:queue_jobs|chunks_total) (\S+)$", page, re.MULTILINE)
    return int(sum(map(float, counts)))


def test_sigterm_answers_what_both_workers_have_accepted_and_exits_0(pair, artifacts):
    whole = series("sine", 8000)
    # Each to either worker, for sessions of either: some of them are handed over.
    names = HERE[4:] + THERE[4:]
    before = queued_chunks(pair.port)
    lines = [posted(pair.port, name, {"observations": whole.tolist(), "at": 0}) for name in names]
    eventually(lambda: queued_chunks(pair.port) == before + len(names))
    assert pair.stop() == 0
    for line in lines:
        status, answer = answered(line)
        assert (status, answer["position"]) == (200, 8000)
        want = one_pass(artifacts["sine"], whole)
        assert_allclose(np.array(answer["predictions"]), want, atol=2 * TOLERANCE)
        line.close()
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", pair.port), timeout=5)


def test_another_number_of_workers_is_refused_for_the_same_store(pair):
    pair.stop()
    result = started(pair.models, "--port", "0", "--workers", "1", CARRYOVER_STORE=f"sqlite:{pair.store}")
    assert result.returncode == 2
    assert "belong to 2 workers" in result.stderr
