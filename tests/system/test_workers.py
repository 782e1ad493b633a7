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
from collections.abc import Callable
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

HERE, THERE = owned(0, 4), owned(1, 4)
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


def is_ready(port: int) -> bool:
    return call(port, "GET", "/health/ready")[0] == 200


def processes(supervisor: int) -> list[int]:
    """The workers."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return [int(child) for child in children]


def worker_of(supervisor: int, store: Path, index: int) -> int:
    """The process that has the file of a worker open."""
    name = str(store.with_name(f"{store.name}.{index}-of-2"))
    for process in processes(supervisor):
        files = Path(f"/proc/{process}/fd").iterdir()
        if any(str(file.readlink()) == name for file in files if file.is_symlink()):
            return process
    raise AssertionError(f"nobody has {name} open")


def test_a_killed_worker_is_started_again_and_nothing_acknowledged_is_lost(zoo_folder, artifacts, tmp_path):
    store = tmp_path / "store.sqlite"
    whole = {name: series("sine", 9, seed) for seed, name in enumerate((HERE[0], THERE[0]))}
    with serving(zoo_folder, CARRYOVER_WORKERS="2", CARRYOVER_STORE=f"sqlite:{store}") as (process, port):
        got: dict[str, list[Any]] = {name: [] for name in whole}
        for at in range(0, 6, 3):
            for name, rows in whole.items():
                body = {"observations": rows[at : at + 3].tolist(), "at": at}
                status, answer = call(port, "POST", f"/sessions/{name}/observations", body)
                assert (status, answer["position"]) == (200, at + 3)
                got[name] += answer["predictions"]
        victim = worker_of(process.pid, store, 1)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: victim not in processes(process.pid))
        eventually(lambda: is_ready(port))
        assert len(processes(process.pid)) == 2
        for name, rows in whole.items():
            retry = {"observations": rows[3:6].tolist(), "at": 3}
            status, answer = call(port, "POST", f"/sessions/{name}/observations", retry)
            assert (status, answer["position"], answer["replayed"]) == (200, 6, True)
            assert_allclose(answer["predictions"], got[name][3:], atol=TOLERANCE)
            body = {"observations": rows[6:].tolist(), "at": 6}
            got[name] += call(port, "POST", f"/sessions/{name}/observations", body)[1]["predictions"]
            assert_allclose(got[name], one_pass(artifacts["sine"], rows), atol=2 * TOLERANCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SECONDS) == 0


def test_while_a_worker_is_away_the_other_serves_and_says_so(zoo_folder, tmp_path):
    store = tmp_path / "store.sqlite"
    with serving(zoo_folder, CARRYOVER_WORKERS="2", CARRYOVER_STORE=f"sqlite:{store}") as (process, port):
        victim = worker_of(process.pid, store, 1)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: call(port, "GET", "/health/ready")[1]["reasons"] == ["worker 1 is starting"])
        chunk = {"observations": [0.5], "at": 0}
        assert call(port, "POST", f"/sessions/{HERE[0]}/observations", chunk)[0] == 200
        status, problem = call(port, "POST", f"/sessions/{THERE[0]}/observations", chunk)
        assert (status, problem["type"]) == (503, "urn:carryover:worker-unavailable")
        eventually(lambda: is_ready(port))
        assert call(port, "POST", f"/sessions/{THERE[0]}/observations", chunk)[0] == 200


def test_sigterm_answers_what_both_workers_have_accepted_and_exits_0(zoo_folder, artifacts):
    whole = series("sine", 8000)
    with serving(zoo_folder, CARRYOVER_WORKERS="2") as (process, port):
        # Each to either worker, for sessions of either: some of them are handed over.
        names = HERE + THERE
        lines = [posted(port, name, {"observations": whole.tolist(), "at": 0}) for name in names]
        eventually(lambda: queued_chunks(port) == len(names))
        process.send_signal(signal.SIGTERM)
        for line in lines:
            status, answer = answered(line)
            assert (status, answer["position"]) == (200, 8000)
            want = one_pass(artifacts["sine"], whole)
            assert_allclose(np.array(answer["predictions"]), want, atol=2 * TOLERANCE)
            line.close()
        assert process.wait(timeout=SECONDS) == 0
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def queued_chunks(port: int) -> int:
    """Chunks that wait or were applied, at both workers."""
    page = call(port, "GET", "/metrics")[1]
    counts = re.findall(r"^carryover_(?:queue_jobs|chunks_total) (\S+)$", page, re.MULTILINE)
    return int(sum(map(float, counts)))


def test_the_workers_end_with_their_supervisor(zoo_folder):
    with serving(zoo_folder, CARRYOVER_WORKERS="2") as (process, port):
        workers = processes(process.pid)
        process.kill()
        eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def test_sighup_reloads_models_in_every_worker(artifacts, tmp_path):
    folder = tmp_path / "models"
    save(artifacts["sine"], folder / "sine")
    newer = made("sine", hidden=32, layers=2, seed=9)
    with serving(folder, CARRYOVER_WORKERS="2") as (process, port):
        save(newer, folder / "sine")
        process.send_signal(signal.SIGHUP)

        def new_sessions_have_it() -> bool:
            fingerprints = set()
            for name in (HERE[0], THERE[0]):
                call(port, "DELETE", f"/sessions/{name}")
                fingerprints.add(call(port, "POST", "/sessions", {"id": name})[1]["fingerprint"])
            return fingerprints == {newer.fingerprint}

        eventually(new_sessions_have_it)


def started(zoo_folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A start that is refused."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    return subprocess.run(
        [sys.executable, "-c", "from app.cli import main; main()", "serve", "--workers", "2", *arguments],
        cwd=ROOT,
        env=environment | {"CARRYOVER_MODELS": str(zoo_folder), "CARRYOVER_DEFAULT_MODEL": "sine"} | settings,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_what_is_wrong_is_said_once(tmp_path):
    result = started(tmp_path, "--port", "0")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("carryover: ")]
    assert errors == [f"carryover: there is no model in {tmp_path}; set CARRYOVER_MODELS"]


def test_a_port_in_use_is_refused(zoo_folder):
    """Though the workers share theirs: two servers on one port would each have half of the sessions."""
    with serving(zoo_folder, CARRYOVER_WORKERS="2") as (_, port):
        result = started(zoo_folder, "--port", str(port))
        assert result.returncode == 2
        assert f"cannot listen on 127.0.0.1:{port}" in result.stderr


def test_another_number_of_workers_is_refused_for_the_same_store(zoo_folder, tmp_path):
    store = f"sqlite:{tmp_path / 'store.sqlite'}"
    with serving(zoo_folder, CARRYOVER_STORE=store) as (process, port):
        call(port, "POST", f"/sessions/{THERE[0]}/observations", {"observations": [0.5]})
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=SECONDS)
    result = started(zoo_folder, "--port", "0", CARRYOVER_STORE=store)
    assert result.returncode == 2
    assert "belong to 1 worker" in result.stderr
    divide = ["sessions", "divide", store.removeprefix("sqlite:"), "2"]
    command = [sys.executable, "-c", "from app.cli import main; main()", *divide]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=SECONDS)
    with serving(zoo_folder, CARRYOVER_STORE=store, CARRYOVER_WORKERS="2") as (_, port):
        assert call(port, "GET", f"/sessions/{THERE[0]}")[1]["position"] == 1
