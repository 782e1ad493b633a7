"""The commit of a batch to the store, and its publication.

The commit is the only point of no return. If other replicas write to the store, a session that another
replica has changed is taken out of the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from app.engine.batch import Batch
from app.engine.residents import Residents, make_blocks
from app.engine.withdraw import uncompared_sessions, withdraw
from app.errors import CarryoverError, StoreFailed
from app.stores import Block, Conflicts

log = logging.getLogger("carryover.engine")


class Commit:
    """Writes batches to the store, and then publishes them to the slabs."""

    def __init__(self, residents: Residents) -> None:
        self.residents = residents
        self.store = residents.store
        self.metrics = residents.metrics
        self._call = residents.call_store

    async def commit(self, batch: Batch) -> None:
        """Write the batch to the store. This is the only point of no return.

        Raises
        ------
        StoreFailed : nothing was written; in a shared store it is unknown what was written
        """
        if self.residents.shared_store is None:
            self._withdraw(await self._write(batch), batch)
            return
        try:
            await self._confirm(uncompared_sessions(batch), batch)
            self._withdraw(await self._write(batch), batch)
        except StoreFailed:
            self._drop(batch.sessions)
            raise

    async def _confirm(self, sessions: Collection[str], batch: Batch) -> None:
        """Check that the rows behind answers without a commit are those of the shared store."""
        resident = [session for session in sessions if self.residents.find(session) is not None]
        if resident and self.residents.shared_store is not None:
            self._withdraw(await self._call(self.residents.shared_store.confirm, resident), batch)

    def _withdraw(self, conflicts: Conflicts, batch: Batch) -> None:
        if not conflicts:
            return
        moved = sum(error is None for error in conflicts.values())
        if moved:
            log.warning("%d sessions were changed by another replica: they are loaded again", moved)
            self.metrics.fenced += moved
        if moved < len(conflicts):
            log.error("%d sessions could not be stored: they were not advanced", len(conflicts) - moved)
        withdraw(batch, conflicts)
        if self.residents.shared_store is not None:
            self._drop(conflicts)

    def _drop(self, sessions: Collection[str]) -> None:
        """Remove rows that may differ from the store, so that the next job loads the sessions again."""
        for session in sessions:
            found = self.residents.find(session)
            if found is not None:
                found[0].remove(session)
        if self.residents.shared_store is not None:
            self.residents.shared_store.forget_revisions(sessions)

    async def _write(self, batch: Batch) -> Conflicts:
        tombstones = [tombstone for _, tombstone in batch.removed]
        blocks: list[Block] = []
        unwritable: dict[str, CarryoverError] = {}
        for staged in batch.staged if self.store.writes_through else ():
            made, failed = make_blocks(staged.slab, staged.sessions, staged.after)
            blocks += made
            unwritable |= failed
        if blocks and tombstones:  # a session that its last chunk removes is staged too
            gone = {tombstone.session for tombstone in tombstones}
            blocks = [rest for whole in blocks if (rest := whole.without(gone))]
        if not blocks and not tombstones:
            return unwritable
        self.metrics.stored_bytes += sum(sum(map(len, whole.bodies)) for whole in blocks)
        try:
            conflicts: Conflicts = await self._call(self.store.commit, blocks, tombstones)
        except Exception:
            failed = await self._call(self.store.unwritable, blocks)
            if not failed:
                raise  # the store failed, not a record
            unwritable |= failed
            blocks = [rest for whole in blocks if (rest := whole.without(failed))]
            conflicts = await self._call(self.store.commit, blocks, tombstones)
        return {**conflicts, **unwritable} if unwritable else conflicts

    def publish(self, batch: Batch) -> None:
        """Write the batch to the slabs. Called only after a successful commit; nothing in here can fail."""
        for staged in batch.staged:
            staged.publish()
            if batch.created:
                for session in staged.sessions:
                    if session in batch.created:
                        self._publish_created(session, batch)
        for slab, tombstone in batch.removed:
            slab.remove(tombstone.session)
            self.residents.counts.discard(tombstone.session)
            if tombstone.reason == "deleted":
                self.metrics.deleted += 1
            else:
                self.metrics.expired += 1

    def _publish_created(self, session: str, batch: Batch) -> None:
        slab, row = batch.created.pop(session)
        if session in batch.previous_slabs:  # it replaces itself, and was counted twice meanwhile
            batch.previous_slabs.pop(session).remove(session)
            self.residents.counts.discard(session)
        else:
            self.metrics.created += 1
        slab.publish(session, row)

    def release_unused_rows(self, batch: Batch) -> None:
        """Free the rows that were taken for new sessions and not published.

        Called after every tick. After a successful tick, usually no such row is left. In a shared store, the
        revisions of sessions that were looked up and are not resident are forgotten, too.
        """
        for session, (slab, row) in batch.created.items():
            slab.give_back(row)
            self.residents.counts.discard(session)
        batch.created.clear()
        if self.residents.shared_store is not None and batch.lookups:
            self.residents.shared_store.forget_revisions(
                [session for session in batch.lookups if self.residents.find(session) is None]
            )
