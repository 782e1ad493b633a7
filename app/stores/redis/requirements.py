"""What a store needs of its servers, checked at start and not at the first commit."""

from __future__ import annotations

from app.errors import ConfigError
from app.stores.redis.connections import Servers
from app.stores.redis.scripting import WriteConcern
from app.stores.redis.url import RedisUrl

KEEPS_ALL = "noeviction"  # the policy of a server that refuses writes when its memory is full


def check_servers(url: RedisUrl, servers: Servers, write_concern: WriteConcern) -> None:
    """Check that each server supports the write concern and keeps every session.

    Raises
    ------
    ConfigError : it does not
    RedisError : it cannot be reached
    """
    if write_concern.on_disk:
        _check_disk(url, servers)
    if not url.allow_eviction:
        _check_eviction(url, servers)


def _check_disk(url: RedisUrl, servers: Servers) -> None:
    for link in servers.primaries():
        if link.ask("COMMAND", "INFO", "WAITAOF")[0] is None:
            raise ConfigError(f"store {url}: this server has no WAITAOF (Redis 7.2, Valkey 8)")
        setting = link.ask("CONFIG", "GET", "appendonly")
        if setting[1:] != [b"yes"]:
            raise ConfigError(f"store {url}: to wait for its disk, the server needs appendonly yes")


def _check_eviction(url: RedisUrl, servers: Servers) -> None:
    """Refuse a server that evicts keys when its memory is full: their sessions would begin anew."""
    for link in servers.primaries():
        lines = link.ask("INFO", "memory").decode().splitlines()
        policy = next((line for line in lines if line.startswith("maxmemory_policy:")), ":").split(":")[1]
        if policy and policy != KEEPS_ALL:
            raise ConfigError(
                f"store {url}: the server may evict sessions (maxmemory-policy {policy}), and they "
                f"would begin anew: set it to {KEEPS_ALL}, or add ?allow_eviction=true to the URL"
            )
