"""Connections: one to each server that has sessions, and which server has which session.

redis-py opens the connections (TLS, passwords, Sentinels, the map of a cluster). Commands are packed by
hiredis and sent together, because redis-py's own pipelines take several times as long as the server. A server
that did not answer in time gets no command for the same time again, so that it delays its own sessions once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import Connection, ConnectionPool, SSLConnection
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import TimeoutError as TooSlow
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.stores.redis.url import RedisUrl

Command = Sequence[bytes | str | int]

KEYS_PER_CALL = 256  # the most keys of one script call: other clients get their turn between two calls
REFRESH_SECONDS = 0.5  # between two look-ups of a cluster's map, at least


class Link:
    """A connection to one server: commands are sent together, and their replies come in order."""

    def __init__(self, pool: ConnectionPool, patience: float) -> None:
        self._connection: Any = pool.make_connection()
        self._patience = patience
        self._shunned_until = 0.0

    def send(self, commands: Sequence[Command]) -> None:
        """Send these commands.

        Raises
        ------
        RedisError : the server cannot be reached, or did not answer a moment ago
        """
        if time.monotonic() < self._shunned_until:
            raise TooSlow("it did not answer a moment ago")
        try:
            self._connection.connect()
            packed = b"".join([hiredis.pack_command(tuple(command)) for command in commands])  # type: ignore[arg-type]
            self._connection.send_packed_command([packed], check_health=False)
        except TooSlow:
            self._shun()
            raise

    def receive(self, count: int) -> list[Any]:
        """The replies to this number of commands; an error reply is a `ResponseError` in the list.

        Raises
        ------
        RedisError : the connection is lost; the commands may or may not have been executed
        """
        replies: list[Any] = []
        try:
            for _ in range(count):
                try:
                    replies.append(self._connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
        except RedisError as error:
            self.disconnect()
            if isinstance(error, TooSlow):
                self._shun()
            raise
        return replies

    def ask(self, *command: bytes | str | int) -> Any:
        """Send a command and return its reply.

        Raises
        ------
        RedisError
        """
        self.send([command])
        reply = self.receive(1)[0]
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def disconnect(self) -> None:
        """Close the connection; the next command opens another."""
        self._connection.disconnect()

    def _shun(self) -> None:
        self._shunned_until = time.monotonic() + self._patience


@dataclass(slots=True)
class KeyGroup:
    """The keys of one script call, by index."""

    link: Link
    indexes: Sequence[int]
    asking: bool = False  # while a slot moves between two servers of a cluster


class Servers(Protocol):
    """Which server has which keys."""

    def groups(self, keys: Sequence[str], indexes: Iterable[int]) -> list[KeyGroup]:
        """Group these keys by the server that has them."""

    def primaries(self) -> list[Link]:
        """Every server that has sessions."""

    def link_to(self, host: str, port: int) -> Link:
        """The server that another server has redirected us to."""

    def refresh(self) -> None:
        """Look up anew which server has which keys, unless that was done a moment ago."""

    def close(self) -> None: ...


class SingleServer:
    """A single server: the one in the URL, or the one that the Sentinels name."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def groups(self, keys: Sequence[str], indexes: Iterable[int]) -> list[KeyGroup]:  # noqa: ARG002
        every = list(indexes)
        return [
            KeyGroup(self._link, every[i : i + KEYS_PER_CALL]) for i in range(0, len(every), KEYS_PER_CALL)
        ]

    def primaries(self) -> list[Link]:
        return [self._link]

    def link_to(self, host: str, port: int) -> Link:  # noqa: ARG002  (only a cluster redirects)
        return self._link

    def refresh(self) -> None:
        """The next connection asks the Sentinels."""

    def close(self) -> None:
        self._link.disconnect()


