"""What has come in on sockets since the last batch: read, submitted and answered by columns.

    on_ws_frame -> MessageInbox.put -> (the engine collects a batch) -> submit -> MessageReplies -> write

The messages of the plain form (`app.codec.plain_messages`) become jobs of many chunks. The first message of
each session goes in the first job, the second in the next, and so on: so no job names a session twice, and
the answers of a session keep the order of its messages.

From the first message of a socket that is not plain, or could not be submitted with the others, the socket
processes its messages by itself, in order, behind those that were submitted.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from app.access.callers import Caller
from app.codec.frames import Message
from app.codec.plain_answers import write_plain_frames
from app.codec.plain_messages import PlainMessages, read_messages
from app.engine.engine import Engine
from app.jobs.answers import BulkAnswer
from app.jobs.jobs import LONG_CHUNK, AdvanceMany
from app.jobs.session_list import SessionList
from app.jobs.split import repetitions
from app.protocols.batches import BatchReplies, submit_together
from models.arrays import Ints

log = logging.getLogger("carryover.api")

MAX_MESSAGES = 1024
MAX_BYTES = 2**20
"""When so much has come in, it is submitted at once: that bounds memory, and the work between two ticks."""


class MessageSocket(Protocol):
    """What the inbox needs of a socket."""

    session: str | None
    caller: Caller

    def process(self, data: bytes, *, binary: bool) -> None:
        """Process a message by itself."""

    def crash(self) -> None:
        """Close: a message could not be processed, through a fault of the server."""

    def answer(self, message: Message, outcome: Any) -> None:
        """Answer a message with the engine's outcome."""

    def send_answer(self, frame: bytes, position: int) -> None:
        """Send the whole frame that answers a chunk; `position` is that of its session."""


class MessageInbox:
    """Messages of the sockets of one server, in the order in which they came in.

    Parameters
    ----------
    engine : asks for the chunks that have come in
    max_steps : observations of a chunk; longer chunks are processed one by one
    """

    def __init__(self, engine: Engine, max_steps: int) -> None:
        self._engine = engine
        self._max_steps = min(max_steps, LONG_CHUNK)
        self._sockets: list[MessageSocket] = []
        self._messages: list[bytes] = []
        self._binary: list[bool] = []
        self._bytes = 0
        engine.arrivals.append(self)

    def __len__(self) -> int:
        return len(self._sockets)

    def put(self, socket: MessageSocket, data: bytes, *, binary: bool) -> None:
        """Take a message. It counts in the share of its tenant from now on."""
        if not self._sockets:
            self._engine.wake()
        self._sockets.append(socket)
        self._messages.append(data)
        self._binary.append(binary)
        usage = socket.caller.usage
        if usage.is_limited:
            usage.share.acquire(1)
        self._bytes += len(data)
        if len(self._sockets) >= MAX_MESSAGES or self._bytes >= MAX_BYTES:
            self.submit()

    def discard(self, socket: MessageSocket) -> int:
        """Forget the messages of a socket. Returns how many they were."""
        kept = [i for i, other in enumerate(self._sockets) if other is not socket]
        count = len(self._sockets) - len(kept)
        self._sockets = [self._sockets[i] for i in kept]
        self._messages = [self._messages[i] for i in kept]
        self._binary = [self._binary[i] for i in kept]
        self._bytes = sum(map(len, self._messages))
        if socket.caller.usage.is_limited:
            socket.caller.usage.share.release(count)
        return count

    def submit(self) -> None:
        """Submit the plain messages, jobs of each caller; the others are processed one by one behind them."""
        sockets, data, binary = self._sockets, self._messages, self._binary
        self._sockets, self._messages, self._binary, self._bytes = [], [], [], 0
        callers = _by_caller(sockets)
        for caller, indexes in callers:
            if caller.usage.is_limited:
                caller.usage.share.release(len(indexes))
        try:
            named = [socket.session is None for socket in sockets]
            exact = self._engine.residents.models.take_doubles
            messages = read_messages(data, binary, named, self._max_steps, exact=exact)
            left = [
                i for caller, indexes in callers for i in self._submit(caller, indexes, messages, sockets)
            ]
        except Exception:
            log.exception("%d messages could not be submitted; their sockets are closed", len(data))
            for socket in set(sockets):
                socket.crash()
            return
        for i in sorted(left):
            try:
                sockets[i].process(data[i], binary=binary[i])
            except Exception:
                log.exception("a message could not be processed; its socket is closed")
                sockets[i].crash()

    def _submit(
        self,
        caller: Caller,
        indexes: Sequence[int],
        messages: PlainMessages,
        sockets: Sequence[MessageSocket],
    ) -> list[int]:
        """Submit messages of a caller. Returns the indexes of those that must be processed one by one."""
        taken, left = _leading_plain(indexes, messages, sockets)
        groups = _in_turns(taken, messages, sockets)
        for number, (group, names) in enumerate(groups):
            chosen = [sockets[i] for i in group.tolist()]
            if not self._submit_together(caller, messages.select(group), names, chosen):
                return left + [i for rest, _ in groups[number:] for i in rest.tolist()]
        return left

    def _submit_together(
        self, caller: Caller, messages: PlainMessages, names: list[str], sockets: Sequence[MessageSocket]
    ) -> bool:
        """Submit messages of different sessions as one job. Returns whether they were taken."""
        job = AdvanceMany(
            SessionList(names),
            messages.observations(),
            messages.lengths,
            messages.at,
            messages.epochs,
            reply=MessageReplies(messages, names, sockets),
            requests=len(names),
        )
        if not submit_together(caller, job):
            return False
        self._engine.metrics.messages += len(messages)
        return True


