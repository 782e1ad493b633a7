"""Addresses of brokers: `mqtts://user@host:8883/plant/+/temperature`, `redis://host/stream?db=1`."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from app.errors import ConfigError

PORTS = {"mqtt": 1883, "mqtts": 8883, "redis": 6379, "rediss": 6379}
PASSWORD = "SOURCE_PASSWORD"
FORM = "SCHEME://[USER@]HOST[:PORT]/TOPIC-OR-STREAM with one of " + ", ".join(PORTS)


@dataclass(frozen=True)
class Address:
    """Where a broker listens, and what to read there.

    path : a topic filter or a stream
    """

    scheme: str
    host: str
    port: int
    user: str | None
    path: str
    password: str | None = None
    ca_file: Path | None = None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/{self.path}"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The context for a scheme with TLS."""
        if self.scheme not in ("mqtts", "rediss"):
            return None
        return ssl.create_default_context(cafile=None if self.ca_file is None else str(self.ca_file))


def parse_address(text: str, password_file: Path | None = None, ca_file: Path | None = None) -> Address:
    """Take an address apart; the password comes from a file or the environment.

    Raises
    ------
    ConfigError : it is not an address, or it holds a password
    """
    scheme, separator, rest = text.partition("://")
    authority, slash, path = rest.partition("/")  # a topic may hold # and ?, which URLs give a meaning
    if not separator or scheme not in PORTS or not slash or not path:
        raise ConfigError(f"{text!r} is not an address of a source: {FORM}")
    try:
        parsed = urlsplit(f"//{authority}")
        host, port = parsed.hostname, parsed.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ConfigError(f"{text!r} names no host: {FORM}")
    if parsed.password is not None:
        raise ConfigError(
            f"the address holds a password, which other users of this machine can read: "
            f"use --password-file or the variable {PASSWORD}"
        )
    password = os.environ.get(PASSWORD)
    if password_file is not None:
        password = password_file.read_text(encoding="utf-8").rstrip("\r\n")
        if not password:
            raise ConfigError(f"{password_file} is empty: write the broker's password into it")
    user = None if parsed.username is None else unquote(parsed.username)
    return Address(scheme, host, port or PORTS[scheme], user, path, password, ca_file)
