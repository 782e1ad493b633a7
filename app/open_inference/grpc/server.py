"""The port: begun and ended with the service."""

from __future__ import annotations

import grpc

from app.errors import ConfigError
from app.open_inference.grpc.service import Service

GRACE_SECONDS = 5.0  # for calls that were accepted, once the service stops


class Port:
    """Where gRPC is listened for.

    Parameters
    ----------
    address : host and port; port 0 takes a free one
    most_bytes : of one message
    certificate : chain and key as PEM, to serve TLS with
    """

    def __init__(
        self, service: Service, address: str, most_bytes: int, certificate: tuple[bytes, bytes] | None = None
    ) -> None:
        self.service = service
        self.address = address
        self.most_bytes = most_bytes
        self.certificate = certificate
        self.number = 0
        self._server: grpc.aio.Server | None = None

    async def open(self) -> None:
        """Listen.

        Raises
        ------
        ConfigError : the address is in use, or none
        """
        # Another process on the same port would get half of a sequence's requests.
        options = [("grpc.max_receive_message_length", self.most_bytes), ("grpc.so_reuseport", 0)]
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((self.service.handler(),))
        try:
            if self.certificate is None:
                self.number = server.add_insecure_port(self.address)
            else:
                chain, key = self.certificate
                credentials = grpc.ssl_server_credentials([(key, chain)])
                self.number = server.add_secure_port(self.address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"gRPC cannot listen on {self.address}: {error}") from None
        await server.start()
        self._server = server

    async def close(self) -> None:
        """Answer what was accepted, and listen no more."""
        if self._server is not None:
            await self._server.stop(GRACE_SECONDS)
