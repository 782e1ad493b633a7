"""One call of ModelStreamInfer: many requests, answered in their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from app.errors import CarryoverError, Stopping, Unauthorized

MAX_IN_FLIGHT = 256  # requests that may wait for an answer; then reading pauses


class InferStream:
    """A stream, counted among the sockets of its key.

    Parameters
    ----------
    requests : encoded requests of the client
    answer : answers a request; is called in the order of the requests and submits before its first await
    """

    def __init__(self, requests: AsyncIterator[bytes], answer: Callable[[bytes], Awaitable[Any]]) -> None:
        self._requests = requests
        self._answer = answer
        self._answers: asyncio.Queue[asyncio.Future[Any] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._reading = asyncio.create_task(self._read())
        # Not in the task itself: one that is cancelled before its first step runs none of its lines.
        self._reading.add_done_callback(lambda _: self._answers.put_nowait(None))
        self._error: CarryoverError | None = None

    async def responses(self) -> AsyncIterator[Any]:
        """The answers, in the order of the requests.

        Raises
        ------
        Unauthorized : the key was removed
        Stopping : the server stops; every request that was read has been answered
        """
        try:
            while (answer := await self._answers.get()) is not None:
                yield await answer
                self._room.release()
        finally:
            self._reading.cancel()
        if self._error is not None:
            raise self._error

    def revoke(self) -> None:
        """Close the stream: its key was removed."""
        self._close(Unauthorized("the API key was revoked"))

    def stop(self) -> None:
        """Close the stream after the answers to the requests that were read: the server stops."""
        self._close(Stopping("the server is stopping"))

    def _close(self, error: CarryoverError) -> None:
        self._error = self._error or error
        self._reading.cancel()

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                # Tasks start in the order of their creation, so requests are submitted in their order.
                self._answers.put_nowait(asyncio.ensure_future(self._answer(request)))
                await self._room.acquire()
        except grpc.RpcError:
            pass  # the client left; the engine may drop the requests that it has not begun
