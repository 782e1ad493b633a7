"""One server for all bridges, with its sessions on disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from carryover import Carryover

from benchmarks.failover.processes import Replica


@pytest.fixture(scope="session")
def replica(zoo_folder, tmp_path_factory) -> Iterator[Replica]:
    folder = tmp_path_factory.mktemp("replica")
    environment = {
        "CARRYOVER_MODELS": str(zoo_folder),
        "CARRYOVER_DEFAULT_MODEL": "sine",
        "CARRYOVER_STORE": f"sqlite:{folder}/sessions.db",
        "CARRYOVER_RESIDENT_SESSIONS": "2048",
    }
    server = Replica(folder, environment).start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


@pytest.fixture
def service(replica) -> Iterator[Carryover]:
    with Carryover(f"http://127.0.0.1:{replica.port}", retry=0) as client:
        yield client
