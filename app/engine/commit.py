"""The commit of a wave to the store, and its publication.

The commit is the only point of no return. Where other replicas write to the store, too, a session that one
of them has moved on leaves the wave.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from app.engine.residents import Residents, block
from app.engine.wave import Wave
from app.engine.withdraw import resting, withdraw
from app.errors import StoreFailed
from app.session.names import tenant_of
from app.stores import NONE_LOST, Block, Lost

log = logging.getLogger("carryover.engine")


class Commit:
    """Writes waves to the store, and then makes them resident."""

    def __init__(self, residents: Residents) -> None:
        self.residents = residents
        self.store = residents.store
        self.metrics = residents.metrics
        self._call = residents.call_store

    async def commit(self, wave: Wave, touched: Collection[str]) -> None:
        """Tell the store of the wave: the only point of no return.

        Where other replicas write to the store, too, a session that one of them has moved on leaves the wave.

        Raises
        ------
        StoreFailed : nothing was kept, or in a store that is shared: nobody knows what was
        """
        if self.residents.shared is None:
            await self._commit(wave)
            return
        try:
            await self._confirm(resting(wave, touched), wave)
            self._withdraw(await self._commit(wave), wave)
        except StoreFailed:
            self._drop(touched)
            raise

    async def _confirm(self, sessions: Collection[str], wave: Wave) -> None:
        """What is answered without a commit is answered of rows that are still what the store has."""
        doubtful = [session for session in sessions if self.residents.find(session) is not None]
        if doubtful and self.residents.shared is not None:
            self._withdraw(await self._call(self.residents.shared.confirm, doubtful), wave)

    def _withdraw(self, lost: Lost, wave: Wave) -> None:
        if lost:
            ahead = sum(why is None for why in lost.values())
            log.warning("%d sessions were moved on by another replica: they are loaded again", ahead)
            self.metrics.fenced += ahead
            withdraw(wave, lost)
            self._drop(lost)

    def _drop(self, sessions: Collection[str]) -> None:
        """These are not what the store has, or may not be: whoever asks next loads them."""
        for session in sessions:
            found = self.residents.find(session)
            if found is not None:
                found[0].remove(session)
        if self.residents.shared is not None:
            self.residents.shared.forget(sessions)

    async def _commit(self, wave: Wave) -> Lost:
        tombstones = [tombstone for _, tombstone in wave.buried]
        kept: list[Block] = []
        if self.store.writes_through:
            kept = [block(staged.slab, staged.sessions, staged.after) for staged in wave.staged]
        if kept and tombstones:  # a last chunk is staged, too
            gone = {tombstone.session for tombstone in tombstones}
            kept = [rest for one in kept if (rest := one.without(gone))]
        if not kept and not tombstones:
            return NONE_LOST
        self.metrics.stored_bytes += sum(sum(map(len, one.bodies)) for one in kept)
        lost: Lost = await self._call(self.store.commit, kept, tombstones)
        return lost

    def publish(self, wave: Wave) -> None:
        """Make the wave resident. Called only when its commit has succeeded; nothing in here can fail."""
        for staged in wave.staged:
            staged.slab.write(staged.rows, staged.after)
            if wave.born:
                for session in staged.sessions:
                    if session in wave.born:
                        self._publish_born(session, wave)
        for slab, tombstone in wave.buried:
            slab.remove(tombstone.session)
            self.residents.census[tenant_of(tombstone.session)] -= 1
            if tombstone.why == "deleted":
                self.metrics.deleted += 1
            else:
                self.metrics.expired += 1

    def _publish_born(self, session: str, wave: Wave) -> None:
        slab, row = wave.born.pop(session)
        if session in wave.leaving:  # who takes its place is the same session
            wave.leaving.pop(session).remove(session)
            self.residents.census[tenant_of(session)] -= 1
        else:
            self.metrics.created += 1
        slab.publish(session, row)

    def abandon(self, wave: Wave) -> None:
        """Give back the rows of sessions that were not born after all."""
        for session, (slab, row) in wave.born.items():
            slab.give_back(row)
            self.residents.census[tenant_of(session)] -= 1
        wave.born.clear()
        if self.residents.shared is not None and wave.fetched:
            self.residents.shared.forget(
                [session for session in wave.fetched if self.residents.find(session) is None]
            )
