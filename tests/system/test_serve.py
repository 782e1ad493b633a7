"""`carryover serve` as a process: it listens, and on SIGTERM answers accepted requests and exits with 0."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.config import Settings
from tests.helpers.paths import ROOT
from tests.helpers.zoo import TOLERANCE, one_pass, series


@contextlib.contextmanager
def serving(zoo_folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """A server process and the port that it took."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    environment |= {
        "CARRYOVER_MODELS": str(zoo_folder),
        "CARRYOVER_DEFAULT_MODEL": "sine",
        "CARRYOVER_PORT": "0",
    }
    program = "from app.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve"],
        cwd=ROOT,
        env=environment | {"PYTHONUNBUFFERED": "1"} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    # What it logs later is read, too: a full pipe would stop it.
    rest = threading.Thread(target=list, args=(process.stdout,), daemon=True)
    try:
        for line in process.stdout:
            if found := re.search(r"https?://127\.0\.0\.1:(\d+)", line):
                break
        rest.start()
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        if rest.ident is not None:
            rest.join()
        process.stdout.close()


def posted(port: int, session: str, body: dict) -> socket.socket:
    """A connection on which this chunk was sent, before its answer is read."""
    content = json.dumps(body).encode()
    line = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST /sessions/{session}/observations HTTP/1.1\r\nhost: localhost\r\n"
    head += f"content-length: {len(content)}\r\n\r\n"
    line.sendall(head.encode() + content)
    return line


def answered(line: socket.socket) -> tuple[int, dict]:
    """Status and body of the answer on this connection."""
    with line.makefile("rb") as file:
        status = int(file.readline().split()[1])
        length = 0
        while (header := file.readline().strip().lower()) != b"":
            if header.startswith(b"content-length:"):
                length = int(header.split(b":")[1])
        return status, json.loads(file.read(length))


@pytest.mark.parametrize("hot_route", ["1", "0"])
def test_sigterm_answers_accepted_requests_and_exits_0(zoo_folder, artifacts, hot_route):
    whole = series("sine", 8000)
    with serving(zoo_folder, CARRYOVER_HOT_ROUTE=hot_route) as (process, port):
        lines = [posted(port, f"s{i}", {"observations": whole.tolist(), "at": 0}) for i in range(4)]
        wait_until_accepted(port)
        process.send_signal(signal.SIGTERM)
        for line in lines:
            status, answer = answered(line)
            assert (status, answer["position"]) == (200, 8000)
            want = one_pass(artifacts["sine"], whole)
            np.testing.assert_allclose(np.array(answer["predictions"]), want, atol=2 * TOLERANCE)
            line.close()
        assert process.wait(timeout=30) == 0
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", port), timeout=5)


def wait_until_accepted(port: int) -> None:
    """Wait for the answer of a later request on another connection: the earlier ones were read before it."""
    for _ in range(3):
        with posted(port, "probe", {"observations": [0.5]}) as line:
            assert answered(line)[0] == 200


def test_an_idle_server_stops_at_once(zoo_folder):
    with serving(zoo_folder) as (process, port):
        with posted(port, "a", {"observations": [0.5]}) as line:
            assert answered(line)[0] == 200
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        assert time.monotonic() - start < Settings().stop_seconds / 2


@pytest.mark.parametrize(
    ("variable", "other"),
    [("CARRYOVER_PORT", "CARRYOVER_GRPC_PORT"), ("CARRYOVER_GRPC_PORT", "CARRYOVER_PORT")],
)
def test_a_port_that_is_in_use_is_named_by_its_own_setting(variable, other, zoo_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {other: "0", variable: str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "-c", "from app.cli import main; main()", "serve"],
            cwd=ROOT,
            env=os.environ | {"CARRYOVER_MODELS": str(zoo_folder)} | ports,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert f"or choose another port: {variable}\n" in done.stderr
    assert f"or choose another port: {other}\n" not in done.stderr


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")
def test_the_server_speaks_tls_alone_where_it_has_a_certificate(zoo_folder, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(made, check=True, capture_output=True)
    tls = {"CARRYOVER_TLS_CERTIFICATE": str(certificate), "CARRYOVER_TLS_KEY": str(key)}
    with serving(zoo_folder, **tls) as (_, port):
        with httpx.Client(verify=ssl.create_default_context(cafile=certificate), timeout=30) as client:
            body = {"observations": [[0.1]], "at": 0}
            answer = client.post(f"https://127.0.0.1:{port}/sessions/a/observations", json=body)
            assert (answer.status_code, answer.json()["position"]) == (200, 1)
        with pytest.raises(httpx.HTTPError):  # no other client knows the certificate
            httpx.get(f"https://127.0.0.1:{port}/health/live", timeout=30)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=30)
