"""Where the store is, as a URL: one server, Sentinels that know which one, or a cluster.

redis://[user:password@]host[:port][/db]             one server; rediss:// speaks TLS
redis+sentinel://[...]host[:port],host.../service[/db]
redis+cluster://[...]host[:port],host...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMES = tuple(f"redis{s}{kind}" for s in ("", "s") for kind in ("", "+sentinel", "+cluster"))
PORT, SENTINEL_PORT = 6379, 26379

Kind = Literal["", "sentinel", "cluster"]
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


@dataclass(frozen=True)
class Place:
    """A URL taken to parts. `options` are what redis-py's connections take, the password among them."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False

    def __str__(self) -> str:
        """The place as people may see it: without a password."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        scheme = f"redis{'s' * self.tls}{'+' * bool(self.kind)}{self.kind}"
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def place(url: str) -> Place:
    """Read a URL.

    Raises
    ------
    ValueError : it is none of the forms above
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"{parts.scheme!r} is none of {', '.join(SCHEMES)}")
    secure, _, kind = parts.scheme.partition("+")
    user, _, hosts = parts.netloc.rpartition("@")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise ValueError("name the Sentinels' service behind the hosts: redis+sentinel://host:26379/service")
    if kind == "cluster" and path:
        raise ValueError("a cluster has no numbered databases")
    options = _credentials(user) | _database(path) | _tls(parts.query, secure == "rediss")
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    found = tuple(_host(one, port) for one in hosts.split(","))
    if not kind and len(found) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return Place(kind, found, service, options, secure == "rediss")  # type: ignore[arg-type]


def _credentials(user: str) -> dict[str, Any]:
    if not user:
        return {}
    name, _, password = user.partition(":")
    return {"username": unquote(name) or None, "password": unquote(password) or None}


def _database(path: list[str]) -> dict[str, Any]:
    if not path:
        return {}
    if len(path) > 1 or not path[0].isdecimal():
        raise ValueError(f"{'/'.join(path)!r} is not the number of a database")
    return {"db": int(path[0])}


def _tls(query: str, secure: bool) -> dict[str, Any]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [name for name in options if name not in TLS_OPTIONS or not secure]
    if unknown:
        raise ValueError(f"unknown option {unknown[0]}; with rediss there are {', '.join(TLS_OPTIONS)}")
    told: dict[str, Any] = dict(options)
    if "ssl_check_hostname" in told:
        told["ssl_check_hostname"] = told["ssl_check_hostname"].lower() in ("1", "true", "yes")
    return told


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, number = text, str(port)
    host = host.strip("[]")
    if not host or not number.isdecimal() or not 0 < int(number) < 65_536:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(number)
