"""A network that can be cut: bytes are held back as if every packet were dropped, and come when it heals.

What was sent into a cut is delivered late, as retransmission does it: the writes of a replica that was cut
off reach the store after others have taken its sessions over.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any


class Network:
    """An event loop of its own thread, for every proxy of a deployment."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="network", daemon=True)
        self._thread.start()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(30)

    def proxy(self, to: int) -> Proxy:
        """A proxy to a port, listening on `port`."""
        made: Proxy = self.run(Proxy.listening(to))
        return made

    def close(self) -> None:
        """Stop all of it."""
        self.run(_end_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Proxy:
    """From a port of its own to another one."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.port = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def listening(cls, to: int) -> Proxy:
        """A proxy that takes connections."""
        proxy = cls(to)
        listening = asyncio.Event()
        proxy._task = asyncio.create_task(proxy._listen(listening))
        await listening.wait()
        return proxy

    def cut(self) -> None:
        """From here on nothing passes."""
        self._loop.call_soon_threadsafe(self._whole.clear)

    def heal(self) -> None:
        """Everything passes, what was held back first."""
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _listen(self, listening: asyncio.Event) -> None:
        served: set[asyncio.Task[None]] = set()

        def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(reader, writer))
            served.add(task)
            task.add_done_callback(served.discard)

        server = await asyncio.start_server(begin, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        with contextlib.suppress(OSError):
            try:
                await self._whole.wait()
                there, back = await asyncio.open_connection("127.0.0.1", self.to)
                writers.append(back)
                pumps = [asyncio.create_task(self._pump(reader, back))]
                pumps.append(asyncio.create_task(self._pump(there, writer)))
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                for open_writer in writers:
                    open_writer.close()
                await asyncio.gather(
                    *(open_writer.wait_closed() for open_writer in writers), return_exceptions=True
                )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._whole.wait()
            writer.write(data)
            await writer.drain()
        await self._whole.wait()


async def _end_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
