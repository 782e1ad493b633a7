"""Changes that were answered and are not in the file yet: the newest of each session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

from app.stores import Block, Record
from app.stores.sqlite.records import MAX_SECONDS, microseconds
from app.stores.sqlite.tables import StoredTombstone


class PendingChanges:
    """What the next flush writes.

    Parameters
    ----------
    count_in_file : counts which of these sessions are in the file
    """

    def __init__(self, count_in_file: Callable[[Sequence[str]], int]) -> None:
        self._count_in_file = count_in_file
        self._records: dict[str, tuple[Block, int]] = {}  # the block with the record, and the index in it
        self._removals: dict[str, StoredTombstone] = {}  # the newest removal is last
        self.growth = 0  # how many sessions the next flush adds (or, below 0, removes)

    def __bool__(self) -> bool:
        return bool(self._records or self._removals)

    def add(self, blocks: Sequence[Block], removals: Sequence[StoredTombstone]) -> None:
        """Add these changes; they replace older ones of the same sessions.

        Raises
        ------
        ValueError : a deadline does not fit into the file; nothing was added
        StoreFailed : the file cannot be read; nothing was added
        """
        for block in blocks:
            _check_deadlines(block)  # once they are answered it is too late to refuse them
        kept = [session for block in blocks for session in block.sessions]
        removed = [removal.tombstone.session for removal in removals]
        self.growth += self._count_absent(kept) - len(removed) + self._count_absent(removed)
        for block in blocks:
            self._records.update(zip(block.sessions, zip(repeat(block), range(len(block))), strict=False))
        for session in kept if self._removals else ():
            self._removals.pop(session, None)
        for session, removal in zip(removed, removals, strict=True):
            self._records.pop(session, None)
            self._removals.pop(session, None)  # so that the newest removal is last
            self._removals[session] = removal

    def clear(self) -> None:
        """Forget all changes: they were written."""
        self._records.clear()
        self._removals.clear()
        self.growth = 0

    def find(self, session: str) -> Record | StoredTombstone | None:
        """The pending change of a session."""
        if (found := self._records.get(session)) is not None:
            block, index = found
            return block.record(index)
        return self._removals.get(session)

    def blocks(self) -> list[Block]:
        """The pending records, in one block for each model."""
        by_model: dict[str, list[tuple[Block, int]]] = {}
        for found in self._records.values():
            by_model.setdefault(found[0].fingerprint, []).append(found)
        return [_merge(model, records) for model, records in by_model.items()]

    def removals(self) -> list[StoredTombstone]:
        """The pending removals, the oldest first."""
        return list(self._removals.values())

    def _count_absent(self, sessions: Sequence[str]) -> int:
        """How many of these sessions do not exist, neither here nor in the file."""
        if all(map(self._records.__contains__, sessions)):
            return 0
        unknown = [session for session in sessions if session not in self._records]
        not_pending = [session for session in unknown if session not in self._removals]
        return len(unknown) - (self._count_in_file(not_pending) if not_pending else 0)


def _merge(model: str, records: Sequence[tuple[Block, int]]) -> Block:
    return Block(
        model,
        [block.sessions[i] for block, i in records],
        [block.positions[i] for block, i in records],
        [block.deadlines[i] for block, i in records],
        [block.bodies[i] for block, i in records],
    )


def _check_deadlines(block: Block) -> None:
    if max(block.deadlines) >= MAX_SECONDS:  # NEVER is infinite, so it comes here too
        for deadline in block.deadlines:
            microseconds(deadline)
