"""The sessions of one request of many, as a value that keeps what was found out about it.

Who serves a fleet names the same thousand sessions in every request. To hash that many texts and to look up
where each lies takes as long as a fifth of their step; a roster that is kept (`app.bulk.ids`) has done both.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from models.arrays import Ints

SessionNames = set[str] | frozenset[str]


class SessionList(tuple[str, ...]):
    """Names in the order of a request; one that is named twice is there twice.

    checked : whether all are known to be session ids
    """

    valid = False
    _found: tuple[object, Ints] | None = None
    _under: tuple[str, SessionList] | None = None

    @cached_property
    def unique(self) -> frozenset[str]:
        """The names, each once."""
        return frozenset(self)

    def with_prefix(self, prefix: str) -> SessionList:
        """The names, each behind this prefix."""
        if self._under is None or self._under[0] != prefix:
            self._under = prefix, SessionList(prefix + name for name in self)
        return self._under[1]

    def rows(self, index: dict[str, int], generation: object) -> Ints:
        """The row of every name, not to be written to.

        Parameters
        ----------
        index : rows by name
        edition : another object once a name of the index has left or its row is another one

        Raises
        ------
        KeyError : one of the names is not there
        """
        if self._found is None or self._found[0] is not generation:
            rows = np.fromiter(map(index.__getitem__, self), np.int64, len(self))
            rows.flags.writeable = False
            self._found = generation, rows
        return self._found[1]
