"""Changes that were answered and are not in the tables yet: the newest of each session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, repeat

from app.stores import Block, Record
from app.stores.sqlite.records import MAX_SECONDS, microseconds
from app.stores.sqlite.tables import StoredTombstone


class PendingChanges:
    """What is still to be written to the tables.

    Parameters
    ----------
    count_in_tables : counts which of these sessions are in the tables
    """

    def __init__(self, count_in_tables: Callable[[Sequence[str]], int]) -> None:
        self._count_in_tables = count_in_tables
        # The sequence of the batch, its block with the record, and the index there. The newest is last.
        self._records: dict[str, tuple[int, Block, int]] = {}
        self._removals: dict[str, StoredTombstone] = {}  # the newest removal is last

    def __bool__(self) -> bool:
        return bool(self._records or self._removals)

    def __len__(self) -> int:
        """Number of sessions with a record here."""
        return len(self._records)

    def growth_by(self, blocks: Sequence[Block], removals: Sequence[StoredTombstone]) -> int:
        """How many more sessions there are with these changes, which can be added; below 0, how many fewer.

        Raises
        ------
        ValueError : a deadline does not fit into the tables
        sqlite3.Error : the tables cannot be read
        """
        for block in blocks:
            _check_deadlines(block)  # once they are answered it is too late to refuse them
        growth = sum(self._count_absent(block.sessions) for block in blocks)
        if removals:
            removed = [removal.tombstone.session for removal in removals]
            growth += self._count_absent(removed) - len(removed)
        return growth

    def add(self, sequence: int, blocks: Sequence[Block], removals: Sequence[StoredTombstone]) -> None:
        """Add the changes of a batch; they replace older ones of the same sessions. Cannot fail."""
        for block in blocks:
            for session in block.sessions:
                self._records.pop(session, None)  # so that the newest record is last
            self._records.update(
                zip(block.sessions, zip(repeat(sequence), repeat(block), range(len(block))), strict=False)
            )
            for session in block.sessions if self._removals else ():
                self._removals.pop(session, None)
        for removal in removals:
            session = removal.tombstone.session
            self._records.pop(session, None)
            self._removals.pop(session, None)  # so that the newest removal is last
            self._removals[session] = removal

    def forget(self, count: int) -> None:
        """Forget the oldest `count` records and all removals: they were written."""
        for session in list(islice(self._records, count)):
            del self._records[session]
        self._removals.clear()

    def find(self, session: str) -> Record | StoredTombstone | None:
        """The pending change of a session."""
        if (found := self._records.get(session)) is not None:
            _, block, index = found
            return block.record(index)
        return self._removals.get(session)

    def sessions(self) -> set[str]:
        """The sessions with a record here."""
        return set(self._records)

    def blocks(self, count: int) -> list[Block]:
        """The oldest records, in one block for each model."""
        by_model: dict[str, list[tuple[Block, int]]] = {}
        for _, block, index in islice(self._records.values(), count):
            by_model.setdefault(block.fingerprint, []).append((block, index))
        return [_merge(model, records) for model, records in by_model.items()]

    def removals(self) -> list[StoredTombstone]:
        """The pending removals, the oldest first."""
        return list(self._removals.values())

    def last_written(self, count: int, last: int) -> int:
        """The last batch of which nothing is pending once the oldest records and all removals are written.

        Parameters
        ----------
        last : the sequence of the last batch
        """
        for sequence, _, _ in islice(self._records.values(), count, None):
            return sequence - 1
        return last

    def _count_absent(self, sessions: Sequence[str]) -> int:
        """How many of these sessions do not exist, neither here nor in the tables."""
        if all(map(self._records.__contains__, sessions)):
            return 0
        unknown = [session for session in sessions if session not in self._records]
        not_pending = [session for session in unknown if session not in self._removals]
        return len(unknown) - (self._count_in_tables(not_pending) if not_pending else 0)


def _merge(model: str, records: Sequence[tuple[Block, int]]) -> Block:
    return Block(
        model,
        [block.sessions[i] for block, i in records],
        [block.positions[i] for block, i in records],
        [block.deadlines[i] for block, i in records],
        [block.bodies[i] for block, i in records],
    )


def _check_deadlines(block: Block) -> None:
    if not all(map(MAX_SECONDS.__gt__, block.deadlines)):  # NEVER is infinite, so it comes here too
        for deadline in block.deadlines:
            microseconds(deadline)
