"""What has come in on plain connections since the last batch: parsed, submitted and answered by columns.

    data_received -> Inbox.put -> (the engine collects a batch) -> Inbox.submit -> PlainReplies -> write

A connection whose last request was an ordinary chunk puts the next piece of data here, unparsed. Before each
batch the engine asks for everything that has come in. The requests of the plain form
(`app.codec.plain_requests`) become one job for each caller, and its answers are encoded together. Everything
else goes, byte for byte, to the connection's own parser, as do requests that cannot be submitted: there, each
gets its own answer or error.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from app.access.callers import Caller
from app.codec.plain_answers import write_plain_answers
from app.codec.plain_requests import Head, PlainRequests, read_plain
from app.engine.engine import Engine
from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import AdvanceMany, Reply, SeparateReplies
from app.jobs.session_list import SessionList
from app.jobs.split import LONG_CHUNK
from app.protocols.exchange import ChunkExchange
from models.arrays import Floats, Ints


class PlainConnection(Protocol):
    """What the inbox needs of a connection."""

    head: Head
    caller: Caller

    def parse_piece(self, data: bytes) -> None:
        """Parse what is not plain, or could not be submitted with the others."""

    def await_answer(self, heard: float) -> None:
        """Note that a plain request was submitted, which came in at this time of the event loop."""

    def write_plain(self, response: bytes) -> None:
        """Write the response to the plain request."""

    def plain_exchange(self, session: str, *, flat: bool) -> ChunkExchange:
        """The exchange that answers the plain request in any other way."""

    def standard_headers(self) -> bytes:
        """The headers that every answer has."""


class Inbox:
    """Pieces of data of plain connections, one of each.

    Parameters
    ----------
    engine : asks for the chunks that have come in
    max_steps : observations of a chunk; longer chunks go to the connection's parser
    """

    def __init__(self, engine: Engine, max_steps: int) -> None:
        self._engine = engine
        self._max_steps = min(max_steps, LONG_CHUNK)
        self._connections: list[PlainConnection] = []
        self._pieces: list[bytes] = []
        self._since = 0.0  # when the first of them came in
        engine.arrivals = self

    def __len__(self) -> int:
        return len(self._connections)

    def put(self, connection: PlainConnection, data: bytes) -> None:
        """Take what has come in on a connection that is at rest."""
        if not self._connections:
            self._since = perf_counter()
            self._engine.wake()
        self._connections.append(connection)
        self._pieces.append(data)

    def take_back(self, connection: PlainConnection) -> bytes:
        """Hand out what this connection has in here."""
        i = self._connections.index(connection)
        del self._connections[i]
        return self._pieces.pop(i)

    def submit(self) -> None:
        """Submit the requests of the plain form, a job for each caller; the rest goes to its parser."""
        connections, pieces = self._connections, self._pieces
        self._connections, self._pieces = [], []
        requests = read_plain(pieces, [connection.head for connection in connections], self._max_steps)
        left: list[int] = []
        for caller, indexes in _groups(requests, connections, left):
            room = caller.usage.share.room
            left += indexes[room:].tolist()
            indexes = indexes[:room]
            if len(indexes) and not self._submit(caller, requests, indexes, connections):
                left += indexes.tolist()
        for i in left:
            connections[i].parse_piece(pieces[i])

    def _submit(
        self, caller: Caller, requests: PlainRequests, indexes: Ints, connections: Sequence[PlainConnection]
    ) -> bool:
        """Submit these requests of a caller as one job. Returns whether they were taken."""
        if len(indexes) < len(connections):
            connections = [connections[i] for i in indexes.tolist()]
        starts, ends = requests.session_starts[indexes].tolist(), requests.session_ends[indexes].tolist()
        text = requests.text
        sessions = SessionList([text[start:end] for start, end in zip(starts, ends, strict=True)])
        replies = PlainReplies(requests, indexes, sessions, connections, self._since)
        job = AdvanceMany(
            sessions,
            _observations(requests, indexes),
            requests.lengths[indexes],
            requests.at[indexes],
            requests.epochs[indexes],
            reply=replies,
            requests=len(sessions),
        )
        try:
            caller.submit(job)
        except CarryoverError:
            return False
        heard = asyncio.get_running_loop().time()
        for connection in connections:
            connection.await_answer(heard)
        return True


def _groups(
    requests: PlainRequests, connections: Sequence[PlainConnection], left: list[int]
) -> list[tuple[Caller, Ints]]:
    """The plain requests of each caller and width; the indexes of the others are added to `left`."""
    callers = {connection.caller for connection in connections}
    widths = requests.widths
    if len(callers) == 1 and requests.plain.all() and (widths == widths[0]).all():
        caller = callers.pop()
        if not caller.is_revoked:
            return [(caller, np.arange(len(connections)))]
    groups: defaultdict[tuple[Caller, int], list[int]] = defaultdict(list)
    for i, (connection, plain, width) in enumerate(
        zip(connections, requests.plain.tolist(), widths.tolist(), strict=True)
    ):
        if plain and not connection.caller.is_revoked:
            groups[connection.caller, width].append(i)
        else:
            left.append(i)
    return [(caller, np.array(indexes)) for (caller, _), indexes in groups.items()]


def _observations(requests: PlainRequests, indexes: Ints) -> Floats:
    """The observations [total, width] of requests of one width."""
    width = int(requests.widths[indexes[0]])
    if len(indexes) == len(requests.plain):
        return requests.numbers.reshape(-1, width)
    starts, lengths = requests.starts[indexes].tolist(), requests.lengths[indexes].tolist()
    numbers = [
        requests.numbers[start : start + width * length]
        for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate(numbers).reshape(-1, width)


class PlainReplies(SeparateReplies):
    """Answers plain requests: those that are applied together in one pass, and each of the others alone.

    Parameters
    ----------
    requests, indexes : the requests that are answered, which are the ones at these indexes
    sessions, connections : [n], of each request
    since : when the first of them came in, as `perf_counter` has it
    """

    __slots__ = ("_connections", "_indexes", "_requests", "_sessions", "_since")

    def __init__(
        self,
        requests: PlainRequests,
        indexes: Ints,
        sessions: Sequence[str],
        connections: Sequence[PlainConnection],
        since: float,
    ) -> None:
        self._requests = requests
        self._indexes = indexes
        self._sessions = sessions
        self._connections = connections
        self._since = since

    def subset_reply(self, indexes: Ints) -> PlainReplies:
        chosen = indexes.tolist()
        return PlainReplies(
            self._requests,
            self._indexes[indexes],
            [self._sessions[i] for i in chosen],
            [self._connections[i] for i in chosen],
            self._since,
        )

    def single_reply(self, i: int) -> Reply:
        return partial(self._reply_alone, i)

    def _reply_alone(self, i: int, outcome: Any) -> None:
        flat = bool(self._requests.flat[self._indexes[i]])
        self._connections[i].plain_exchange(self._sessions[i], flat=flat).reply(outcome)

    def __call__(self, outcome: Any) -> None:
        connections = self._connections
        if not isinstance(outcome, BulkAnswer):
            for i in range(len(connections)):
                self._reply_alone(i, outcome)
            return
        if outcome.extra_outputs:
            for i, answer in enumerate(outcome.singles(self._sessions)):
                self._reply_alone(i, answer)
            return
        first = connections[0]
        responses = write_plain_answers(self._requests, self._indexes, outcome, first.standard_headers())
        metrics = first.caller.engine.metrics
        metrics.record_requests(ChunkExchange.route, 200, len(responses), perf_counter() - self._since)
        for connection, response in zip(connections, responses, strict=True):
            connection.write_plain(response)


