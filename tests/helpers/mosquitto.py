"""A Mosquitto broker for tests, on a free port, that keeps its sessions on disk."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from benchmarks.failover.processes import wait_until
from benchmarks.ports import free_port

BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
needs_mosquitto = pytest.mark.skipif(BROKER is None, reason="no mosquitto here: apt-get install mosquitto")

CONFIG = """
listener {port} 127.0.0.1
allow_anonymous {anonymous}
user root
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 0
"""


class Mosquitto:
    """One broker; a SIGTERM lets it save its sessions, with which it may be started again."""

    def __init__(self, folder: Path, anonymous: bool = True) -> None:
        self.folder = folder
        self.port = free_port()
        self.anonymous = anonymous
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        anonymous = str(self.anonymous).lower()
        config.write_text(CONFIG.format(port=self.port, folder=self.folder, anonymous=anonymous))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([str(BROKER), "-c", str(config)], stdout=log, stderr=log)
        wait_until(self._answers, f"mosquitto on port {self.port} answers")
        return self

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(10)
            self.process = None

    def __enter__(self) -> Mosquitto:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