class Cluster:
    """Many servers, each with a share of the 16,384 slots."""

    def __init__(self, cluster: RedisCluster, patience: float) -> None:
        self._nodes = cluster.nodes_manager
        self._patience = patience
        self._links: dict[str, Link] = {}  # by name of the node
        self._refreshed = time.monotonic()

    def groups(self, keys: Sequence[str], indexes: Iterable[int]) -> list[KeyGroup]:
        by_slot: dict[int, list[int]] = {}
        for i in indexes:
            by_slot.setdefault(key_slot(keys[i].encode()), []).append(i)
        return [KeyGroup(self._link(self._owner(slot)), group) for slot, group in by_slot.items()]

    def primaries(self) -> list[Link]:
        return [self._link(node) for node in self._nodes.get_nodes_by_server_type("primary")]

    def link_to(self, host: str, port: int) -> Link:
        node = self._nodes.get_node(host, port)
        if node is None:
            self.refresh()
            node = self._nodes.get_node(host, port)
        if node is None:
            raise Unreachable(f"the cluster does not know {host}:{port}")
        return self._link(node)

    def refresh(self) -> None:
        if time.monotonic() < self._refreshed + REFRESH_SECONDS:
            return
        with suppress(RedisError, RedisClusterException):  # the second is no `RedisError`
            self._nodes.initialize()
        self._refreshed = time.monotonic()

    def close(self) -> None:
        for link in self._links.values():
            link.disconnect()

    def _owner(self, slot: int) -> ClusterNode:
        """The server that has a slot; where none is known, any: it says who has it, or that nobody has."""
        try:
            return self._nodes.get_node_from_slot(slot)
        except SlotNotCoveredError:
            nodes: list[ClusterNode] = self._nodes.get_nodes_by_server_type("primary")
            return nodes[0]

    def _link(self, node: ClusterNode) -> Link:
        link = self._links.get(node.name)
        if link is None:
            self._nodes.create_redis_connections([node])  # type: ignore[no-untyped-call]
            link = self._links[node.name] = Link(node.redis_connection.connection_pool, self._patience)
        return link


def connect(url: RedisUrl, timeout: float) -> Servers:
    """The servers of a URL.

    Raises
    ------
    RedisError : none of them can be reached
    """
    patience: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)} | patience | url.options
    if url.kind == "cluster":
        return Cluster(_cluster(url, options), timeout)
    if url.kind == "sentinel":
        secure = {"ssl": True} if url.tls else {}
        sentinels = Sentinel(list(url.hosts), sentinel_kwargs=patience, **options, **secure)  # type: ignore[no-untyped-call]
        return SingleServer(Link(sentinels.master_for(url.service).connection_pool, timeout))  # type: ignore[no-untyped-call]
    (host, port), kind = url.hosts[0], SSLConnection if url.tls else Connection
    return SingleServer(Link(ConnectionPool(connection_class=kind, host=host, port=port, **options), timeout))


def _cluster(url: RedisUrl, options: dict[str, Any]) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in url.hosts]  # type: ignore[no-untyped-call]
    if url.tls:
        options["ssl"] = True
    try:
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    except RedisClusterException as error:
        raise Unreachable(str(error)) from error


def scan_keys(link: Link, pattern: str, cursor: int, count: int) -> tuple[int, list[str]]:
    """A slice of a server's keys, and the cursor of the next slice: 0 after the last."""
    next_cursor, found = link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", count)
    return int(next_cursor), [name.decode() for name in found]


def all_keys(link: Link, pattern: str) -> Iterator[list[str]]:
    """All of a server's keys in slices; a key may come twice."""
    cursor = -1
    while cursor:
        cursor, found = scan_keys(link, pattern, max(cursor, 0), 10_000)
        yield found


def client_reason(error: RedisError) -> str:
    """Why a call failed, for clients: without the addresses of servers."""
    if isinstance(error, TooSlow):
        return "it did not answer in time"
    if isinstance(error, MovedError | AskError):
        return "its cluster is moving sessions between servers"
    if isinstance(error, Unreachable):
        return "it cannot be reached"
    return str(error)
