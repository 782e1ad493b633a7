"""Every session there is: which slab and row it has, and what comes in from the store or leaves for it.

Reading here is free; every change is either one that no client can see (a session that moves between
slab and store) or is first staged in a `Batch`.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal

import numpy as np

from app.config import Settings
from app.engine import exactly_once
from app.engine.batch import Batch, SessionExpired, touch
from app.engine.model_slabs import ModelSlabs
from app.errors import (
    CarryoverError,
    OverLimit,
    StoreFailed,
    TooManySessions,
)
from app.jobs.jobs import AdvanceMany, Job
from app.jobs.session_list import SessionNames
from app.observability.metrics import Metrics
from app.session.names import id_of, tenant_of
from app.session.rows import Rows, pack, scalar, unpack
from app.session.slab import Slab
from app.stores import Block, Record, SharedStore, Store, Tombstone
from models.arrays import Ints

log = logging.getLogger("carryover.engine")

NOBODY: frozenset[str] = frozenset()
SLAB_BYTES = 2**36  # of address space: a covariance a session must not ask for more than there is
CENSUS_PAGE = 10_000
SHARE_SECONDS = 60  # after which a tenant that has its share of sessions may ask again

CallStore = Callable[..., Awaitable[Any]]


class Residents:
    """The sessions in memory, over the store that keeps the others.

    Parameters
    ----------
    models : the slabs that sessions are resident in
    store : where sessions rest that are not resident
    call_store : how to call the store: at once, or from a thread
    metrics : where it counts what happens
    """

    def __init__(
        self,
        models: ModelSlabs,
        store: Store,
        settings: Settings,
        call_store: CallStore,
        metrics: Metrics | None = None,
    ) -> None:
        self.models = models
        self.store = store
        self.shared_store = store if isinstance(store, SharedStore) else None
        self.settings = settings
        self.call_store = call_store
        self.metrics = metrics or Metrics()
        self.sessions_per_tenant: Counter[str] = (
            Counter()
        )  # sessions of each tenant, those about to be created too
        self.session_limits: Mapping[
            str, int
        ] = {}  # the most that a tenant may have, where that is less than ours

    def __len__(self) -> int:
        return len(self.store) if self.store.writes_through else len(self.store) + self.resident

    @property
    def resident(self) -> int:
        return sum(map(len, self.models.slabs.values()))

    def move_to_newest(
        self, session: str, slab: Slab, row: int, batch: Batch, staying: Iterable[str]
    ) -> tuple[Slab, int]:
        """Slab and row of a session that starts anew: of an older network nothing is needed any more."""
        newest = self.models.successor(slab)
        if newest is slab:
            return slab, row
        before = slab.headers[row].copy()
        carries = newest.forecaster.initial_carries_from(slab.forecaster, slab.carries[row : row + 1])
        batch.previous_slabs[session] = slab
        row = self.create(session, newest, None, batch, staying)
        for name in ("position", "epoch", "created", "ttl"):
            newest.headers[name][row] = before[name]
        newest.carries[row] = carries[0]
        return newest, row

    def find(self, session: str) -> tuple[Slab, int] | None:
        """Slab and row of a resident session."""
        for slab in self.models.slabs.values():
            row = slab.index.get(session)
            if row is not None:
                return slab, row
        return None

    def find_all(self, job: AdvanceMany, now: float) -> tuple[Slab, Ints] | None:
        """Slab and rows of the job's sessions, all resident in one, of its model and not expired; or None."""
        found = self.find(job.sessions[0])
        if found is None:
            return None
        slab = found[0]
        if job.model is not None and job.model != slab.forecaster.artifact.name:
            return None
        try:
            rows = job.sessions.rows(slab.index, slab.generation)
        except KeyError:
            return None
        return None if slab.earliest_deadline(rows) < now else (slab, rows)

    def require(
        self, session: str, batch: Batch, at: int | None = None, epoch: int | None = None
    ) -> tuple[Slab, int]:
        """Slab and row of a session that must be there, in step with the client.

        Raises
        ------
        UnknownSession, SessionGone, OutOfStep
        Late : it has expired and must be buried first
        """
        found = self.find(session)
        if found is None:
            raise exactly_once.missing_session_error(session, batch.tombstones.get(session))
        slab, row = found
        if slab.headers["deadline"][row] < batch.now:
            raise SessionExpired
        position = scalar(slab.headers, "position", row)
        exactly_once.check_epoch(session, scalar(slab.headers, "epoch", row), epoch, position)
        exactly_once.check_position(session, position, at)
        return slab, row

    async def make_resident(self, jobs: Iterable[Job], sessions: SessionNames, batch: Batch) -> None:
        """Give every session of the wave that rests in the store a row; fetch the tombstones of the gone."""
        absent = sessions
        for job in jobs:
            if type(job) is AdvanceMany and (found := self.find_all(job, batch.now)) is not None:
                batch.bulk_rows[id(job)] = found  # they stay, however many come in
                named = job.sessions.unique
                absent = absent - named if absent is not named else NOBODY
        for slab in self.models.slabs.values():
            absent = absent.difference(slab.index)  # for a dict, a look-up for each session of the wave
        if not absent:
            return
        batch.lookups = absent
        records, batch.tombstones = await self.call_store(self.store.load, absent)
        by_model: dict[str, list[Record]] = {}
        for record in records:
            by_model.setdefault(record.fingerprint, []).append(record)
        for fingerprint, some in by_model.items():
            known = self.models.known(fingerprint)
            if known is not None:
                self._restore(known, some, sessions)
            else:
                batch.tombstones |= {record.session: _not_loaded(record) for record in some}

    def make_room(self, slab: Slab, count: int, staying: Iterable[str]) -> None:
        """See to free rows. Who has to leave goes to the store, and is none of those who stay."""
        if slab.free_rows >= count:
            return
        rows = [row for session in staying if (row := slab.index.get(session)) is not None]
        slab.pin(rows)
        leaving = slab.least_recently_used(count - slab.free_rows + slab.capacity // 256)
        slab.unpin(rows)
        if not self.store.writes_through:
            self.store.commit([block(slab, leaving, slab.read(slab.rows_of(leaving)))], [])
        if self.shared_store is not None:
            self.shared_store.forget(leaving)
        self.metrics.evicted += len(leaving)
        for session in leaving:
            slab.remove(session)

    def create(
        self, session: str, slab: Slab, ttl_seconds: float | None, batch: Batch, staying: Iterable[str]
    ) -> int:
        """A row for a new session, to be published with the wave.

        Raises
        ------
        TooManySessions
        """
        return int(self.create_many((session,), slab, ttl_seconds, batch, staying)[0])

    def create_many(
        self,
        sessions: Sequence[str],
        slab: Slab,
        ttl_seconds: float | None,
        batch: Batch,
        staying: Iterable[str],
    ) -> Ints:
        """Rows for new sessions, to be published with the wave.

        Raises
        ------
        TooManySessions, OverLimit
        SessionDamaged, StoreFailed : one of them is there, and cannot be read
        """
        for session in sessions if batch.tombstones else ():
            if isinstance(why := batch.tombstones.get(session), CarryoverError):
                raise why
        self._check_room(sessions, batch)
        self.make_room(slab, len(sessions), staying)
        rows = np.array([slab.take() for _ in sessions])
        self.sessions_per_tenant.update(map(tenant_of, sessions))
        headers = np.zeros(len(rows), slab.headers.dtype)
        # Zero stands for no epoch where clients claim one.
        headers["epoch"] = np.frombuffer(secrets.token_bytes(8 * len(rows)), np.uint64) | 1
        headers["created"] = batch.now
        headers["ttl"] = ttl_seconds if ttl_seconds is not None else self.settings.ttl_seconds
        touch(headers, batch.now)
        slab.headers[rows] = headers
        batch.created.update(zip(sessions, zip(repeat(slab), rows.tolist()), strict=False))
        return rows

    def _check_room(self, sessions: Sequence[str], batch: Batch) -> None:
        """Refuse more than the server keeps, or than the share of the one tenant whose they all are."""
        coming = len(sessions)
        if batch.previous_slabs:  # who takes the place of one that is there is no one more
            coming -= len(batch.previous_slabs.keys() & set(sessions))
        if coming and len(self) + len(batch.created) + coming > self.settings.max_sessions:
            raise TooManySessions(f"the server keeps at most {self.settings.max_sessions} sessions")
        tenant = tenant_of(sessions[0])
        most = self.session_limits.get(tenant)
        if most is not None and coming and self.sessions_per_tenant[tenant] + coming > most:
            raise OverLimit(
                f"this key may have at most {most} sessions", SHARE_SECONDS, quota="sessions", limit=most
            )

    def remove(
        self, session: str, slab: Slab, row: int, why: Literal["expired", "deleted"], batch: Batch
    ) -> None:
        position = scalar(slab.headers, "position", row)
        batch.removed.append((slab, Tombstone(session, position, why, batch.now)))

    async def count_sessions(self) -> None:
        """Count the sessions of each tenant that the store has kept: once, before the first tick."""
        after = ""
        while names := await self.call_store(self.store.names, after, CENSUS_PAGE):
            self.sessions_per_tenant.update(tenant_of(name) for name, _ in names)
            after = names[-1][0]

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(name, model) of up to `limit` sessions behind `after` that begin with `prefix`, in order."""
        found: list[tuple[str, str]] = []
        while len(found) < limit:
            page = await self._page(after, limit)
            mine = [(session, name) for session, name in page if session.startswith(prefix)]
            found += [(session, name) for session, name in mine if model is None or name == model]
            if len(page) < limit or len(mine) < len(page):
                break
            after = page[-1][0]
        return found[:limit]

    async def _page(self, after: str, limit: int) -> list[tuple[str, str]]:
        stored = await self.call_store(self.store.names, after, limit)
        found = [(session, self.models.model_of(print_)) for session, print_ in stored]
        if not self.store.writes_through:
            for slab in self.models.slabs.values():
                resident = zip(slab.names.irange(after, inclusive=(False, True)), range(limit), strict=False)
                found += [(session, slab.forecaster.artifact.name) for session, _ in resident]
        return sorted(found)[:limit]

    def _restore(self, slab: Slab, some: Sequence[Record], staying: Iterable[str]) -> None:
        self.make_room(slab, len(some), staying)
        values = unpack([record.body for record in some], slab.recent_chunks, slab.forecaster)
        self.metrics.restored += len(some)
        rows = np.array([slab.take() for _ in some])
        slab.write(rows, values)
        for record, row in zip(some, rows.tolist(), strict=True):
            slab.publish(record.session, row)


def block(slab: Slab, sessions: Sequence[str], rows: Rows) -> Block:
    """What the store keeps of these sessions."""
    positions, deadlines = rows.headers["position"].tolist(), rows.headers["deadline"].tolist()
    return Block(slab.forecaster.fingerprint, sessions, positions, deadlines, pack(rows))


def _not_loaded(record: Record) -> StoreFailed:
    return StoreFailed(
        f"session {id_of(record.session)!r} belongs to model {record.fingerprint[:12]}, which is not loaded",
        fingerprint=record.fingerprint,
    )
