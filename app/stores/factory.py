"""Opens the store that the settings name."""

from __future__ import annotations

import sys
from pathlib import Path

from app.config import Settings
from app.errors import ConfigError
from app.session.steady_clock import SteadyClock
from app.stores import Store
from app.stores.memory import MemoryStore
from app.stores.sqlite.store import SqliteStore
from models.installation import install_command


def open_store(settings: Settings, *, path: Path | None = None, accept_loss: bool = False) -> Store:
    """The store that the settings name.

    Parameters
    ----------
    path : its file, where that is not the file of the settings
    accept_loss : open a file though commits are missing from it

    Raises
    ------
    ConfigError : its file cannot be used, or is in use
    """
    tombstone_seconds = settings.tombstone_ttl_seconds or float("inf")
    if settings.store_is_shared:
        return open_shared_store(settings, tombstone_seconds)
    path = path or settings.store_path
    if path is None:
        return MemoryStore(settings.tombstones, tombstone_seconds, SteadyClock())
    # After each fsync the store's thread competes with a busy event loop for the interpreter: the default
    # interval of 5 ms would be added to every commit.
    sys.setswitchinterval(0.0005)
    return SqliteStore(
        path,
        settings.tombstones,
        tombstone_seconds,
        settings.durability,
        SteadyClock(),
        accept_loss=accept_loss,
    )


def open_shared_store(settings: Settings, tombstone_seconds: float) -> Store:
    """The store on the network that the settings name.

    Raises
    ------
    ConfigError : its URL is not valid, it cannot be reached, or its client is not installed
    """
    try:
        from app.stores.redis.scripting import WriteConcern
        from app.stores.redis.store import RedisStore
        from app.stores.redis.url import parse_url
    except ImportError as error:
        raise ConfigError(
            f"a redis:// store needs its client: {install_command('redis')} ({error})"
        ) from error
    try:
        url = parse_url(settings.store)
    except ValueError as error:
        raise ConfigError(f"store (CARRYOVER_STORE) cannot be read: {error}") from error
    sys.setswitchinterval(0.0005)  # as for a file: see `open_store`
    timeout = settings.store_timeout_seconds
    write_concern = WriteConcern(settings.store_replicas, settings.store_fsync, int(900 * timeout))
    return RedisStore(url, tombstone_seconds, write_concern, timeout, SteadyClock())
