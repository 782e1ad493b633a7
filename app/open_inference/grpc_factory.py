"""Creates the gRPC server, if the settings name a port; its packages are optional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.access.callers import Authenticator
from app.codec.limits import Limits
from app.config import Settings
from app.errors import ConfigError
from app.open_inference.catalog import Catalog
from models.installation import install_command

if TYPE_CHECKING:
    from app.open_inference.grpc.server import GrpcServer


def create_grpc_server(
    settings: Settings, catalog: Catalog, authenticator: Authenticator, limits: Limits
) -> GrpcServer | None:
    """The server for the configured port, not started; None without a port.

    Raises
    ------
    ConfigError : gRPC is not installed; the certificate cannot be read
    """
    if settings.grpc_port is None:
        return None
    try:
        from app.open_inference.grpc.server import GrpcServer
        from app.open_inference.grpc.service import InferenceService
    except ImportError as error:
        raise ConfigError(
            f"grpc_port (CARRYOVER_GRPC_PORT) needs gRPC: {install_command('grpc')} ({error})"
        ) from error
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    service = InferenceService(catalog, authenticator, limits)
    return GrpcServer(service, f"{host}:{settings.grpc_port}", settings, _certificate(settings))


def _certificate(settings: Settings) -> tuple[bytes, bytes] | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    try:
        return settings.tls_certificate.read_bytes(), settings.tls_key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
