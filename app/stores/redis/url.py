"""The URL of a store: a single server, one that Sentinels choose, or a cluster.

redis://[user:password@]host[:port][/db]             a single server; rediss:// uses TLS
redis+sentinel://[...]host[:port],host.../service[/db]
redis+cluster://[...]host[:port],host...

Options follow a question mark: `allow_eviction=true` accepts a server that may evict sessions when its memory
is full; with rediss there are those of TLS, as redis-py names them.
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
class RedisUrl:
    """The parts of a URL. `options` go to redis-py's connections, the password among them."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    tls: bool = False
    allow_eviction: bool = False

    def __str__(self) -> str:
        """The URL without user, password and options."""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        scheme = f"redis{'s' * self.tls}{'+' * bool(self.kind)}{self.kind}"
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def parse_url(url: str) -> RedisUrl:
    """Read a URL.

    Raises
    ------
    ValueError : it does not have one of the forms above
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"the scheme {parts.scheme!r} is not one of {', '.join(SCHEMES)}")
    secure, _, kind = parts.scheme.partition("+")
    user, _, hosts = parts.netloc.rpartition("@")
    path = [unquote(part) for part in parts.path.split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise ValueError("name the Sentinels' service after the hosts: redis+sentinel://host:26379/service")
    if kind == "cluster" and path:
        raise ValueError("a cluster has no numbered databases")
    query, allow_eviction = _query(parts.query, secure == "rediss")
    options = _credentials(user) | _database(path) | query
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    addresses = tuple(_host(host, port) for host in hosts.split(","))
    if not kind and len(addresses) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    tls = secure == "rediss"
    return RedisUrl(kind, addresses, service, options, tls, allow_eviction)  # type: ignore[arg-type]


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


def _query(query: str, secure: bool) -> tuple[dict[str, Any], bool]:
    """The options of TLS, and whether a server that may evict sessions is accepted."""
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    allow_eviction = _is_true(options.pop("allow_eviction", "false"))
    unknown = [name for name in options if name not in TLS_OPTIONS or not secure]
    if unknown:
        raise ValueError(
            f"unknown option {unknown[0]}: there is allow_eviction, and with rediss {', '.join(TLS_OPTIONS)}"
        )
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = _is_true(options["ssl_check_hostname"])
    return options, allow_eviction


def _is_true(text: str) -> bool:
    return text.lower() in ("1", "true", "yes")


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, number = text, str(port)
    host = host.strip("[]")
    if not host or not number.isdecimal() or not 0 < int(number) < 65_536:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(number)
