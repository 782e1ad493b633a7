"""Runs a script over many keys: one round trip, to all servers at the same time.

A script is sent again when it was not run (the server has forgotten it, or the slot has moved) or when its
answer was lost with the connection: so every script must be safe to run twice. A failure affects only its
own keys; after a lost answer it is unknown whether the script was run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import AskError, MovedError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as Unreachable

from app.stores.redis.connections import Command, KeyGroup, Link, Servers, client_reason
from app.stores.redis.scripts import SCRIPTS, Script

log = logging.getLogger("carryover.store")

ATTEMPTS = 3
SOURCES = {script.digest: script.source for script in SCRIPTS}


@dataclass(frozen=True)
class WriteConcern:
    """What must hold a write before it counts.

    replicas : this number of replicas of the primary
    on_disk : also the append-only file of the primary and of those replicas
    milliseconds : how long that may take
    """

    replicas: int = 0
    on_disk: bool = False
    milliseconds: int = 1000

    def __bool__(self) -> bool:
        return self.on_disk or self.replicas > 0

    def command(self) -> Command:
        """The command to send after the writes, over the same connection."""
        if self.on_disk:
            return "WAITAOF", 1, self.replicas, self.milliseconds
        return "WAIT", self.replicas, self.milliseconds

    def shortfall(self, reply: Any) -> str | None:
        """What is missing according to the reply; None where nothing is."""
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
    """What a script returned.

    replies : the indexes of the keys of each call, and its result
    failures : by index of a key, why it failed
    """

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
    write_concern : what must hold its writes
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
    """Send all calls, then receive all replies. Returns the groups that must be sent again."""
    by_link: dict[Link, list[KeyGroup]] = {}
    for group in groups:
        by_link.setdefault(group.link, []).append(group)
    troubled: list[tuple[KeyGroup, RedisError]] = []
    sent = []
    for link, its_groups in by_link.items():
        commands = [command for group in its_groups for command in _commands(group, script, keys, arguments)]
        if write_concern:
            commands.append(write_concern.command())
        try:
            link.send(commands)
            sent.append((link, its_groups, len(commands)))
        except RedisError as error:
            troubled += [(group, error) for group in its_groups]
    for link, its_groups, count in sent:
        try:
            replies = link.receive(count)
        except RedisError as error:
            troubled += [(group, error) for group in its_groups]
        else:
            troubled += _take_replies(its_groups, replies, write_concern, results)
    return _retries(servers, troubled, keys, results, is_last=attempt == ATTEMPTS - 1)


def _commands(
    group: KeyGroup, script: Script, keys: Sequence[str], arguments: Sequence[bytes]
) -> list[Command]:
    indexes, each = group.indexes, script.arguments_per_key
    command: list[bytes | str | int] = ["EVALSHA", script.digest, len(indexes)]
    command += [keys[i] for i in indexes]
    if each:
        command += [value for i in indexes for value in arguments[each * i : each * i + each]]
    return [("ASKING",), command] if group.asking else [command]


def _take_replies(
    groups: Sequence[KeyGroup], replies: list[Any], write_concern: WriteConcern | None, results: ScriptResults
) -> list[tuple[KeyGroup, RedisError]]:
    """Add the replies to the results. Returns the groups whose reply is an error."""
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


def _retries(
    servers: Servers,
    troubled: Sequence[tuple[KeyGroup, RedisError]],
    keys: Sequence[str],
    results: ScriptResults,
    *,
    is_last: bool,
) -> list[KeyGroup]:
    retries: list[KeyGroup] = []
    for group, error in troubled:
        try:
            again = [] if is_last else _retry(servers, group, error, keys)
        except RedisError as another:
            again, error = [], another
        retries += again
        if not again:
            log.debug("a call of the store failed: %s", error)
            results.failures.update(dict.fromkeys(group.indexes, client_reason(error)))
    return retries


def _retry(servers: Servers, group: KeyGroup, error: RedisError, keys: Sequence[str]) -> list[KeyGroup]:
    """The group as it can be sent again; empty where that would not help."""
    if isinstance(error, NoScriptError):
        for source in SOURCES.values():
            group.link.ask("SCRIPT", "LOAD", source)
        return [group]
    if isinstance(error, MovedError):
        servers.refresh()
        return [KeyGroup(servers.link_to(error.host, error.port), group.indexes)]
    if isinstance(error, AskError):  # after MovedError, which redis-py derives from it
        return [KeyGroup(servers.link_to(error.host, error.port), group.indexes, asking=True)]
    if isinstance(error, Unreachable):
        servers.refresh()
        return servers.groups(keys, group.indexes)
    return []
