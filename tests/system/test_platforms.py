"""What some systems and a plain installation lack is not needed to import the server or to serve."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.helpers.paths import ROOT

# As on Windows after a plain installation. asyncio and multiprocessing have chosen their parts before.
PROGRAM = """
import asyncio, signal, socket, subprocess, sys, multiprocessing.connection
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
LACKING = {"uvloop", "resource", "fcntl", "pwd", "grp", "termios", "torch", "matplotlib", "onnx",
           "onnxruntime", "redis", "grpc", "pandas"}
for name in LACKING & set(sys.modules):
    del sys.modules[name]
sys.meta_path.insert(0, Missing())
for module, names in ((signal, ("SIGHUP", "SIGXCPU")), (socket, ("SO_REUSEPORT",))):
    for name in names:
        delattr(module, name)
import carryover_server
carryover_server.activate()
from app.cli import run
sys.exit(run(sys.argv[1:]))
"""


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


@pytest.fixture
def environment() -> dict[str, str]:
    plain = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    return plain | {"PYTHONPATH": str(ROOT)}


def test_without_optional_packages_and_unix_calls_the_server_serves(environment, tmp_path):
    with subprocess.Popen(
        program("serve", "--port", "0"),
        env=environment | {"PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            address = next(line for line in server.stdout if "listens on" in line).split()[3].rstrip(".")
            answer = httpx.post(
                f"{address}/sessions/a/observations", json={"observations": [[0.0], [0.1]]}, timeout=30
            )
            assert answer.json()["position"] == 2
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_without_them_help_and_the_refusal_of_several_workers_are_printed(environment, tmp_path):
    done = subprocess.run(
        program("serve", "--workers", "2"),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "several workers need a system whose processes can share a port" in done.stderr
