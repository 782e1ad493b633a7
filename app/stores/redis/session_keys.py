"""The scripts that a store runs on the keys of sessions, and the errors that it reports when they fail."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from app.errors import StoreFailed
from app.stores import Conflicts
from app.stores.redis import values
from app.stores.redis.connections import Servers
from app.stores.redis.scripting import ScriptResults, WriteConcern, run_script
from app.stores.redis.scripts import HEADS, PROBE, VALUES, Script
from app.stores.redis.url import RedisUrl

log = logging.getLogger("carryover.store")


class SessionKeys:
    """The keys of sessions on these servers.

    Parameters
    ----------
    url : named in the log when the servers fail
    servers : run the scripts
    write_concern : what must hold a write before it counts
    """

    def __init__(self, url: RedisUrl, servers: Servers, write_concern: WriteConcern) -> None:
        self._url = url
        self._servers = servers
        self._write_concern = write_concern
        self._is_failing = False

    def compare(self, script: Script, sessions: Sequence[str], arguments: Sequence[bytes]) -> Conflicts:
        """Run a script that names the sessions whose revision is another one: None for each, or its error.

        Raises
        ------
        StoreFailed : it failed for all sessions
        """
        results = run_script(self._servers, script, _keys(sessions), arguments, self._write_concern)
        lost: dict[str, StoreFailed | None] = {
            sessions[indexes[i]]: None for indexes, reply in results.replies for i in reply
        }
        lost.update(self._failures(sessions, results))
        return lost

    def read(self, sessions: Sequence[str]) -> tuple[list[tuple[str, bytes]], dict[str, StoreFailed]]:
        """The value of each session that can be read, empty where it has none, and the errors of the others.

        Raises
        ------
        StoreFailed : it failed for all sessions
        """
        return self._run(VALUES, sessions)

    def peek(self, sessions: Sequence[str]) -> list[tuple[str, tuple[str, float] | None]]:
        """Fingerprint and deadline of each of these sessions that can be read; None where it is gone.

        Raises
        ------
        StoreFailed : it failed for all sessions
        """
        heads, _ = self._run(HEADS, sessions)
        return [(session, values.peek(head)) for session, head in heads]

    def write_trial(self, keys: Sequence[str], value: bytes) -> None:
        """Write this value to these keys, which are not those of sessions.

        Raises
        ------
        StoreFailed : no server kept it
        """
        results = run_script(self._servers, PROBE, keys, [value] * len(keys), self._write_concern)
        if not results.replies:
            raise self.failed(next(iter(results.failures.values())))

    def read_times(self, keys: Sequence[str]) -> list[float]:
        """The times that `write_trial` wrote to these keys."""
        results = run_script(self._servers, VALUES, keys)
        return [float(value) for _, reply in results.replies for value in reply if value]

    def failed(self, why: str) -> StoreFailed:
        """The error for clients, which does not name the server; the log does, once until it works again."""
        if not self._is_failing:
            log.error("store %s failed: %s", self._url, why)
        self._is_failing = True
        return StoreFailed(f"the store failed: {why}")

    def mark_working(self) -> None:
        """Log the next failure again."""
        self._is_failing = False

    def _run(
        self, script: Script, sessions: Sequence[str]
    ) -> tuple[list[tuple[str, bytes]], dict[str, StoreFailed]]:
        results = run_script(self._servers, script, _keys(sessions))
        failures = self._failures(sessions, results)
        found = [
            (sessions[i], value)
            for indexes, reply in results.replies
            for i, value in zip(indexes, reply, strict=True)
        ]
        return found, failures

    def _failures(self, sessions: Sequence[str], results: ScriptResults) -> dict[str, StoreFailed]:
        if results.failures and not results.replies:
            raise self.failed(next(iter(results.failures.values())))
        return {sessions[i]: self.failed(why) for i, why in results.failures.items()}


def _keys(sessions: Sequence[str]) -> list[str]:
    return [values.key(session) for session in sessions]
