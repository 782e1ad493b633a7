"""`inference.GRPCInferenceService`: one function for each call. HTTP answers the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import ParseDict

from app.access.callers import CLIENT, Authenticator, Caller
from app.codec.limits import Limits
from app.errors import (
    CarryoverError,
    Forbidden,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unsupported,
)
from app.jobs.jobs import Client
from app.open_inference.catalog import Catalog
from app.open_inference.grpc import conversion
from app.open_inference.grpc.decoding import decode_message
from app.open_inference.grpc.infer_stream import InferStream
from app.open_inference.grpc.messages import message
from app.open_inference.run_inference import run_inference
from app.open_inference.statistics import RequestTimer

NAME = "inference.GRPCInferenceService"
TENANT = "carryover-tenant"
LATE = "the message of the call did not come in time: see CARRYOVER_REQUEST_SECONDS"

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


class InferenceService:
    """The calls of the protocol.

    Parameters
    ----------
    authenticator : finds the caller by the metadata `authorization`
    """

    def __init__(self, catalog: Catalog, authenticator: Authenticator, limits: Limits) -> None:
        self.catalog = catalog
        self.authenticator = authenticator
        self.limits = limits
        self._streams: set[InferStream] = set()

    def stop_streams(self) -> None:
        """Close every open stream after the answers to the requests that were read."""
        for stream in self._streams:
            stream.stop()

    def handler(self) -> grpc.GenericRpcHandler:
        """The handlers of all calls."""
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
        methods = {name: self._unary(name, self._from_dict(name, call)) for name, call in unary.items()}
        methods["ServerLive"] = self._unary("ServerLive", self._live)
        methods["ServerReady"] = self._unary("ServerReady", self._ready)
        methods["ModelInfer"] = self._unary("ModelInfer", self._infer)
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            None,
            message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(NAME, methods)

    def _unary(self, name: str, call: Call) -> grpc.RpcMethodHandler:
        """The handler of a call with one message.

        For gRPC it is a stream: the library would wait for the message of a unary call without end, before
        it calls the handler.
        """
        seconds = self.authenticator.settings.request_seconds

        async def decoded(messages: AsyncIterator[bytes], context: Context) -> Any:
            try:
                async with asyncio.timeout(seconds):
                    data = await anext(messages, b"")
                request = decode_message(f"{name}Request", data)
            except TimeoutError:
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, LATE)
            except CarryoverError as error:
                await self._abort(context, error)
            return await call(request, context)

        return grpc.stream_unary_rpc_method_handler(
            decoded, None, message(f"{name}Response").SerializeToString
        )

    def _from_dict(self, name: str, call: Callable[[Any, Caller], Awaitable[dict[str, Any]]]) -> Call:
        """A handler that converts the dictionary of `call`, as HTTP answers it, to the response message."""
        response = message(f"{name}Response")

        async def answer(request: Any, context: Context) -> Any:
            try:
                return ParseDict(await call(request, self._caller(context)), response())
            except CarryoverError as error:
                await self._abort(context, error)

        return answer

    def _caller(self, context: Context) -> Caller:
        metadata = context.invocation_metadata() or ()
        texts = {name: value for name, value in metadata if isinstance(value, str)}
        authorization = texts.get("authorization")
        caller = self.authenticator.authenticate(
            None if authorization is None else authorization.encode(), texts.get(TENANT)
        )
        caller.require_role("read")
        return caller

    async def _live(self, _: Any, __: Context) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, _: Any, __: Context) -> Any:
        return message("ServerReadyResponse")(ready=not self.catalog.engine.readiness_problems())

    async def _server_metadata(self, _: Any, __: Caller) -> dict[str, Any]:
        return self.catalog.server_metadata()

    async def _model_ready(self, request: Any, _: Caller) -> dict[str, Any]:
        try:
            self.catalog.current_forecaster(request.name, request.version)
        except UnknownModel:
            return {"ready": False}
        return {"ready": True}

    async def _model_metadata(self, request: Any, _: Caller) -> dict[str, Any]:
        return self.catalog.metadata(request.name, request.version)

    async def _model_config(self, request: Any, _: Caller) -> dict[str, Any]:
        return {"config": self.catalog.config(request.name, request.version)}

    async def _model_statistics(self, request: Any, caller: Caller) -> dict[str, Any]:
        caller.require_role("admin")
        return await self.catalog.model_statistics(request.name, request.version)

    async def _repository_index(self, request: Any, _: Caller) -> dict[str, Any]:
        return {"models": self.catalog.index(request.ready)}

    async def _load(self, request: Any, caller: Caller) -> dict[str, Any]:
        await self.catalog.load(caller, request.model_name, bool(request.parameters))
        return {}

    async def _unload(self, request: Any, caller: Caller) -> dict[str, Any]:
        await self.catalog.unload(caller, request.model_name)
        return {}

    async def _infer(self, request: Any, context: Context) -> Any:
        client = Client()
        CLIENT.set(client)
        try:
            return await self._answer(request, self._caller(context))
        except asyncio.CancelledError:
            client.left = True  # the engine may drop the job, if it has not begun it
            raise
        except CarryoverError as error:
            await self._abort(context, error)

    async def _answer(self, request: Any, caller: Caller) -> Any:
        timer, model = RequestTimer(), request.model_name
        try:
            forecaster = self.catalog.running_forecaster(model, request.model_version)
            inference = conversion.decode_request(request, forecaster, self.limits)
            answer = await run_inference(inference, caller, self.limits, timer)
        except CarryoverError:
            self.catalog.count(model, timer, failed=True)
            raise
        response = conversion.encode_response(inference, answer)
        self.catalog.count(model, timer)
        return response

    async def _stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
        try:
            caller = self._caller(context)
            caller.usage.check_socket()
        except CarryoverError as error:
            await self._abort(context, error)
        client = Client()
        CLIENT.set(client)  # for the tasks that the stream creates
        stream = InferStream(requests, partial(self._stream_response, caller))
        self._streams.add(stream)
        caller.usage.add_socket(stream)
        try:
            async for response in stream.responses():
                yield response
        except CarryoverError as error:
            await self._abort(context, error)
        finally:
            client.left = True
            caller.usage.remove_socket(stream)
            self._streams.discard(stream)

    async def _stream_response(self, caller: Caller, data: bytes) -> Any:
        response, request = message("ModelStreamInferResponse"), None
        try:
            request = decode_message("ModelInferRequest", data)
            return response(infer_response=await self._answer(request, caller))
        except CarryoverError as error:
            request_id = request.id if request is not None else ""  # tells the client which request failed
            failed = message("ModelInferResponse")(id=request_id)
            return response(error_message=error.detail, infer_response=failed)

    async def _abort(self, context: Context, error: CarryoverError) -> None:
        """End a call with an error; raises (grpc)."""
        self.catalog.engine.metrics.record_refusal(error)
        await context.abort(status_code(error), error.detail)


def status_code(error: CarryoverError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    codes = (code for kind, code in CODES if isinstance(error, kind))
    return next(codes, grpc.StatusCode.INVALID_ARGUMENT)
