"""Connections: one to each server that sessions live on, and which server a session lives on.

redis-py opens the connections (TLS, passwords, Sentinels, the map of a cluster); what goes over them is
packed by hiredis and sent as a whole, because redis-py's own pipelines cost several times what the server
does. A server that did not answer in time is not asked again for as long: it slows its own sessions, once.
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
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as TooSlow
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.stores.redis.url import Place

Command = Sequence[bytes | str | int]

BATCH = 256  # sessions that one script call takes at most: others are let in between
LEARN_SECONDS = 0.5  # that the map of a cluster is trusted at least


class Link:
    """One connection to one server: commands leave together, and their replies come in order."""

    def __init__(self, pool: ConnectionPool, patience: float) -> None:
        self._connection: Any = pool.make_connection()
        self._patience = patience
        self._shunned_until = 0.0

    def send(self, commands: Sequence[Command]) -> None:
        """Write all of these.

        Raises
        ------
        RedisError : nothing can be expected of the server now
        """
        if time.monotonic() < self._shunned_until:
            raise TooSlow("it did not answer a moment ago")
        try:
            self._connection.connect()
            packed = b"".join([hiredis.pack_command(tuple(one)) for one in commands])  # type: ignore[arg-type]
            self._connection.send_packed_command([packed], check_health=False)
        except TooSlow:
            self._shun()
            raise

    def receive(self, count: int) -> list[Any]:
        """The replies to as many commands; an error reply is its `ResponseError`.

        Raises
        ------
        RedisError : the connection is gone; what was sent may have been done, or not
        """
        replies: list[Any] = []
        try:
            for _ in range(count):
                try:
                    replies.append(self._connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
        except RedisError as error:
            self.drop()
            if isinstance(error, TooSlow):
                self._shun()
            raise
        return replies

    def ask(self, *command: bytes | str | int) -> Any:
        """One command and its reply.

        Raises
        ------
        RedisError
        """
        self.send([command])
        reply = self.receive(1)[0]
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def drop(self) -> None:
        """Let go of the connection; the next command makes another."""
        self._connection.disconnect()

    def _shun(self) -> None:
        self._shunned_until = time.monotonic() + self._patience


@dataclass(slots=True)
class Batch:
    """Keys, by index, that one script call may take."""

    link: Link
    indexes: Sequence[int]
    asking: bool = False  # while a slot moves between two servers of a cluster


class Servers(Protocol):
    """Who serves which keys."""

    def batches(self, keys: Sequence[str], indexes: Iterable[int]) -> list[Batch]:
        """These keys by the server that has them."""

    def primaries(self) -> list[Link]:
        """Every server that sessions live on."""

    def at(self, host: str, port: int) -> Link:
        """The server that another one has sent us to."""

    def learn(self) -> None:
        """Find out anew who serves what, unless that was done a moment ago."""

    def close(self) -> None: ...


class One:
    """A single server: the one that was named, or whichever the Sentinels say."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def batches(self, keys: Sequence[str], indexes: Iterable[int]) -> list[Batch]:  # noqa: ARG002
        every = list(indexes)
        return [Batch(self._link, every[i : i + BATCH]) for i in range(0, len(every), BATCH)]

    def primaries(self) -> list[Link]:
        return [self._link]

    def at(self, host: str, port: int) -> Link:  # noqa: ARG002  (only a cluster sends anybody elsewhere)
        return self._link

    def learn(self) -> None:
        """The Sentinels are asked by the next connection."""

    def close(self) -> None:
        self._link.drop()


class Cluster:
    """Many servers, each with a share of the 16,384 slots."""

    def __init__(self, cluster: RedisCluster, patience: float) -> None:
        self._nodes = cluster.nodes_manager
        self._patience = patience
        self._links: dict[str, Link] = {}  # by name of the node
        self._learnt = time.monotonic()

    def batches(self, keys: Sequence[str], indexes: Iterable[int]) -> list[Batch]:
        by_slot: dict[int, list[int]] = {}
        for i in indexes:
            by_slot.setdefault(key_slot(keys[i].encode()), []).append(i)
        return [
            Batch(self._link(self._nodes.get_node_from_slot(slot)), some) for slot, some in by_slot.items()
        ]

    def primaries(self) -> list[Link]:
        return [self._link(node) for node in self._nodes.get_nodes_by_server_type("primary")]

    def at(self, host: str, port: int) -> Link:
        node = self._nodes.get_node(host, port)
        if node is None:
            self.learn()
            node = self._nodes.get_node(host, port)
        if node is None:
            raise Unreachable(f"the cluster does not know {host}:{port}")
        return self._link(node)

    def learn(self) -> None:
        if time.monotonic() < self._learnt + LEARN_SECONDS:
            return
        with suppress(RedisError):
            self._nodes.initialize()
        self._learnt = time.monotonic()

    def close(self) -> None:
        for link in self._links.values():
            link.drop()

    def _link(self, node: ClusterNode) -> Link:
        link = self._links.get(node.name)
        if link is None:
            self._nodes.create_redis_connections([node])  # type: ignore[no-untyped-call]
            link = self._links[node.name] = Link(node.redis_connection.connection_pool, self._patience)
        return link


def connected(where: Place, timeout: float) -> Servers:
    """The servers at a place.

    Raises
    ------
    RedisError : none of them can be reached
    """
    patience: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)} | patience | where.options
    if where.kind == "cluster":
        return Cluster(_cluster(where, options), timeout)
    if where.kind == "sentinel":
        secure = {"ssl": True} if where.tls else {}
        sentinels = Sentinel(list(where.hosts), sentinel_kwargs=patience, **options, **secure)  # type: ignore[no-untyped-call]
        return One(Link(sentinels.master_for(where.service).connection_pool, timeout))  # type: ignore[no-untyped-call]
    (host, port), kind = where.hosts[0], SSLConnection if where.tls else Connection
    return One(Link(ConnectionPool(connection_class=kind, host=host, port=port, **options), timeout))


def _cluster(where: Place, options: dict[str, Any]) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in where.hosts]  # type: ignore[no-untyped-call]
    if where.tls:
        options["ssl"] = True
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)


def names(link: Link, pattern: str, cursor: int, count: int) -> tuple[int, list[str]]:
    """A slice of a server's keys, and the cursor behind it: 0 when it was the last."""
    behind, found = link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", count)
    return int(behind), [name.decode() for name in found]


def every_name(link: Link, pattern: str) -> Iterator[str]:
    """All of a server's keys; one may come twice."""
    cursor = -1
    while cursor:
        cursor, found = names(link, pattern, max(cursor, 0), 10_000)
        yield from found
