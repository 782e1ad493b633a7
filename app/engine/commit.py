"""The commit of a wave to the store, and its publication.

The commit is the only point of no return. Where other replicas write to the store, too, a session that one
of them has moved on leaves the wave.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from app.engine.batch import Batch
from app.engine.residents import Residents, block
from app.engine.withdraw import uncompared_sessions, withdraw
from app.errors import StoreFailed
from app.session.names import tenant_of
from app.stores import NO_CONFLICTS, Block, Conflicts

log = logging.getLogger("carryover.engine")


class Commit:
    """Writes waves to the store, and then makes them resident."""

    def __init__(self, residents: Residents) -> None:
        self.residents = residents
        self.store = residents.store
        self.metrics = residents.metrics
        self._call = residents.call_store

    async def commit(self, batch: Batch, touched: Collection[str]) -> None:
        """Tell the store of the wave: the only point of no return.

        Where other replicas write to the store, too, a session that one of them has moved on leaves the wave.

        Raises
        ------
        StoreFailed : nothing was kept, or in a store that is shared: nobody knows what was
        """
        if self.residents.shared_store is None:
            await self._commit(batch)
            return
        try:
            await self._confirm(uncompared_sessions(batch, touched), batch)
            self._withdraw(await self._commit(batch), batch)
        except StoreFailed:
            self._drop(touched)
            raise

    async def _confirm(self, sessions: Collection[str], batch: Batch) -> None:
        """What is answered without a commit is answered of rows that are still what the store has."""
        doubtful = [session for session in sessions if self.residents.find(session) is not None]
        if doubtful and self.residents.shared_store is not None:
            self._withdraw(await self._call(self.residents.shared_store.confirm, doubtful), batch)

    def _withdraw(self, lost: Conflicts, batch: Batch) -> None:
        if lost:
            future_inputs = sum(why is None for why in lost.values())
            log.warning("%d sessions were moved on by another replica: they are loaded again", future_inputs)
            self.metrics.fenced += future_inputs
            withdraw(batch, lost)
            self._drop(lost)

    def _drop(self, sessions: Collection[str]) -> None:
        """These are not what the store has, or may not be: whoever asks next loads them."""
        for session in sessions:
            found = self.residents.find(session)
            if found is not None:
                found[0].remove(session)
        if self.residents.shared_store is not None:
            self.residents.shared_store.forget(sessions)

    async def _commit(self, batch: Batch) -> Conflicts:
        tombstones = [tombstone for _, tombstone in batch.removed]
        kept: list[Block] = []
        if self.store.writes_through:
            kept = [block(staged.slab, staged.sessions, staged.after) for staged in batch.staged]
        if kept and tombstones:  # a last chunk is staged, too
            gone = {tombstone.session for tombstone in tombstones}
            kept = [rest for one in kept if (rest := one.without(gone))]
        if not kept and not tombstones:
            return NO_CONFLICTS
        self.metrics.stored_bytes += sum(sum(map(len, one.bodies)) for one in kept)
        lost: Conflicts = await self._call(self.store.commit, kept, tombstones)
        return lost

    def publish(self, batch: Batch) -> None:
        """Make the wave resident. Called only when its commit has succeeded; nothing in here can fail."""
        for staged in batch.staged:
            staged.slab.write(staged.rows, staged.after)
            if batch.created:
                for session in staged.sessions:
                    if session in batch.created:
                        self._publish_born(session, batch)
        for slab, tombstone in batch.removed:
            slab.remove(tombstone.session)
            self.residents.sessions_per_tenant[tenant_of(tombstone.session)] -= 1
            if tombstone.reason == "deleted":
                self.metrics.deleted += 1
            else:
                self.metrics.expired += 1

    def _publish_born(self, session: str, batch: Batch) -> None:
        slab, row = batch.created.pop(session)
        if session in batch.previous_slabs:  # who takes its place is the same session
            batch.previous_slabs.pop(session).remove(session)
            self.residents.sessions_per_tenant[tenant_of(session)] -= 1
        else:
            self.metrics.created += 1
        slab.publish(session, row)

    def abandon(self, batch: Batch) -> None:
        """Give back the rows of sessions that were not born after all."""
        for session, (slab, row) in batch.created.items():
            slab.give_back(row)
            self.residents.sessions_per_tenant[tenant_of(session)] -= 1
        batch.created.clear()
        if self.residents.shared_store is not None and batch.lookups:
            self.residents.shared_store.forget(
                [session for session in batch.lookups if self.residents.find(session) is None]
            )
