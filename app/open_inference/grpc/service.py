"""`inference.GRPCInferenceService`: one function a call. What they tell, HTTP tells, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict

from app.access.callers import Caller, Door
from app.codec import chunks
from app.errors import (
    CarryoverError,
    Forbidden,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from app.open_inference.catalog import Catalog
from app.open_inference.grpc import tensors
from app.open_inference.grpc.messages import message
from app.open_inference.run import run
from app.open_inference.statistics import Watch

NAME = "inference.GRPCInferenceService"
TENANT = "carryover-tenant"
IN_FLIGHT = 256
"""Requests of one stream that may wait for an answer before it is read no further."""

CODES: tuple[tuple[type[CarryoverError], grpc.StatusCode], ...] = (
    (UnknownModel, grpc.StatusCode.NOT_FOUND),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (Unsupported, grpc.StatusCode.UNIMPLEMENTED),
    (Unauthorized, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (TooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
)

Context: TypeAlias = grpc.aio.ServicerContext
Call = Callable[[Any, Context], Awaitable[Any]]


class Service:
    """The calls.

    Parameters
    ----------
    door : tells who is calling, by the metadata `authorization`
    """

    def __init__(self, catalog: Catalog, door: Door, limits: chunks.Limits) -> None:
        self.catalog = catalog
        self.door = door
        self.limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """What the server is told to serve."""
        unary: dict[str, Callable[[Any, Caller], Awaitable[dict[str, Any]]]] = {
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods = {name: _unary(name, self._told(name, call)) for name, call in unary.items()}
        methods["ServerLive"] = _unary("ServerLive", self._live)
        methods["ServerReady"] = _unary("ServerReady", self._ready)
        methods["ModelInfer"] = _unary("ModelInfer", self._infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            message("ModelInferRequest").FromString,
            message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _told(self, name: str, call: Callable[[Any, Caller], Awaitable[dict[str, Any]]]) -> Call:
        """A call that answers as HTTP does, as a call that answers with its message."""
        response = message(f"{name}Response")

        async def answer(request: Any, context: Context) -> Any:
            try:
                return ParseDict(await call(request, self._caller(context)), response())
            except CarryoverError as error:
                await context.abort(code_of(error), error.detail)

        return answer

    def _caller(self, context: Context) -> Caller:
        told = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
        authorization = told.get("authorization")
        found = self.door.caller(None if authorization is None else authorization.encode(), told.get(TENANT))
        found.may("read")
        return found

    async def _live(self, _: Any, __: Context) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, _: Any, __: Context) -> Any:
        return message("ServerReadyResponse")(ready=not self.catalog.engine.unready())

    async def _server_metadata(self, _: Any, __: Caller) -> dict[str, Any]:
        return self.catalog.server()

    async def _model_ready(self, request: Any, _: Caller) -> dict[str, Any]:
        try:
            self.catalog.served(request.name, request.version)
        except UnknownModel:
            return {"ready": False}
        return {"ready": True}

    async def _model_metadata(self, request: Any, _: Caller) -> dict[str, Any]:
        return self.catalog.metadata(request.name, request.version)

    async def _model_config(self, request: Any, _: Caller) -> dict[str, Any]:
        return {"config": self.catalog.config(request.name, request.version)}

    async def _model_statistics(self, request: Any, caller: Caller) -> dict[str, Any]:
        caller.may("admin")
        return self.catalog.told_statistics(request.name, request.version)

    async def _repository_index(self, request: Any, _: Caller) -> dict[str, Any]:
        return {"models": self.catalog.index(request.ready)}

    async def _load(self, request: Any, caller: Caller) -> dict[str, Any]:
        await self.catalog.load(caller, request.model_name, tensors.plain(request.parameters))
        return {}

    async def _unload(self, request: Any, caller: Caller) -> dict[str, Any]:
        await self.catalog.unload(caller, request.model_name)
        return {}

    async def _infer(self, request: Any, context: Context) -> Any:
        try:
            return await self._inferred(request, self._caller(context))
        except CarryoverError as error:
            await context.abort(code_of(error), error.detail)

    async def _inferred(self, request: Any, caller: Caller) -> Any:
        watch, model = Watch(), request.model_name
        try:
            forecaster = self.catalog.spoken(model, request.model_version)
            asked = tensors.read(request, forecaster, self.limits)
            answer = await run(asked, caller, self.limits, watch)
        except CarryoverError:
            self.catalog.count(model, watch, failed=True)
            raise
        response = tensors.response(asked, answer)
        self.catalog.count(model, watch)
        return response

    async def _stream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Answers in the order of the requests, which are in the engine's queue as soon as they are read."""
        try:
            caller = self._caller(context)
        except CarryoverError as error:
            await context.abort(code_of(error), error.detail)
        waiting: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(IN_FLIGHT)
        reading = asyncio.create_task(self._read(requests, caller, waiting))
        try:
            while (answering := await waiting.get()) is not None:
                yield await answering
            await reading
        finally:
            reading.cancel()

    async def _read(
        self, requests: AsyncIterator[Any], caller: Caller, waiting: asyncio.Queue[asyncio.Task[Any] | None]
    ) -> None:
        try:
            async for request in requests:
                # A task begins in the order in which it was made, and asks the engine before it first waits.
                await waiting.put(asyncio.create_task(self._streamed(request, caller)))
        except grpc.RpcError:
            pass  # the client has gone; what it asked for is done all the same
        await waiting.put(None)

    async def _streamed(self, request: Any, caller: Caller) -> Any:
        response = message("ModelStreamInferResponse")
        try:
            return response(infer_response=await self._inferred(request, caller))
        except CarryoverError as error:
            failed = message("ModelInferResponse")(id=request.id)  # a client knows its request by the id
            return response(error_message=error.detail, infer_response=failed)


def code_of(error: CarryoverError) -> grpc.StatusCode:
    """The status of an error."""
    found = (code for kind, code in CODES if isinstance(error, kind))
    return next(found, grpc.StatusCode.INVALID_ARGUMENT)


def _unary(name: str, call: Call) -> grpc.RpcMethodHandler:
    request, response = message(f"{name}Request"), message(f"{name}Response")
    return grpc.unary_unary_rpc_method_handler(call, request.FromString, response.SerializeToString)
