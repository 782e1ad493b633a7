"""Triton's own clients from PyPI behind a common interface, to test `/v2` with.

The plain ones block, and so run on a thread of their own; they are called from one thread only, as gevent
wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import tritonclient.grpc as rpc
import tritonclient.grpc.aio as rpc_aio
import tritonclient.http as web
import tritonclient.http.aio as web_aio

from models.arrays import Floats
from tests.helpers.ways import Way


class Client:
    """One of the clients, on a service that runs."""

    name: ClassVar[str]
    tensors: ClassVar[Any] = web  # the module of its InferInput
    make: ClassVar[Callable[[str], Any]]
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, service: Way) -> None:
        self.port = service.port
        if self.tensors is rpc:
            self.port = service.server.config.app.state.grpc.port
        self.client: Any = None

    async def open(self) -> None:
        self.client = type(self).make(f"127.0.0.1:{self.port}")

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """What a method of the client answers."""
        return await getattr(self.client, method)(*arguments, **named)

    async def infer(
        self,
        model: str,
        rows: Any,
        sequence: int | str = 0,
        start: bool = False,
        end: bool = False,
        outputs: Sequence[str] | None = None,
        **named: Any,
    ) -> Any:
        """The client's own result of sending `rows`, [steps, inputs]."""
        wanted = None if outputs is None else [self.tensors.InferRequestedOutput(name) for name in outputs]
        return await self.call(
            "infer",
            model,
            [self.tensor(rows)],
            outputs=wanted,
            sequence_id=sequence,
            sequence_start=start,
            sequence_end=end,
            **named,
        )

    async def stream(self, model: str, whole: Floats, sequence: int | str, cuts: Sequence[int]) -> Floats:
        """Send a series cut into chunks of these sizes as one sequence; the predictions put together."""
        got, at = [], 0
        for size in cuts:
            chunk, at = whole[at : at + size], at + size
            result = await self.infer(model, chunk, sequence, at == size, at == len(whole))
            got.append(result.as_numpy("predictions")[0])
        return np.concatenate(got)

    def tensor(self, rows: Any, **named: Any) -> Any:
        """The one input of a request."""
        array = np.asarray(rows, np.float32)[None]
        made = self.tensors.InferInput("observations", array.shape, "FP32")
        made.set_data_from_numpy(array, **named)
        return made

    async def close(self) -> None:
        await self.client.close()


class Blocking(Client):
    """One that blocks."""

    def __init__(self, service: Way) -> None:
        super().__init__(service)
        self.thread = ThreadPoolExecutor(1)

    async def open(self) -> None:
        await self._run(super().open)

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return await self._run(lambda: getattr(self.client, method)(*arguments, **named))

    async def close(self) -> None:
        await self.call("close")
        self.thread.shutdown()

    async def _run(self, function: Callable[[], Any]) -> Any:
        def run() -> Any:
            result = function()
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        return await asyncio.get_running_loop().run_in_executor(self.thread, run)


class Http(Blocking):
    name = "http"
    make = staticmethod(web.InferenceServerClient)


class PlainHttp(Http):
    """The same, with the hot route off."""

    name = "http-plain"
    settings: ClassVar[dict[str, Any]] = {"hot_route": False}


class AioHttp(Client):
    name = "http-aio"
    make = staticmethod(web_aio.InferenceServerClient)


class Grpc(Blocking):
    name = "grpc"
    tensors = rpc
    make = staticmethod(rpc.InferenceServerClient)


class AioGrpc(Client):
    name = "grpc-aio"
    tensors = rpc
    make = staticmethod(rpc_aio.InferenceServerClient)


CLIENTS: tuple[type[Client], ...] = (Http, PlainHttp, AioHttp, Grpc, AioGrpc)
