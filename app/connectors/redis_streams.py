"""Redis Streams through a consumer group: each entry is applied exactly once.

A hash beside the stream holds the place of every session. One transaction writes the predictions, the places
and the acknowledgement, so the hash always says where a session was before its first unacknowledged entry.
The same hash names the bridge that owns the group. A newer bridge takes it over, and the transactions of the
older one fail from then on.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.connectors.address import Address
from app.connectors.source import (
    ConnectorError,
    Location,
    Message,
    Outcome,
    Place,
    Publication,
    Stopped,
    log,
    retry,
)
from app.errors import ConfigError

AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError)
DENIED = (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError)
OWNER, COMMIT = "{owner}", "{commit}"  # no session id has braces
_HASH_TAG = re.compile(r"^[^{]*\{[^}]+\}")
TIMEOUT_SECONDS = 10.0
TAKE_OVER_SECONDS = 2 * TIMEOUT_SECONDS
"""For how long an older bridge of the group may still receive an entry."""


class RedisStreams:
    """The source `redis://host/stream`.

    Parameters
    ----------
    group : the consumer group; created if it does not exist
    only_new : a new group begins behind the newest entry, and not with the oldest
    keep : about how many entries to keep in the streams that are written to; None: all
    """

    guarantee = "each entry is applied exactly once"
    slashes = False
    names: frozenset[str] | None = None

    def __init__(
        self, address: Address, group: str, only_new: bool, keep: int | None, stop: threading.Event
    ) -> None:
        self.address = address
        self.stream, self._db = _stream_of(address)
        self.group = group
        # On the stream's node of a cluster: a stream with a hash tag brings its own.
        tagged = self.stream if _HASH_TAG.search(self.stream) else f"{{{self.stream}}}"
        self.places_key = f"carryover:{tagged}:{group}"
        self._start = "$" if only_new else "0"
        self._keep = keep
        self._stop = stop
        self._token = secrets.token_hex(8)
        self._commits = 0
        self._backlog = True  # entries of an earlier run, or of a lost reply, may be pending
        self._opened = 0.0
        self._stored: dict[str, Place | None] = {}
        self._redis = self._client()

    def _client(self) -> redis.Redis:
        address = self.address
        options: dict[str, Any] = {}
        if address.scheme == "rediss":
            options = {"ssl": True, "ssl_ca_certs": str(address.ca_file) if address.ca_file else None}
        return redis.Redis(
            address.host,
            address.port,
            self._db,
            username=address.user,
            password=address.password,
            decode_responses=True,
            encoding_errors="surrogateescape",
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            # A repeated XREADGROUP would step over entries whose reply was lost: only `_run` repeats.
            retry=Retry(NoBackoff(), 0),
            **options,
        )

    def connect(self) -> None:
        """See `Source`. From here on, an older bridge of this group can commit nothing."""
        self._run(self._open)

    def _open(self) -> None:
        self._create_group()
        self._redis.hset(self.places_key, mapping={OWNER: self._token})
        self._stored.clear()
        self._opened = time.monotonic()

    def _create_group(self) -> None:
        try:
            self._redis.xgroup_create(self.stream, self.group, self._start, mkstream=True)
        except redis.exceptions.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def receive(self, limit: int, seconds: float) -> list[Message]:
        """See `Source`."""
        if self._stop.is_set():
            raise Stopped
        self._check_owner()
        if self._backlog or time.monotonic() < self._opened + TAKE_OVER_SECONDS:
            messages: list[Message] = self._run(lambda: self._read("0", None, None))
            self._backlog = bool(messages)
            if messages:
                return messages
        try:
            fresh: list[Message] = self._run(lambda: self._read(">", limit, round(seconds * 1000)), once=True)
        except AWAY:
            self._backlog = True  # the reply with the entries may have been lost
            self._run(self._create_group)
            return []
        # An older bridge that waited for entries may have received one in place of this bridge.
        self._backlog = self._backlog or not fresh
        return fresh

    def _check_owner(self) -> None:
        owner = self._run(lambda: self._redis.hget(self.places_key, OWNER))
        self._refuse_other(owner)

    def _refuse_other(self, owner: str | None) -> None:
        if owner not in (None, self._token):
            raise ConnectorError(f"another bridge has taken over group {self.group!r} of {self.stream!r}")

    def _read(self, start: str, limit: int | None, wait: int | None) -> list[Message]:
        reply: Any = self._redis.xreadgroup(self.group, "bridge", {self.stream: start}, limit, wait)
        streams = reply.items() if isinstance(reply, dict) else reply or ()
        entries = [entry for _, found in streams for entry in _flat(found)]
        return [self._message(identifier, fields) for identifier, fields in entries]

    def _message(self, identifier: str, fields: Mapping[str, str] | None) -> Message:
        origin = f"{self.stream} {identifier}"
        # An entry that was trimmed while it was pending has no fields any more, and is rejected as such.
        fields = fields or {}
        return Message(origin, {"id": identifier, **fields, "stream": self.stream}, fields, identifier)

    def locate(self, waiting: Mapping[str, Sequence[Message]]) -> dict[str, Location]:
        """See `Source`."""
        names = list(waiting)
        stored: Any = self._run(lambda: self._redis.hmget(self.places_key, names))
        self._stored |= {name: _place(text) for name, text in zip(names, stored, strict=True)}
        return {name: Location(self._stored[name]) for name in names}

    def prepare(self, chunks: Mapping[str, tuple[Place, Sequence[Message]]]) -> None:
        """See `Source`. Write the places that the last commit does not say already.

        What is received after a newer bridge took the group over is that bridge's, and is not sent.
        """
        changed = {name: place for name, (place, _) in chunks.items() if self._stored.get(name) != place}
        if changed:
            self._transact(lambda pipe: self._put(pipe, changed))
            self._stored |= changed
        else:
            self._check_owner()

    def commit(self, outcome: Outcome) -> None:
        """See `Source`."""

        def write(pipe: Any) -> None:
            for publication in outcome.publications:
                if publication.target == self.stream:
                    raise ConnectorError(f"{self.stream!r} is read and cannot be written to")
                pipe.xadd(publication.target, _fields(publication), maxlen=self._keep)
            self._put(pipe, outcome.places)
            pipe.xack(self.stream, self.group, *[message.handle for message in outcome.messages])

        self._transact(write)
        self._stored |= outcome.places

    def _put(self, pipe: Any, places: Mapping[str, Place]) -> None:
        mapping = {name: f"{place.position} {place.epoch or ''}" for name, place in places.items()}
        if mapping:
            pipe.hset(self.places_key, mapping=mapping)

    def _transact(self, write: Callable[[Any], None]) -> None:
        """Run one transaction exactly once, also if its reply is lost."""
        self._commits += 1
        mark = f"{self._token} {self._commits}"

        def attempt() -> None:
            with self._redis.pipeline() as pipe:
                pipe.watch(self.places_key)  # type: ignore[no-untyped-call]
                found: Any = pipe.hmget(self.places_key, [OWNER, COMMIT])
                owner, last = found
                if last == mark:
                    return  # an attempt without a reply was executed
                if owner is None:  # Redis has lost the hash
                    self._open()
                    raise redis.exceptions.ConnectionError(f"{self.places_key} is gone")
                self._refuse_other(owner)
                pipe.multi()
                write(pipe)
                pipe.hset(self.places_key, mapping={COMMIT: mark})
                pipe.execute()

        self._run(attempt)

    def lag(self) -> int | None:
        """See `Source`; entries behind the last one that was read. Known from Redis 7 on."""
        try:
            groups: Any = self._redis.xinfo_groups(self.stream)
        except redis.exceptions.RedisError:
            return None
        return next((group.get("lag") for group in groups if group["name"] == self.group), None)

    def close(self) -> None:
        """See `Source`."""
        self._redis.close()

    def _run(self, action: Callable[[], Any], *, once: bool = False) -> Any:
        """Repeat an action while Redis is away; a refusal ends the bridge."""

        def attempt() -> Any:
            try:
                return action()
            except DENIED as error:
                raise ConnectorError(f"{self.address}: {error}") from None
            except redis.exceptions.WatchError:
                raise redis.exceptions.ConnectionError("another bridge wrote meanwhile") from None
            except redis.exceptions.ResponseError as error:
                if str(error).startswith("NOGROUP"):  # the stream was deleted, or Redis lost it
                    log.warning("%s: %s; the group is created again", self.address, error)
                    self._open()
                    raise redis.exceptions.ConnectionError(str(error)) from None
                raise ConnectorError(f"{self.address}: {error}") from None

        return attempt() if once else retry(attempt, AWAY, str(self.address), self._stop)


def _stream_of(address: Address) -> tuple[str, int]:
    """The stream, and the database of `?db=N`."""
    stream, _, query = address.path.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    database = options.pop("db", ["0"])[0]
    if options or not database.isdigit():
        raise ConfigError(f"{address}: only ?db=NUMBER may follow the stream")
    return stream, int(database)


def _flat(found: Any) -> list[Any]:
    """Entries of one stream; the newer protocol of Redis wraps them once more."""
    return found[0] if found and isinstance(found[0], list) else found


def _place(text: str | None) -> Place | None:
    if text is None:
        return None
    position, _, epoch = text.partition(" ")
    return Place(int(position), epoch or None)


def _fields(publication: Publication) -> dict[str, str]:
    """A document as the fields of an entry."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in publication.document.items()
    }
