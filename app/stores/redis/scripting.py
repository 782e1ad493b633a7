"""A script over many sessions: one round trip to every server that has any of them, all at once.

A script that was not run (the server has forgotten it, the slot has moved) or whose answer was lost with
the connection is sent once more: every script here may run twice. What fails then fails for its sessions
alone, and with an answer lost nobody knows whether it was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Unreachable

from app.stores.redis.connections import Batch, Command, Link, Servers
from app.stores.redis.scripts import SCRIPTS, Script

ATTEMPTS = 3
SOURCES = {script.digest: script.source for script in SCRIPTS}


@dataclass(frozen=True)
class Acknowledged:
    """Who must hold a write before it counts.

    replicas : of the primary
    on_disk : the primary's append-only file, and the replicas' if there are any
    milliseconds : how long that may take
    """

    replicas: int = 0
    on_disk: bool = False
    milliseconds: int = 1000

    def __bool__(self) -> bool:
        return self.on_disk or self.replicas > 0

    def command(self) -> Command:
        """What is asked behind the writes, over the same connection."""
        if self.on_disk:
            return "WAITAOF", 1, self.replicas, self.milliseconds
        return "WAIT", self.replicas, self.milliseconds

    def lacking(self, reply: Any) -> str | None:
        """What is missing from the reply, if anything."""
        if isinstance(reply, ResponseError):
            return str(reply)
        local, replicas = reply if self.on_disk else (1, reply)
        if self.on_disk and local < 1:
            return "the primary has not written it to its disk in time"
        if replicas < self.replicas:
            return f"{replicas} of {self.replicas} replicas hold it"
        return None


@dataclass(slots=True)
class Answers:
    """replies : the indexes of a call, and what the script returned for them; failed : why, by index."""

    replies: list[tuple[Sequence[int], Any]] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def run(
    servers: Servers,
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[bytes] = (),
    acknowledged: Acknowledged | None = None,
) -> Answers:
    """Run a script over all of these keys.

    Parameters
    ----------
    arguments : `script.each` for every key, one key after the other
    acknowledged : who must hold what it wrote
    """
    answers = Answers()
    batches = servers.batches(keys, range(len(keys)))
    for attempt in range(ATTEMPTS):
        batches = _round(servers, batches, script, keys, arguments, acknowledged, answers, attempt)
        if not batches:
            break
    return answers


def _round(
    servers: Servers,
    batches: Sequence[Batch],
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[bytes],
    acknowledged: Acknowledged | None,
    answers: Answers,
    attempt: int,
) -> list[Batch]:
    """Send all, then receive all. Returns what is to be sent again."""
    by_link: dict[Link, list[Batch]] = {}
    for batch in batches:
        by_link.setdefault(batch.link, []).append(batch)
    troubled: list[tuple[Batch, RedisError]] = []
    sent = []
    for link, mine in by_link.items():
        commands = [one for batch in mine for one in _commands(batch, script, keys, arguments)]
        if acknowledged:
            commands.append(acknowledged.command())
        try:
            link.send(commands)
            sent.append((link, mine, len(commands)))
        except RedisError as error:
            troubled += [(batch, error) for batch in mine]
    for link, mine, count in sent:
        try:
            replies = link.receive(count)
        except RedisError as error:
            troubled += [(batch, error) for batch in mine]
        else:
            troubled += _sorted(mine, replies, acknowledged, answers)
    return _again(servers, troubled, keys, answers, last=attempt == ATTEMPTS - 1)


def _commands(batch: Batch, script: Script, keys: Sequence[str], arguments: Sequence[bytes]) -> list[Command]:
    indexes, each = batch.indexes, script.each
    command: list[bytes | str | int] = ["EVALSHA", script.digest, len(indexes)]
    command += [keys[i] for i in indexes]
    if each:
        command += [one for i in indexes for one in arguments[each * i : each * i + each]]
    return [("ASKING",), command] if batch.asking else [command]


def _sorted(
    batches: Sequence[Batch], replies: list[Any], acknowledged: Acknowledged | None, answers: Answers
) -> list[tuple[Batch, RedisError]]:
    """Keep the replies that are answers; the others are trouble."""
    lacking = acknowledged.lacking(replies.pop()) if acknowledged else None
    troubled: list[tuple[Batch, RedisError]] = []
    waiting = iter(replies)
    for batch in batches:
        reply = [next(waiting) for _ in range(2 if batch.asking else 1)][-1]
        if isinstance(reply, ResponseError):
            troubled.append((batch, reply))
        elif lacking:
            answers.failed.update(dict.fromkeys(batch.indexes, lacking))
        else:
            answers.replies.append((batch.indexes, reply))
    return troubled


def _again(
    servers: Servers,
    troubled: Sequence[tuple[Batch, RedisError]],
    keys: Sequence[str],
    answers: Answers,
    *,
    last: bool,
) -> list[Batch]:
    again: list[Batch] = []
    for batch, error in troubled:
        try:
            mended = [] if last else _mended(servers, batch, error, keys)
        except RedisError as another:
            mended, error = [], another
        again += mended
        if not mended:
            answers.failed.update(dict.fromkeys(batch.indexes, str(error)))
    return again


def _mended(servers: Servers, batch: Batch, error: RedisError, keys: Sequence[str]) -> list[Batch]:
    """The batch as it may be sent again; none where that would not help."""
    if isinstance(error, NoScriptError):
        for source in SOURCES.values():
            batch.link.ask("SCRIPT", "LOAD", source)
        return [batch]
    if isinstance(error, MovedError):
        servers.learn()
        return [Batch(servers.at(error.host, error.port), batch.indexes)]
    if isinstance(error, AskError):  # behind MovedError, which redis-py derives from it
        return [Batch(servers.at(error.host, error.port), batch.indexes, asking=True)]
    if isinstance(error, Unreachable):
        servers.learn()
        return servers.batches(keys, batch.indexes)
    return []
