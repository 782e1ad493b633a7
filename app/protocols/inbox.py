"""What has come in on plain connections since the last batch: parsed, submitted and answered by columns.

    data_received -> Inbox.put -> (the engine collects a batch) -> Inbox.submit -> PlainReplies -> write

A connection whose last request was an ordinary chunk puts the next piece of data here, unparsed. Before each
batch the engine asks for everything that has come in. The requests of the plain form
(`app.codec.plain_requests`) become one job for each caller, and its answers are encoded together. Everything
else goes, byte for byte, to the connection's own parser, as do requests that cannot be submitted: there, each
gets its own answer or error.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from app.access.callers import Caller
from app.codec.plain_answers import write_plain_answers
from app.codec.plain_requests import Head, PlainRequests, read_plain
from app.engine.engine import Engine
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import LONG_CHUNK, AdvanceMany
from app.jobs.session_list import NameSpans, SessionList
from app.protocols.batches import BatchReplies, submit_together
from app.protocols.exchange import ChunkExchange
from app.workers.moving import ConnectionMover
from models.arrays import Ints

log = logging.getLogger("carryover.api")


class PlainConnection(Protocol):
    """What the inbox needs of a connection."""

    head: Head
    caller: Caller

    def parse_piece(self, data: bytes, *, plain: bool) -> None:
        """Parse what is not plain, or could not be submitted with the others."""

    def await_answer(self) -> None:
        """Note that a plain request was submitted."""

    def write_plain(self, response: bytes) -> None:
        """Write the response to the plain request."""

    def plain_exchange(self, session: str, *, flat: bool) -> ChunkExchange:
        """The exchange that answers the plain request in any other way."""

    def note_owner(self, owner: int) -> None:
        """Note that a plain request was for a session of another worker."""

    def standard_headers(self) -> bytes:
        """The headers that every answer has."""


class Inbox:
    """Pieces of data of plain connections, one of each.

    Parameters
    ----------
    engine : asks for the chunks that have come in
    max_steps : observations of a chunk; longer chunks go to the connection's parser
    mover : knows which sessions other workers own; None if there are no others
    """

    def __init__(self, engine: Engine, max_steps: int, mover: ConnectionMover | None = None) -> None:
        self._engine = engine
        self._max_steps = min(max_steps, LONG_CHUNK)
        self._mover = mover
        self.pieces: dict[PlainConnection, bytes] = {}  # in the order in which they came in
        self._since = 0.0  # when the first of them came in
        engine.arrivals.append(self)

    def __len__(self) -> int:
        return len(self.pieces)

    def put_first(self, connection: PlainConnection, data: bytes) -> None:
        """Take what has come in on a connection at rest. While it is here, others add to `pieces`."""
        if self._engine.stopping:  # it may collect no other batch
            connection.parse_piece(data, plain=False)
            return
        self._since = perf_counter()
        self._engine.wake()
        self.pieces[connection] = data

    def submit(self) -> None:
        """Submit the requests of the plain form, a job for each caller; the rest goes to its parser."""
        connections, pieces = list(self.pieces), list(self.pieces.values())
        self.pieces.clear()
        try:
            heads = [connection.head for connection in connections]
            exact = self._engine.residents.models.take_doubles
            requests = read_plain(pieces, heads, self._max_steps, exact=exact)
        except Exception:
            log.exception("%d pieces could not be read together; each goes to its parser", len(pieces))
            for connection, piece in zip(connections, pieces, strict=True):
                connection.parse_piece(piece, plain=False)
            return
        callers = {connection.caller for connection in connections}
        if len(callers) == 1 and requests.width and self._submit(callers.pop(), requests, connections):
            return
        left: list[int] = []
        for caller, indexes in _groups(requests, connections, left):
            room = caller.usage.room
            left += indexes[room:]
            taken = indexes[:room]
            chosen = [connections[i] for i in taken]
            if taken and not self._submit(caller, requests.select(np.array(taken)), chosen):
                left += taken
        for i in left:
            connections[i].parse_piece(pieces[i], plain=bool(requests.plain[i]))

    def _submit(
        self, caller: Caller, requests: PlainRequests, connections: Sequence[PlainConnection]
    ) -> bool:
        """Submit these requests of a caller as one job. Returns whether they were taken."""
        spans = NameSpans(requests.joined, requests.session_starts, requests.session_ends)
        sessions = SessionList(spans=spans)
        replies = PlainReplies(requests, sessions, connections, self._since)
        job = AdvanceMany(
            sessions,
            requests.numbers.reshape(-1, requests.width),
            requests.lengths,
            requests.at,
            requests.epochs,
            reply=replies,
            requests=len(sessions),
        )
        if not submit_together(caller, job):
            return False
        if not replies.are_sent:
            for connection in connections:
                connection.await_answer()
        if self._mover is not None:
            self._note_owners(job.sessions, connections, self._mover)
        return True

    def _note_owners(
        self, sessions: SessionList, connections: Sequence[PlainConnection], mover: ConnectionMover
    ) -> None:
        for own in sessions.divide(mover.owner):
            if own.owner != mover.index:
                for i in own.indexes.tolist():
                    connections[i].note_owner(own.owner)


def _groups(
    requests: PlainRequests, connections: Sequence[PlainConnection], left: list[int]
) -> list[tuple[Caller, list[int]]]:
    """The plain requests of each caller and width; the indexes of the others are added to `left`."""
    groups: defaultdict[tuple[Caller, int], list[int]] = defaultdict(list)
    columns = requests.plain.tolist(), requests.widths.tolist()
    for i, (connection, plain, width) in enumerate(zip(connections, *columns, strict=True)):
        if plain:
            groups[connection.caller, width].append(i)
        else:
            left.append(i)
    return [(caller, indexes) for (caller, _), indexes in groups.items()]


class PlainReplies(BatchReplies):
    """Answers plain requests.

    Parameters
    ----------
    requests : all plain
    sessions, connections : [n], of each request
    since : when the first of them came in, as `perf_counter` has it
    """

    __slots__ = ("_connections", "_requests", "_since")

    def __init__(
        self,
        requests: PlainRequests,
        sessions: Sequence[str],
        connections: Sequence[PlainConnection],
        since: float,
    ) -> None:
        super().__init__(sessions)
        self._requests = requests
        self._connections = connections
        self._since = since

    def subset_reply(self, indexes: Ints) -> PlainReplies:
        chosen = indexes.tolist()
        return PlainReplies(
            self._requests.select(indexes),
            [self._sessions[i] for i in chosen],
            [self._connections[i] for i in chosen],
            self._since,
        )

    def _reply_alone(self, i: int, outcome: Any) -> None:
        self._exchange(i).reply(outcome)

    def _exchange(self, i: int) -> ChunkExchange:
        return self._connections[i].plain_exchange(self._sessions[i], flat=bool(self._requests.flat[i]))

    def _reply_together(self, answer: BulkAnswer) -> None:
        connections = self._connections
        first = connections[0]
        try:
            responses = write_plain_answers(self._requests, answer, first.standard_headers())
        except Exception as error:  # noqa: BLE001  (whatever it was, the clients are answered)
            for i in range(len(connections)):
                self._exchange(i).crash(error)
            return
        metrics = first.caller.engine.metrics
        metrics.record_requests(ChunkExchange.route, 200, len(responses), perf_counter() - self._since)
        for connection, response in zip(connections, responses, strict=True):
            connection.write_plain(response)
