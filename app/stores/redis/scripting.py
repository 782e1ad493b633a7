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

from app.stores.redis.connections import Command, KeyGroup, Link, Servers
from app.stores.redis.scripts import SCRIPTS, Script

ATTEMPTS = 3
SOURCES = {script.digest: script.source for script in SCRIPTS}


@dataclass(frozen=True)
class WriteConcern:
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

    def shortfall(self, reply: Any) -> str | None:
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
class ScriptResults:
    """replies : the indexes of a call, and what the script returned for them; failed : why, by index."""

    replies: list[tuple[Sequence[int], Any]] = field(default_factory=list)
    failures: dict[int, str] = field(default_factory=dict)


def run_script(
    servers: Servers,
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[bytes] = (),
    write_concern: WriteConcern | None = None,
) -> ScriptResults:
    """Run a script over all of these keys.

    Parameters
    ----------
    arguments : `script.arguments_per_key` for every key, one key after the other
    acknowledged : who must hold what it wrote
    """
    results = ScriptResults()
    groups = servers.groups(keys, range(len(keys)))
    for attempt in range(ATTEMPTS):
        groups = _round(servers, groups, script, keys, arguments, write_concern, results, attempt)
        if not groups:
            break
    return results


def _round(
    servers: Servers,
    groups: Sequence[KeyGroup],
    script: Script,
    keys: Sequence[str],
    arguments: Sequence[bytes],
    write_concern: WriteConcern | None,
    results: ScriptResults,
    attempt: int,
) -> list[KeyGroup]:
    """Send all, then receive all. Returns what is to be sent again."""
    by_link: dict[Link, list[KeyGroup]] = {}
    for group in groups:
        by_link.setdefault(group.link, []).append(group)
    troubled: list[tuple[KeyGroup, RedisError]] = []
    sent = []
    for link, mine in by_link.items():
        commands = [one for group in mine for one in _commands(group, script, keys, arguments)]
        if write_concern:
            commands.append(write_concern.command())
        try:
            link.send(commands)
            sent.append((link, mine, len(commands)))
        except RedisError as error:
            troubled += [(group, error) for group in mine]
    for link, mine, count in sent:
        try:
            replies = link.receive(count)
        except RedisError as error:
            troubled += [(group, error) for group in mine]
        else:
            troubled += _sorted(mine, replies, write_concern, results)
    return _again(servers, troubled, keys, results, last=attempt == ATTEMPTS - 1)


def _commands(
    group: KeyGroup, script: Script, keys: Sequence[str], arguments: Sequence[bytes]
) -> list[Command]:
    indexes, each = group.indexes, script.arguments_per_key
    command: list[bytes | str | int] = ["EVALSHA", script.digest, len(indexes)]
    command += [keys[i] for i in indexes]
    if each:
        command += [one for i in indexes for one in arguments[each * i : each * i + each]]
    return [("ASKING",), command] if group.asking else [command]


def _sorted(
    groups: Sequence[KeyGroup], replies: list[Any], write_concern: WriteConcern | None, results: ScriptResults
) -> list[tuple[KeyGroup, RedisError]]:
    """Keep the replies that are answers; the others are trouble."""
    shortfall = write_concern.shortfall(replies.pop()) if write_concern else None
    troubled: list[tuple[KeyGroup, RedisError]] = []
    waiting = iter(replies)
    for group in groups:
        reply = [next(waiting) for _ in range(2 if group.asking else 1)][-1]
        if isinstance(reply, ResponseError):
            troubled.append((group, reply))
        elif shortfall:
            results.failures.update(dict.fromkeys(group.indexes, shortfall))
        else:
            results.replies.append((group.indexes, reply))
    return troubled


def _again(
    servers: Servers,
    troubled: Sequence[tuple[KeyGroup, RedisError]],
    keys: Sequence[str],
    results: ScriptResults,
    *,
    last: bool,
) -> list[KeyGroup]:
    again: list[KeyGroup] = []
    for group, error in troubled:
        try:
            mended = [] if last else _mended(servers, group, error, keys)
        except RedisError as another:
            mended, error = [], another
        again += mended
        if not mended:
            results.failures.update(dict.fromkeys(group.indexes, str(error)))
    return again


def _mended(servers: Servers, group: KeyGroup, error: RedisError, keys: Sequence[str]) -> list[KeyGroup]:
    """The batch as it may be sent again; none where that would not help."""
    if isinstance(error, NoScriptError):
        for source in SOURCES.values():
            group.link.ask("SCRIPT", "LOAD", source)
        return [group]
    if isinstance(error, MovedError):
        servers.refresh()
        return [KeyGroup(servers.link_to(error.host, error.port), group.indexes)]
    if isinstance(error, AskError):  # behind MovedError, which redis-py derives from it
        return [KeyGroup(servers.link_to(error.host, error.port), group.indexes, asking=True)]
    if isinstance(error, Unreachable):
        servers.refresh()
        return servers.groups(keys, group.indexes)
    return []
