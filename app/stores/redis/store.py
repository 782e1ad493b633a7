"""Sessions in Redis or Valkey, shared by many replicas.

A replica's slab is a cache of the store. Each value begins with a revision, drawn at random for every commit.
The store object remembers the revision of each resident session, and a commit sets a session only while the
server still has that revision. A replica that was slower, cut off or paused learns that, and has changed
nothing. Positions would not do: two replicas can reach the same position with different chunks.

A batch costs one round trip and no read. Each session is a key of its own and is committed atomically; a
batch is not, and may be kept in part. The names of the sessions are kept in order beside them: `name_index`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from redis.exceptions import RedisError

from app.errors import CarryoverError, ConfigError, SessionDamaged
from app.session.names import id_of
from app.stores import Block, Conflicts, NamePage, NamesQuery, Record, Tombstone, find_unwritable
from app.stores.redis import values
from app.stores.redis.connections import Servers, client_reason, connect
from app.stores.redis.label_listing import LabelListing
from app.stores.redis.name_index import NameIndex, NamesFailed
from app.stores.redis.name_listing import NameListing
from app.stores.redis.requirements import check_servers
from app.stores.redis.scan import KeyScan
from app.stores.redis.scripting import WriteConcern
from app.stores.redis.scripts import COMMIT, COMPARE, COMPARE_AND_WRITE
from app.stores.redis.session_keys import SessionKeys
from app.stores.redis.url import RedisUrl
from app.stores.redis.values import NO_REVISION

NEVER = float("inf")
HELD = "carryover:held"
PROBES = tuple(f"carryover:probe:{i}" for i in range(8))  # enough to be on several servers of a cluster


class RedisStore:
    """A store that many replicas share.

    Parameters
    ----------
    url : of a single server, of Sentinels, or of a cluster
    tombstone_seconds : how long a session that is gone is remembered
    write_concern : what must hold a write before it counts
    timeout : seconds that a server has for an answer
    clock : seconds since 1970; those of all replicas should agree

    Raises
    ------
    ConfigError : the server cannot be reached, does not support the write concern, or may evict sessions
    """

    writes_through = True
    may_block = True
    upkeep_seconds = 1.0
    upkeep_due = False

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
        self._revisions: dict[str, bytes] = {}  # of sessions, as they were loaded or committed last
        self._tombstone_revisions: dict[str, bytes] = {}  # of tombstones, until a session takes their place
        self._count = 0
        self._scan = KeyScan()
        try:
            self._servers: Servers = connect(url, timeout)
            self._keys = SessionKeys(url, self._servers, self._write_concern)
            self._names = NameIndex(self._servers)
            self._name_listing = NameListing(self._names, self._keys)
            self._label_listing = LabelListing(self._names, self._keys)
            check_servers(url, self._servers, self._write_concern)
            self._names.build()
            self._count = self._names.count()
            self.last_saved = max(self._keys.read_times(PROBES), default=None)
            self.no_expiry_before = max(self._keys.read_times((HELD,)), default=None)
        except (RedisError, NamesFailed) as error:
            raise ConfigError(f"store {url} cannot be used: {error}") from error

    def commit(self, blocks: Sequence[Block], tombstones: Sequence[Tombstone]) -> Conflicts:
        """Keep each of these whose session has not changed since it was loaded or committed here.

        Returns the sessions that were not kept: None where another replica was ahead, or an error, and then
        it is unknown whether the session was kept. Their revisions are forgotten: load them again.

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
        moved, relabelled = self._name_listing.add(blocks), self._label_listing.add(blocks)
        lost = self._keys.compare(COMMIT, alive + gone, arguments)
        self._name_listing.remove(moved, gone, lost)
        self._label_listing.remove(relabelled, gone, lost)
        if lost:
            self.fenced += sum(error is None for error in lost.values())
            self.forget_revisions(lost)
        self._remember(dict(zip(alive, fresh, strict=False)), gone, lost)
        return lost

    def unwritable(self, blocks: Sequence[Block]) -> dict[str, CarryoverError]:
        def seal(block: Block) -> None:
            self._lifetimes((block,), ())
            values.pack_block(block, [NO_REVISION])

        return find_unwritable(blocks, seal)

    def confirm(self, sessions: Sequence[str]) -> Conflicts:
        """Those of these sessions that have changed since they were loaded or committed: see `commit`."""
        script = COMPARE_AND_WRITE if self._write_concern else COMPARE
        changed = self._keys.compare(script, sessions, self._known_revisions(sessions))
        self.forget_revisions(changed)
        return changed

    def forget_revisions(self, sessions: Iterable[str]) -> None:
        """Forget the revisions of these sessions, which are no longer resident."""
        for session in sessions:
            self._revisions.pop(session, None)
            self._name_listing.forget(session)
            self._label_listing.forget(session)
            self._tombstone_revisions.pop(session, None)

    def load(self, sessions: Iterable[str]) -> tuple[list[Record], dict[str, Tombstone | CarryoverError]]:
        names = list(sessions)
        records: list[Record] = []
        stored, failures = self._keys.read(names)
        others: dict[str, Tombstone | CarryoverError] = dict(failures)
        for session, value in stored:
            self.forget_revisions((session,))
            if not value:
                continue
            try:
                found = values.unpack(session, value)
            except values.DamagedValue as error:
                others[session] = SessionDamaged(f"what is stored of {id_of(session)!r} is damaged: {error}")
                continue
            revision = value[: values.REVISION_BYTES]
            if isinstance(found, Record):
                self._revisions[session] = revision
                self._name_listing.note(session, found.fingerprint)
                self._label_listing.note(found)
                records.append(found)
            else:
                self._tombstone_revisions[session] = revision
                if found.removed >= self._clock() - self._tombstone_seconds:
                    others[session] = found
        return records, others

    def names(self, query: NamesQuery) -> NamePage:
        return self._label_listing.page(query) if query.labels else self._name_listing.page(query)

    def expired(self, now: float, limit: int) -> list[str]:
        """See `Store`. Each call looks at the next slice of the keys, and begins again after the last."""
        found: list[str] = []
        names: dict[str, list[str]] = {}
        try:
            sessions = self._scan.next_sessions(self._servers)
        except RedisError as error:
            raise self._keys.failed(client_reason(error)) from error
        for session, seen in self._keys.peek(sessions):
            if seen:
                fingerprint, deadline = seen
                self._scan.live_count += 1
                names.setdefault(fingerprint, []).append(session)
                if deadline < now:
                    found.append(session)
        self._names.repair(names)
        self._names.remove_stale()
        if self._scan.is_complete():
            self._count = self._scan.restart()
        return found[:limit]

    def __len__(self) -> int:
        """How many sessions the last walk has counted, and what this replica has changed since.

        Never below 0: a session that another replica created after the count is subtracted when it is deleted
        here, though it was never added.
        """
        return max(self._count, 0)

    def tend(self) -> None:
        """Write a trial: a server that answers may still refuse commits."""
        # The next start reads when sessions were last written.
        self._keys.write_trial(PROBES, b"%r" % self._clock())
        self._keys.mark_working()

    def save_no_expiry_before(self, before: float | None) -> None:
        self.no_expiry_before = before
        self._keys.write_trial((HELD,), b"" if before is None else b"%r" % before)

    def close(self) -> None:
        self._servers.close()

    def _known_revisions(self, sessions: Sequence[str]) -> list[bytes]:
        """The revision of each session's record, or of its tombstone."""
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

    def _remember(self, alive: dict[str, bytes], gone: Sequence[str], lost: Conflicts) -> None:
        """Remember the revisions of what was kept."""
        if lost:
            alive = {session: revision for session, revision in alive.items() if session not in lost}
            gone = [session for session in gone if session not in lost]
        if not alive.keys() <= self._revisions.keys():
            created = alive.keys() - self._revisions.keys()
            self._count += len(created)
            for session in created:
                self._tombstone_revisions.pop(session, None)
        self._revisions.update(alive)
        self._count -= sum(self._revisions.pop(session, None) is not None for session in gone)
        for session in gone:
            self._tombstone_revisions.pop(session, None)


def _values(blocks: Sequence[Block], tombstones: Sequence[Tombstone], fresh: Sequence[bytes]) -> list[bytes]:
    """The value of each of these with its new revision."""
    revisions = iter(fresh)
    found = [
        value for block in blocks for value in values.pack_block(block, list(islice(revisions, len(block))))
    ]
    return found + [
        values.pack_tombstone(tombstone, revision)
        for tombstone, revision in zip(tombstones, revisions, strict=True)
    ]
