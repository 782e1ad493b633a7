"""A service for commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest


@pytest.fixture
def started(start_hot, capsys) -> Callable[[], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def start() -> AsyncIterator[Any]:
        async with start_hot() as service:
            capsys.readouterr()  # where it listens
            yield service

    return start
