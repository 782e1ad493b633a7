"""The gRPC port; it opens and closes with the service."""

from __future__ import annotations

import asyncio

import grpc

from app.config import Settings
from app.errors import ConfigError
from app.open_inference.grpc.service import InferenceService

PING_MS = 20_000  # between two keepalive pings of the server, and how long it waits for the answer
MIN_CLIENT_PING_MS = 1000  # between two keepalive pings of a client; more frequent ones close its connection
MAX_CALLS_PER_CONNECTION = 256


class GrpcServer:
    """A server of `InferenceService`.

    Parameters
    ----------
    address : host and port; port 0 takes a free one
    certificate : chain and key in PEM, to serve TLS
    """

    def __init__(
        self,
        service: InferenceService,
        address: str,
        settings: Settings,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.service = service
        self.address = address
        self.settings = settings
        self.certificate = certificate
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def listens_on(self) -> str:
        """The host, and the port that was taken."""
        return f"{self.address.rpartition(':')[0]}:{self.port}"

    async def open(self) -> None:
        """Listen.

        Raises
        ------
        ConfigError : the address is in use or not valid
        """
        server = grpc.aio.server(
            options=_options(self.settings), maximum_concurrent_rpcs=self.settings.connections
        )
        server.add_generic_rpc_handlers((self.service.handler(),))
        try:
            if self.certificate is None:
                self.port = server.add_insecure_port(self.address)
            else:
                chain, key = self.certificate
                credentials = grpc.ssl_server_credentials([(key, chain)])
                self.port = server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"gRPC cannot listen on {self.address}: {error} "
                "Stop the server that uses the address, or choose another port: CARRYOVER_GRPC_PORT"
            ) from None
        await server.start()
        self._server = server

    def start_closing(self, grace_seconds: float) -> None:
        """Stop listening, and answer accepted calls; those that are not answered in time are cancelled."""
        if self._server is not None and self._closing is None:
            self._closing = asyncio.create_task(self._server.stop(grace_seconds))
            self.service.stop_streams()  # otherwise an idle stream would last for the whole time

    async def close(self, grace_seconds: float) -> None:
        """Start to close, if that has not happened, and wait until it is done."""
        self.start_closing(grace_seconds)
        if self._closing is not None:
            await self._closing


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Options of gRPC's core: the limits that the settings set, and keepalive."""
    return [
        ("grpc.max_receive_message_length", settings.body_bytes),
        # Without workers, another process that listened there would take a part of a sequence's requests.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_allowed_incoming_connections", settings.grpc_connections),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.server_handshake_timeout_ms", 1000 * settings.request_seconds),
        ("grpc.max_connection_idle_ms", 1000 * settings.keep_alive_seconds),
        ("grpc.keepalive_time_ms", PING_MS),
        ("grpc.keepalive_timeout_ms", PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_CLIENT_PING_MS),
    ]
