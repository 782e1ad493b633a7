"""How the tests are spread over processes, a file at a time (`make test`).

A process more than there are cores: a third of the time a test waits for a server, a browser or a disk.
The files that take longest come first, so that none of them is still running when the others are done.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.helpers.paths import ROOT

# The rest take less than ten seconds each.
LONGEST = ("docs/test_docs.py",)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    cores = yield
    return cores + 1


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / file: rank for rank, file in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))
