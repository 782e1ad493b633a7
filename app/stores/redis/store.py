"""Sessions in Redis or Valkey, shared by many replicas.

A replica's slab is a cache of what is here. Each value begins with a revision, drawn at random for every
commit; the store remembers which one each resident session was loaded or committed with, and a commit sets
a session only where that is still the one. Whoever was slower, was cut off, or was asleep meanwhile is told
so, and has changed nothing. Positions could not tell: two replicas reach the same one by different ways.

A wave costs one round trip and no read. A session is a key of its own, so everything is atomic a session,
and nothing is across sessions: a wave may be kept in part.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from redis.exceptions import RedisError

from app.errors import CarryoverError, ConfigError, SessionDamaged, StoreFailed
from app.stores import Block, Conflicts, Record, Tombstone
from app.stores.redis import values
from app.stores.redis.connections import Servers, all_keys, connect
from app.stores.redis.scan import PATTERN, KeyScan
from app.stores.redis.scripting import ScriptResults, WriteConcern, run_script
from app.stores.redis.scripts import COMMIT, COMPARE, COMPARE_AND_WRITE, HEADS, PROBE, VALUES, Script
from app.stores.redis.url import RedisUrl
from app.stores.redis.values import NO_REVISION

NEVER = float("inf")
LISTED_SECONDS = 60.0  # that a listing goes on with the names it began with
PROBES = tuple(f"carryover:probe:{i}" for i in range(8))  # enough to be on several servers of a cluster


class RedisStore:
    """A store that many replicas share.

    Parameters
    ----------
    where : one server, its Sentinels, or a cluster
    tombstone_seconds : how long a session that is gone is remembered
    acknowledged : who must hold a write before it counts
    timeout : seconds that a server has for an answer
    clock : seconds since 1970; those of all replicas should agree

    Raises
    ------
    ConfigError : the server cannot be reached, or cannot do what is asked of it
    """

    writes_through = True
    may_block = True
    tend_seconds = 1.0
    tend_due = False

    def __init__(
        self,
        url: RedisUrl,
        tombstone_seconds: float,
        write_concern: WriteConcern | None = None,
        timeout: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.url = url
        self.fenced = 0  # commits refused because another replica was ahead
        self._tombstone_seconds = tombstone_seconds
        self._write_concern = write_concern or WriteConcern()
        self._clock = clock
        self._revisions: dict[str, bytes] = {}  # of sessions as they were loaded or committed last
        self._tombstone_revisions: dict[str, bytes] = {}  # of tombstones, until their sessions are made anew
        self._count = 0
        self._scan = KeyScan()
        self._listing: tuple[str, float, list[str]] = ("", 0.0, [])  # last name told, when begun, all names
        try:
            self._servers: Servers = connect(url, timeout)
            # Tombstones are counted, too, until the first census is complete.
            self._count = sum(link.ask("DBSIZE") for link in self._servers.primaries())
            self._check_version()
        except RedisError as error:
            raise ConfigError(f"store {url} cannot be used: {error}") from error

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        """Keep each of these whose session is still as it was loaded or committed last.

        Returns those that were not kept: None where another replica was ahead, or what failed, and then
        nobody knows whether it was kept. What it was known by is forgotten: load it again.

        Raises
        ------
        StoreFailed : all of them failed
        """
        alive = [session for block in blocks for session in block.sessions]
        gone = [tombstone.session for tombstone in tombstones]
        fresh = values.draw_revisions(len(alive) + len(gone))
        arguments: list[bytes] = []
        for base, kept, value in zip(
            self._known_revisions(alive + gone),
            self._lifetimes(blocks, tombstones),
            _values(blocks, tombstones, fresh),
            strict=True,
        ):
            arguments += (base, kept, value)
        lost = self._compared(COMMIT, alive + gone, arguments)
        if lost:
            self.forget(lost)
        self._committed(dict(zip(alive, fresh, strict=False)), gone, lost)
        return lost

    def confirm(self, sessions: Sequence[str]) -> Conflicts:
        """Those of these sessions that are not as they were loaded or committed last; see `commit`."""
        script = COMPARE_AND_WRITE if self._write_concern else COMPARE
        changed = self._compared(script, sessions, self._known_revisions(sessions))
        self.forget(changed)
        return changed

    def forget(self, sessions: Iterable[str]) -> None:
        """These are resident no longer."""
        for session in sessions:
            self._revisions.pop(session, None)
            self._tombstone_revisions.pop(session, None)

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        wanted = list(sessions)
        records: list[Record] = []
        others: dict[str, Tombstone | CarryoverError] = {}
        for session, value in self._told(VALUES, wanted, others):
            self.forget((session,))
            if not value:
                continue
            try:
                found = values.unpack(session, value)
            except values.DamagedValue as error:
                others[session] = SessionDamaged(f"what the store holds of {session!r} is damaged: {error}")
                continue
            revision = value[: values.REVISION_BYTES]
            if isinstance(found, Record):
                self._revisions[session] = revision
                records.append(found)
            else:
                self._tombstone_revisions[session] = revision
                if found.removed >= self._clock() - self._tombstone_seconds:
                    others[session] = found
        return records, others

    def names(self, after: str, limit: int) -> list[tuple[str, str]]:
        """See `Store`. Redis keeps no order: a listing begins with a look at every name."""
        found: list[tuple[str, str]] = []
        listed = self._listed(after)
        start = bisect_right(listed, after)
        while len(found) < limit and start < len(listed):
            some = listed[start : start + limit - len(found)]
            start += len(some)
            found += [(session, seen[0]) for session, seen in self._glances(some) if seen]
        self._listing = (found[-1][0] if found else "", self._listing[1], listed)
        return found

    def expired(self, now: float, limit: int) -> list[str]:
        """See `Store`. Each call looks at a slice of the keys; whoever comes to the end begins anew."""
        late: list[str] = []
        try:
            some = self._scan.next_sessions(self._servers)
        except RedisError as error:
            raise self._failed(str(error)) from error
        for session, seen in self._glances(some):
            if seen:
                self._scan.live_count += 1
                if seen[1] < now:
                    late.append(session)
        if self._scan.is_complete():
            self._count = self._scan.restart()
        return late[:limit]

    def __len__(self) -> int:
        """How many sessions there were at the last count, and what this replica has changed since.

        Never below none: who deletes what another has created since the count takes off what was never added.
        """
        return max(self._count, 0)

    def tend(self) -> None:
        """Write a trial: a server that only answers may still take no commits."""
        results = run_script(self._servers, PROBE, PROBES, write_concern=self._write_concern)
        if not results.replies:
            raise self._failed(next(iter(results.failures.values())))

    def close(self) -> None:
        self._servers.close()

    def _known_revisions(self, sessions: Sequence[str]) -> list[bytes]:
        """What each of these is known by: the revision of its record, or of its tombstone."""
        found = list(map(self._revisions.get, sessions))
        if None not in found:
            return found  # type: ignore[return-value]
        remains = self._tombstone_revisions
        return [
            base or remains.get(session, NO_REVISION) for session, base in zip(sessions, found, strict=True)
        ]

    def _lifetimes(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> list[bytes]:
        now, remembered = self._clock(), self._tombstone_seconds
        lifetimes = [
            b"" if deadline == NEVER else values.lifetime_milliseconds(deadline, now, remembered)
            for block in blocks
            for deadline in block.deadlines
        ]
        return lifetimes + [values.lifetime_milliseconds(now, now, remembered)] * len(tombstones)

    def _committed(self, alive: dict[str, bytes], gone: Sequence[str], lost: Conflicts) -> None:
        """These are kept, but for the lost: the revisions of the living, and who is gone."""
        if lost:
            alive = {session: revision for session, revision in alive.items() if session not in lost}
            gone = [session for session in gone if session not in lost]
        if not alive.keys() <= self._revisions.keys():
            born = alive.keys() - self._revisions.keys()
            self._count += len(born)
            for session in born:
                self._tombstone_revisions.pop(session, None)
        self._revisions.update(alive)
        self._count -= sum(self._revisions.pop(session, None) is not None for session in gone)
        for session in gone:
            self._tombstone_revisions.pop(session, None)

    def _compared(self, script: Script, sessions: Sequence[str], arguments: Sequence[bytes]) -> Conflicts:
        results = run_script(self._servers, script, self._keys(sessions), arguments, self._write_concern)
        lost: dict[str, StoreFailed | None] = {
            sessions[indexes[i]]: None for indexes, reply in results.replies for i in reply
        }
        if script is COMMIT:
            self.fenced += len(lost)
        lost.update(self._failures(sessions, results))
        return lost

    def _told(
        self, script: Script, sessions: Sequence[str], failed: dict[str, Tombstone | CarryoverError]
    ) -> list[tuple[str, bytes]]:
        results = run_script(self._servers, script, self._keys(sessions))
        failed.update(self._failures(sessions, results))
        return [
            (sessions[i], value)
            for indexes, reply in results.replies
            for i, value in zip(indexes, reply, strict=True)
        ]

    def _failures(self, sessions: Sequence[str], results: ScriptResults) -> dict[str, StoreFailed]:
        """Why some could not be asked about.

        Raises
        ------
        StoreFailed : none of them could
        """
        if results.failures and not results.replies:
            raise self._failed(next(iter(results.failures.values())))
        return {sessions[i]: self._failed(why) for i, why in results.failures.items()}

    def _glances(self, sessions: Sequence[str]) -> list[tuple[str, tuple[str, float] | None]]:
        unread: dict[str, Tombstone | CarryoverError] = {}
        return [(session, values.peek(head)) for session, head in self._told(HEADS, sessions, unread)]

    def _listed(self, after: str) -> list[str]:
        """Every name, in order: those of the listing that this page goes on with, or as they are now."""
        last, begun, listed = self._listing
        now = time.monotonic()
        if after and after == last and now < begun + LISTED_SECONDS:
            return listed
        try:
            everywhere = [all_keys(link, PATTERN) for link in self._servers.primaries()]
            listed = sorted({values.session_of(name) for some in everywhere for name in some})
        except RedisError as error:
            raise self._failed(str(error)) from error
        self._listing = ("", now, listed)
        return listed

    def _keys(self, sessions: Sequence[str]) -> list[str]:
        return [values.key(session) for session in sessions]

    def _failed(self, why: str) -> StoreFailed:
        return StoreFailed(f"the store {self.url} failed: {why}")

    def _check_version(self) -> None:
        """Say at start, not at the first commit, that a server is too old for what is asked of it."""
        if not self._write_concern.on_disk:
            return
        for link in self._servers.primaries():
            if link.ask("COMMAND", "INFO", "WAITAOF")[0] is None:
                raise ConfigError(f"store {self.url}: this server has no WAITAOF (Redis 7.2, Valkey 8)")
            told = link.ask("CONFIG", "GET", "appendonly")
            if told[1:] != [b"yes"]:
                raise ConfigError(f"store {self.url}: to wait for its disk, the server needs appendonly yes")


def _values(blocks: Sequence[Block], tombstones: Sequence[Tombstone], fresh: Sequence[bytes]) -> list[bytes]:
    """What each of these is kept as, under its fresh revision."""
    revisions = iter(fresh)
    found = [
        value for block in blocks for value in values.pack_block(block, list(islice(revisions, len(block))))
    ]
    return found + [
        values.pack_tombstone(one, revision) for one, revision in zip(tombstones, revisions, strict=True)
    ]
