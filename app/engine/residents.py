"""The sessions in memory: where each is, how it is loaded from the store, and how it is evicted.

Lookups do not change state. Loading and evicting do not change a session's contents. Every other change is
first recorded in a `Batch`, and becomes visible when the batch is committed. Until then no lookup finds the
row of a new session. Two modules change rows without a batch: `app.engine.direct` and
`app.engine.warm_start`.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import repeat
from typing import Any, Literal

import numpy as np

from app.config import Settings
from app.engine import exactly_once
from app.engine.batch import Batch, SessionExpired, touch
from app.engine.model_slabs import ModelSlabs
from app.engine.session_counts import SessionCounts
from app.errors import CarryoverError, SessionDamaged, StepFailed, StoreFailed
from app.jobs.jobs import AdvanceMany
from app.observability.metrics import Metrics
from app.session.names import id_of, tenant_of
from app.session.notes import NO_NOTES
from app.session.rows import Rows, pack, scalar, unpack
from app.session.slab import Slab
from app.stores import Block, NamesQuery, Record, SharedStore, Store, Tombstone
from models.arrays import Ints

log = logging.getLogger("carryover.engine")

NO_SESSIONS: frozenset[str] = frozenset()
NAMES_PER_CALL = 10_000  # names read in one call while the stored sessions are counted

CallStore = Callable[..., Awaitable[Any]]


class Residents:
    """The sessions in memory, above the store that keeps the others.

    Parameters
    ----------
    models : the slabs that sessions are resident in
    store : keeps the sessions that are not resident
    call_store : calls a method of the store, at once or from a thread
    metrics : counts evictions and the like
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
        self.ttl_seconds = settings.ttl_seconds  # default for sessions created without a time to live
        self.call_store = call_store
        self.metrics = metrics or Metrics()
        # Stored sessions with an earlier deadline are kept. After a jump of the clock it is unknown whether
        # the time really passed (see `app.engine.idle_time`).
        self.no_expiry_before = -math.inf
        self.counts = SessionCounts(settings.max_sessions)

    def __len__(self) -> int:
        return len(self.store) if self.store.writes_through else len(self.store) + self.resident

    @property
    def resident(self) -> int:
        return sum(map(len, self.models.slabs.values()))

    async def count_sessions(self) -> None:
        """Count each tenant's sessions in the store. Called once, before the first tick."""
        after = ""
        while found := (await self.call_store(self.store.names, NamesQuery(after, NAMES_PER_CALL))).found:
            self.counts.add(name for name, _ in found)
            after = found[-1][0]

    def find(self, session: str) -> tuple[Slab, int] | None:
        """Slab and row of a resident session."""
        for slab in self.models.slabs.values():
            row = slab.index.get(session)
            if row is not None:
                return slab, row
        return None

    def find_all(self, job: AdvanceMany, now: float) -> tuple[Slab, Ints] | None:
        """Slab and rows of the job's sessions, or None.

        None unless all of them are resident in one slab, which is of the job's model, and none has expired.
        """
        found = self.find(job.sessions[0])
        if found is None:
            return None
        slab = found[0]
        if job.model is not None and job.model != slab.forecaster.artifact.name:
            return None
        rows = job.sessions.rows(slab)
        return None if rows is None or slab.earliest_deadline(rows) < now else (slab, rows)

    def require(
        self, session: str, batch: Batch, at: int | None = None, epoch: int | None = None
    ) -> tuple[Slab, int]:
        """Slab and row of a session that must exist, at the position and of the epoch that the client claims.

        Raises
        ------
        UnknownSession, SessionGone, OutOfStep
        SessionExpired : its time to live has passed; the engine removes it and then runs the job again
        """
        found = self.find(session)
        if found is None:
            raise exactly_once.missing_session_error(session, batch.missing.get(session))
        slab, row = found
        if slab.headers["deadline"][row] < batch.now:
            raise SessionExpired
        position = scalar(slab.headers, "position", row)
        exactly_once.check_epoch(session, scalar(slab.headers, "epoch", row), epoch, position)
        exactly_once.check_position(session, position, at)
        return slab, row

    async def make_resident(self, batch: Batch) -> None:
        """Load the batch's sessions that are not resident; `batch.missing` says why some cannot be loaded."""
        absent = batch.sessions
        for job in batch.jobs:
            if type(job) is AdvanceMany and (found := self.find_all(job, batch.now)) is not None:
                batch.bulk_rows[id(job)] = found  # the rows stay valid: sessions of the batch are not evicted
                names = job.sessions.unique
                absent = absent - names if absent is not names else NO_SESSIONS
        for slab in self.models.slabs.values():
            absent = absent.difference(slab.index)  # one lookup in the dict for each session of the batch
        if not absent:
            return
        batch.lookups = absent
        records, batch.missing = await self.call_store(self.store.load, absent)
        by_model: dict[str, list[Record]] = {}
        for record in records:
            by_model.setdefault(record.fingerprint, []).append(record)
        for fingerprint, records_of_model in by_model.items():
            model_slab = self.models.find_slab(fingerprint)
            if model_slab is not None:
                try:
                    self._restore(model_slab, records_of_model, batch)
                except StoreFailed:
                    self._restore_one_by_one(model_slab, records_of_model, batch)
            else:
                batch.missing |= {
                    record.session: _model_not_loaded_error(record) for record in records_of_model
                }

    def _restore(self, slab: Slab, records: Sequence[Record], batch: Batch) -> None:
        self.make_room(slab, len(records), batch.not_evictable)
        values = unpack([record.body for record in records], slab.recent_chunks, slab.forecaster)
        self.metrics.restored += len(records)
        deadlines = values.headers["deadline"]
        kept = deadlines < self.no_expiry_before
        if kept.any():  # the idle time of these sessions begins again
            deadlines[kept] = batch.now + values.headers["ttl"][kept]
        rows = np.array([slab.take() for _ in records])
        slab.write(rows, values)
        for record, row in zip(records, rows.tolist(), strict=True):
            slab.publish(record.session, row)

    def _restore_one_by_one(self, slab: Slab, records: Sequence[Record], batch: Batch) -> None:
        """Restore each readable record. A record that cannot be read fails only its own session."""
        for record in records:
            try:
                self._restore(slab, [record], batch)
            except StoreFailed as error:
                batch.missing[record.session] = SessionDamaged(error.detail)
                if not self.store.writes_through:  # loading removed the record from the store, so put it back
                    self.store.commit([record.block()], [])

    def make_room(self, slab: Slab, count: int, not_evictable: Iterable[str]) -> None:
        """Free at least `count` rows by evicting the least recently used sessions.

        Raises
        ------
        StoreFailed : the rows could not be freed
        """
        if slab.free_rows >= count:
            return
        rows = [row for session in not_evictable if (row := slab.index.get(session)) is not None]
        slab.pin(rows)
        evicted = slab.least_recently_used(count - slab.free_rows + slab.capacity // 256)
        slab.unpin(rows)
        if not self.store.writes_through:
            evicted = self._store_evicted(slab, evicted)
        if self.shared_store is not None:
            self.shared_store.forget_revisions(evicted)
        self.metrics.evicted += len(evicted)
        for session in evicted:
            slab.remove(session)
        if slab.free_rows < count:
            raise StoreFailed(
                "no row is free: the sessions chosen for eviction could not be written to the store"
            )

    def _store_evicted(self, slab: Slab, evicted: list[str]) -> list[str]:
        """Write evicted sessions to a store that gets sessions only on eviction, not with every commit.

        Returns the sessions that were written.
        """
        blocks, failed = make_blocks(slab, evicted, slab.read(slab.rows_of(evicted)))
        self.store.commit(blocks, [])
        if failed:
            log.error("%d sessions cannot be stored and stay resident", len(failed))
            slab.unpin(slab.rows_of(failed))  # as if just used: the next eviction chooses other sessions
        return [session for session in evicted if session not in failed]

    def create(self, session: str, slab: Slab, ttl_seconds: float | None, batch: Batch) -> int:
        """Take a row for a new session, which is published with the batch. Returns the row.

        Raises
        ------
        TooManySessions, OverLimit
        SessionDamaged, StoreFailed : the session exists and cannot be read
        """
        return int(self.create_many((session,), slab, ttl_seconds, batch)[0])

    def create_many(
        self, sessions: Sequence[str], slab: Slab, ttl_seconds: float | None, batch: Batch
    ) -> Ints:
        """Take rows for new sessions of one tenant, which are published with the batch. Returns the rows.

        Raises
        ------
        TooManySessions, OverLimit
        SessionDamaged, StoreFailed : one of them exists and cannot be read
        """
        for session in sessions if batch.missing else ():
            if isinstance(error := batch.missing.get(session), CarryoverError):
                raise error
        new_count = len(sessions)
        if batch.previous_slabs:  # a session that replaces an existing one does not add to the count
            new_count -= len(batch.previous_slabs.keys() & set(sessions))
        self.counts.check_room(tenant_of(sessions[0]), new_count, len(self) + len(batch.created))
        self.make_room(slab, len(sessions), batch.not_evictable)
        rows = np.array([slab.take() for _ in sessions])
        self.counts.add(sessions)
        headers = np.zeros(len(rows), slab.headers.dtype)
        # Odd, so that no epoch is 0: a client that does not know the epoch sends 0.
        headers["epoch"] = np.frombuffer(secrets.token_bytes(8 * len(rows)), np.uint64) | 1
        headers["created"] = batch.now
        headers["ttl"] = ttl_seconds if ttl_seconds is not None else self.ttl_seconds
        touch(headers, batch.now)
        slab.headers[rows] = headers
        if slab.forecaster.scales is not None:
            for session, row in zip(sessions, rows.tolist(), strict=True):
                slab.forecaster.begin_series(slab.carries[row], id_of(session))
        batch.created.update(zip(sessions, zip(repeat(slab), rows.tolist()), strict=False))
        return rows

    def move_to_newest(self, session: str, slab: Slab, row: int, batch: Batch) -> tuple[Slab, int]:
        """On reset, move the session to the newest network of its model. Returns its slab and row there."""
        newest = self.models.successor(slab)
        if newest is slab:
            return slab, row
        before, notes = slab.headers[row].copy(), slab.notes.get(row, NO_NOTES)
        carries = newest.forecaster.initial_carries_from(slab.forecaster, slab.carries[row : row + 1])
        batch.previous_slabs[session] = slab
        row = self.create(session, newest, None, batch)
        for name in ("position", "epoch", "created", "ttl"):
            newest.headers[name][row] = before[name]
        newest.carries[row] = carries[0]
        newest.set_notes(row, notes)
        return newest, row

    def remove(
        self, session: str, slab: Slab, row: int, reason: Literal["expired", "deleted"], batch: Batch
    ) -> None:
        position = scalar(slab.headers, "position", row)
        batch.removed.append((slab, Tombstone(session, position, reason, batch.now)))


def make_blocks(
    slab: Slab, sessions: Sequence[str], rows: Rows
) -> tuple[list[Block], dict[str, CarryoverError]]:
    """Serialize these sessions for the store.

    Returns the blocks, and a dict of errors for the sessions that could not be serialized.
    """
    try:
        return [_block(slab, sessions, rows)], {}
    except Exception:
        log.exception("records of %d sessions could not be made together; each is tried alone", len(sessions))
    blocks: list[Block] = []
    failed: dict[str, CarryoverError] = {}
    for i, session in enumerate(sessions):
        try:
            blocks.append(_block(slab, (session,), rows.select(np.array([i]))))
        except Exception as error:  # noqa: BLE001  (after any error, only this session fails)
            failed[session] = StepFailed(
                f"session {id_of(session)!r} cannot be stored: {error}; it was not advanced"
            )
    return blocks, failed


def _block(slab: Slab, sessions: Sequence[str], rows: Rows) -> Block:
    positions, deadlines = rows.headers["position"].tolist(), rows.headers["deadline"].tolist()
    return Block(slab.forecaster.fingerprint, sessions, positions, deadlines, pack(rows))


def _model_not_loaded_error(record: Record) -> StoreFailed:
    return StoreFailed(
        f"session {id_of(record.session)!r} belongs to model {record.fingerprint[:12]}, which is not loaded",
        fingerprint=record.fingerprint,
    )