def _by_caller(sockets: Sequence[MessageSocket]) -> Collection[tuple[Caller, Sequence[int]]]:
    """The indexes of each caller's messages."""
    callers = [socket.caller for socket in sockets]
    if len(set(callers)) == 1:
        return [(callers[0], range(len(callers)))]
    groups: defaultdict[Caller, list[int]] = defaultdict(list)
    for i, caller in enumerate(callers):
        groups[caller].append(i)
    return groups.items()


def _leading_plain(
    indexes: Sequence[int], messages: PlainMessages, sockets: Sequence[MessageSocket]
) -> tuple[Ints, list[int]]:
    """Which of these messages are plain, and behind none of the same socket that is not; and the others."""
    plain = messages.plain
    if plain.all():
        return np.array(indexes), []
    taken: list[int] = []
    left: list[int] = []
    unusual: set[MessageSocket] = set()
    for i in indexes:
        if plain[i] and sockets[i] not in unusual:
            taken.append(i)
        else:
            unusual.add(sockets[i])
            left.append(i)
    return np.array(taken, np.int64), left


def _in_turns(
    indexes: Ints, messages: PlainMessages, sockets: Sequence[MessageSocket]
) -> list[tuple[Ints, list[str]]]:
    """The messages in groups of one width, with their sessions; no group names a session twice.

    The n-th message of a session is in no group before that of its predecessor.
    """
    if not len(indexes):
        return []
    joined = messages.joined
    starts, ends = (span[indexes].tolist() for span in messages.session_spans)
    names = [
        sockets[i].session or joined[start:end].decode()
        for i, start, end in zip(indexes.tolist(), starts, ends, strict=True)
    ]
    widths = messages.widths[indexes]
    if len(set(names)) == len(names) and (widths == widths[0]).all():
        return [(indexes, names)]
    turns = np.array(repetitions(names))
    order = np.lexsort((widths, turns))
    cuts = np.flatnonzero(np.diff(turns[order]) | np.diff(widths[order])) + 1
    return [(indexes[group], [names[i] for i in group.tolist()]) for group in np.split(order, cuts)]


class MessageReplies(BatchReplies):
    """Answers plain messages.

    Parameters
    ----------
    messages : [n], all plain
    sessions, sockets : [n], of each message
    """

    __slots__ = ("_messages", "_sockets")

    def __init__(
        self, messages: PlainMessages, sessions: Sequence[str], sockets: Sequence[MessageSocket]
    ) -> None:
        super().__init__(sessions)
        self._messages = messages
        self._sockets = sockets

    def subset_reply(self, indexes: Ints) -> MessageReplies:
        chosen = indexes.tolist()
        return MessageReplies(
            self._messages.select(indexes),
            [self._sessions[i] for i in chosen],
            [self._sockets[i] for i in chosen],
        )

    def join(self, others: Sequence[MessageReplies]) -> MessageReplies:
        parts = [self, *others]
        return MessageReplies(
            PlainMessages.join([part._messages for part in parts]),
            [session for part in parts for session in part._sessions],
            [socket for part in parts for socket in part._sockets],
        )

    def _reply_alone(self, i: int, outcome: Any) -> None:
        messages, socket = self._messages, self._sockets[i]
        start, end = (int(span[i]) for span in messages.tag_spans)
        message = Message(
            self._sessions[i], None, None, None, messages.joined[start:end], bool(messages.binary[i]),
            socket.session is None, bool(messages.flat[i]),
        )  # fmt: skip
        socket.answer(message, outcome)

    def _reply_together(self, answer: BulkAnswer) -> None:
        named = np.array([socket.session is None for socket in self._sockets])
        frames = write_plain_frames(self._messages, self._sessions, named, answer)
        for socket, frame, position in zip(self._sockets, frames, answer.positions.tolist(), strict=True):
            socket.send_answer(frame, position)
