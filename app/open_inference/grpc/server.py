"""The gRPC port; it opens and closes with the service."""

from __future__ import annotations

import grpc

from app.errors import ConfigError
from app.open_inference.grpc.service import InferenceService

GRACE_SECONDS = 5.0  # for accepted calls, when the service stops


class GrpcServer:
    """A server of `InferenceService`.

    Parameters
    ----------
    address : host and port; port 0 takes a free one
    max_bytes : of one message
    certificate : chain and key in PEM, to serve TLS
    """

    def __init__(
        self,
        service: InferenceService,
        address: str,
        max_bytes: int,
        certificate: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.service = service
        self.address = address
        self.max_bytes = max_bytes
        self.certificate = certificate
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def open(self) -> None:
        """Listen.

        Raises
        ------
        ConfigError : the address is in use or not valid
        """
        # With reuse, another process on the port would get part of a sequence's requests.
        options = [("grpc.max_receive_message_length", self.max_bytes), ("grpc.so_reuseport", 0)]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self.service.handler(),))
        try:
            if self.certificate is None:
                self.port = server.add_insecure_port(self.address)
            else:
                chain, key = self.certificate
                credentials = grpc.ssl_server_credentials([(key, chain)])
                self.port = server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"gRPC cannot listen on {self.address}: {error}") from None
        await server.start()
        self._server = server

    async def close(self) -> None:
        """Stop listening, and answer accepted calls."""
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)
