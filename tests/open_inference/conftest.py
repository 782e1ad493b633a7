"""All tests of one worker that use gRPC run in one event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session", autouse=True)
async def one_event_loop(anyio_backend: object) -> AsyncIterator[None]:
    """Keep the loop open between tests.

    All loops of a process share gRPC's queue of completed operations. One that completes after its loop was
    closed, such as that of a call that was cancelled, raises "Event loop is closed" in the loop of a later
    test.
    """
    yield  # noqa: PT022  (the loop is open until this returns)
