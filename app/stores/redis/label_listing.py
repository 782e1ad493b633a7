"""Which sessions have which labels: a sorted set of names for each label.

As with the names by model, a name is added before its session is committed and removed afterwards. A page
reads the records of the sessions that it lists, so a name too many is left out of it. A name that was lost
with a server is added again when its session is committed by a replica that has loaded it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.session.notes import Labels
from app.session.rows import labels_of
from app.stores import Block, Conflicts, NamePage, NamesQuery, Record
from app.stores.redis import values
from app.stores.redis.name_index import NameIndex, NamesFailed
from app.stores.redis.session_keys import SessionKeys

MAX_CANDIDATES = 200  # sessions with the first label that one page reads, at least


class LabelListing:
    """Keeps the index of labels in step with the sessions of this replica."""

    def __init__(self, index: NameIndex, keys: SessionKeys) -> None:
        self._index = index
        self._keys = keys
        self._labels: dict[str, Labels] = {}  # of sessions that have any, as loaded or committed last
        self._loaded: set[str] = set()  # those of them that this replica has not committed since

    def note(self, record: Record) -> None:
        """Remember the labels of a session that was loaded."""
        if labels := labels_of(record.body):
            self._labels[record.session] = labels
            self._loaded.add(record.session)

    def forget(self, session: str) -> None:
        """Forget a session that is no longer resident."""
        if self._labels.pop(session, None) is not None:
            self._loaded.discard(session)

    def add(self, blocks: Sequence[Block]) -> dict[str, list[str]]:
        """List the sessions with new labels: before they are committed.

        Returns the names to remove after that, by label.
        """
        new: dict[str, list[str]] = {}
        old: dict[str, list[str]] = {}
        for session, labels in _labels(blocks):
            before = self._labels.get(session, ())
            if labels == before and session not in self._loaded:
                continue
            _add(new, session, labels if session in self._loaded else set(labels).difference(before))
            _add(old, session, set(before).difference(labels))
            self.forget(session)
            if labels:
                self._labels[session] = labels
        if new:
            self._index.add_labels(new)
        return old

    def remove(self, old: dict[str, list[str]], gone: Sequence[str], lost: Conflicts) -> None:
        """Remove the names of sessions that are gone or have other labels: after that was committed."""
        for session in gone if self._labels else ():
            if session not in lost:
                _add(old, session, self._labels.get(session, ()))
                self.forget(session)
        names = {label: [name for name in group if name not in lost] for label, group in old.items()}
        if names:
            self._index.remove_labels(names)

    def page(self, query: NamesQuery) -> NamePage:
        """See `Store.names`, of a query with labels.

        Raises
        ------
        StoreFailed
        """
        count = max(query.limit, MAX_CANDIDATES)
        try:
            names = self._index.labelled(query.labels[0], *query.span, count, descending=query.descending)
        except NamesFailed as error:
            raise self._keys.failed(str(error)) from error
        stored, _ = self._keys.read(names) if names else ((), {})
        found = []
        for session, value in stored:
            record = _record(session, value)
            if record is not None and query.accepts(record):
                found.append((session, record.fingerprint))
        found.sort(reverse=query.descending)
        return NamePage.of(found, query.limit, names[-1] if len(names) == count else None)


def _labels(blocks: Sequence[Block]) -> Iterable[tuple[str, Labels]]:
    for block in blocks:
        yield from zip(block.sessions, map(labels_of, block.bodies), strict=True)


def _add(names: dict[str, list[str]], session: str, labels: Iterable[str]) -> None:
    for label in labels:
        names.setdefault(label, []).append(session)


def _record(session: str, value: bytes) -> Record | None:
    """The record of a session's value; None if the session is gone or damaged."""
    try:
        found = values.unpack(session, value)
    except values.DamagedValue:
        return None
    return found if isinstance(found, Record) else None
