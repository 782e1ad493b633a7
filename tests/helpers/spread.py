"""How the tests are spread over processes, a file at a time (`make test`).

A process more than there are cores: a third of the time a test waits for a server, a browser or a disk.
The files that take longest come first, so that none of them is still running when the others are done.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.helpers.paths import ROOT

LONGEST = (
    "docs/test_docs.py",
    "dashboard/test_dashboard.py",
    "dashboard/test_views.py",
    "system/test_attack_openapi.py",
    "system/test_stop.py",
    "promises/test_promises.py",
    "system/test_workers.py",
    "system/test_examples.py",
    "benchmarks/test_attack.py",
    "promises/test_model_based.py",
    "cli/test_cli.py",
    "models/training/test_training.py",
    "system/test_silero.py",
    "promises/test_nets.py",
    "system/test_attack_connections.py",
    "connectors/test_restarts.py",
    "promises/test_state_files.py",
    "system/test_crash.py",
    "system/test_text_crash.py",
    "system/test_failover.py",
    "system/test_attack_bodies.py",
    "cli/test_cli_service.py",
    "promises/test_swarm.py",
    "client/test_restart.py",
    "system/test_attack_proxies.py",
    "system/test_packaging.py",
    "system/test_deploy.py",
    "system/test_drain.py",
    "system/test_samples_crash.py",
    "stores/test_sqlite.py",
    "stores/test_redis_cluster.py",
    "protocols/test_inbox.py",
    "protocols/test_closing.py",
)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    cores = yield
    return cores + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / file: rank for rank, file in enumerate(LONGEST)}
    if gone := [path for path in ranks if not path.exists()]:
        raise pytest.UsageError(f"{__file__} names files that do not exist: {', '.join(map(str, gone))}")
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))
