"""The session names of a bulk request, as a value that remembers what was computed from it.

A client that serves a fleet names the same thousand sessions in every request. To hash their names and to
look up their rows takes as long as a fifth of their step. A list that is kept between requests
(`app.codec.bulk.session_lists`) has done both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from models.arrays import Ints

SessionNames = set[str] | frozenset[str]


class OwnSessions(NamedTuple):
    """Those names of a list that one worker owns, and their indexes in the list."""

    owner: int
    indexes: Ints
    sessions: SessionList


class SessionList(tuple[str, ...]):
    """Names in the order of a request; a session that is named twice is in it twice.

    valid : whether all names are known to be session ids
    """

    valid = False
    _rows: tuple[object, Ints] | None = None  # with the generation that they are of
    _prefixed: tuple[str, SessionList] | None = None
    _divided: list[OwnSessions] | None = None

    @cached_property
    def unique(self) -> frozenset[str]:
        """The names without repetition."""
        return frozenset(self)

    def with_prefix(self, prefix: str) -> SessionList:
        """The names, each with this prefix."""
        if self._prefixed is None or self._prefixed[0] != prefix:
            self._prefixed = prefix, SessionList(prefix + name for name in self)
        return self._prefixed[1]

    def divide(self, owner_of: Callable[[str], int]) -> list[OwnSessions]:
        """The names by their owners.

        Parameters
        ----------
        owner_of : the worker that owns a session, the same in every call
        """
        if self._divided is None:
            by_owner: dict[int, list[int]] = {}
            for i, owner in enumerate(map(owner_of, self)):
                by_owner.setdefault(owner, []).append(i)
            self._divided = [
                OwnSessions(owner, np.array(indexes), SessionList([self[i] for i in indexes]))
                for owner, indexes in by_owner.items()
            ]
        return self._divided

    def rows(self, index: dict[str, int], generation: object) -> Ints:
        """The row of every name. The array is shared and read-only.

        Parameters
        ----------
        index : rows by name
        generation : an object that is replaced when a name leaves the index or gets another row

        Raises
        ------
        KeyError : a name is not in the index
        """
        if self._rows is None or self._rows[0] is not generation:
            rows = np.fromiter(map(index.__getitem__, self), np.int64, len(self))
            rows.flags.writeable = False
            self._rows = generation, rows
        return self._rows[1]
