"""Which sessions have a label, in the order of their names: a page of them costs what it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from sortedcontainers import SortedList

from app.session.notes import Labels

MAX_CANDIDATES = 1000  # sessions with the first label that one page looks at, at least


class LabelIndex:
    """Names by label."""

    def __init__(self) -> None:
        self._names: dict[str, SortedList[str]] = {}

    def add(self, session: str, labels: Labels) -> None:
        for label in labels:
            self._names.setdefault(label, SortedList()).add(session)

    def remove(self, session: str, labels: Labels) -> None:
        """Remove a session that is listed with each of these labels."""
        for label in labels:
            names = self._names[label]
            names.remove(session)
            if not names:
                del self._names[label]

    def count(self, label: str) -> int:
        """How many sessions have this label."""
        return len(self._names.get(label, ()))

    def candidates(
        self, label: str, start: str, end: str, limit: int, *, descending: bool = False
    ) -> Sequence[str]:
        """The first `limit` names with this label behind `start` and before `end`, in this direction."""
        names = self._names.get(label)
        if names is None:
            return []
        return list(islice(names.irange(start, end, (False, False), reverse=descending), limit))
