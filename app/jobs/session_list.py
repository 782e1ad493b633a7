"""The session names of a bulk job. Where they came as bytes, they become strings only if they are needed.

A job of resident sessions needs none: their rows are found by the bytes (`app.session.name_table`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, overload

import numpy as np

from app.session.slab import Slab
from models.arrays import Ints

SessionNames = set[str] | frozenset[str]


class OwnSessions(NamedTuple):
    """Those names of a list that one worker owns, and their indexes in the list."""

    owner: int
    indexes: Ints
    sessions: SessionList


class NameSpans(NamedTuple):
    """Valid session ids within a text.

    text : ASCII at these places
    starts, ends : [n], of each id in the text
    prefix : of every name; it is not in the text
    """

    text: bytes
    starts: Ints
    ends: Ints
    prefix: str = ""


class SessionList(Sequence[str]):
    """Names in the order of a request; a session that is named twice is in it twice.

    Parameters
    ----------
    names : not read where there are spans
    spans : of the names; None where they came as strings
    """

    def __init__(self, names: Iterable[str] = (), spans: NameSpans | None = None) -> None:
        self._given, self.spans = tuple(names), spans

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names as strings."""
        if self.spans is None:
            return self._given
        data, starts, ends, prefix = self.spans
        text = data.decode("latin-1")
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        return tuple([prefix + text[start:end] for start, end in spans])

    @cached_property
    def unique(self) -> frozenset[str]:
        """The names without repetition."""
        return frozenset(self.names)

    def __len__(self) -> int:
        return len(self._given if self.spans is None else self.spans.starts)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[str, ...]: ...
    def __getitem__(self, i: int | slice) -> str | tuple[str, ...]:
        return self.names[i]

    def pick(self, indexes: Ints) -> SessionList:
        """The names at these indexes."""
        if self.spans is None:
            return SessionList([self.names[i] for i in indexes.tolist()])
        text, starts, ends, prefix = self.spans
        return SessionList(spans=NameSpans(text, starts[indexes], ends[indexes], prefix))

    def with_prefix(self, prefix: str) -> SessionList:
        """The names, each with this prefix."""
        if self.spans is None:
            return SessionList(prefix + name for name in self.names)
        return SessionList(spans=self.spans._replace(prefix=prefix + self.spans.prefix))

    def divide(self, owner_of: Callable[[str], int]) -> list[OwnSessions]:
        """The names by their owners.

        Parameters
        ----------
        owner_of : the worker that owns a session
        """
        by_owner: dict[int, list[int]] = {}
        for i, owner in enumerate(map(owner_of, self.names)):
            by_owner.setdefault(owner, []).append(i)
        return [
            OwnSessions(owner, indexes, self.pick(indexes))
            for owner, indexes in ((owner, np.array(own)) for owner, own in by_owner.items())
        ]

    def rows(self, slab: Slab) -> Ints | None:
        """[n], the row of every name; None unless all are resident in this slab."""
        if self.spans is not None:
            text, starts, ends, prefix = self.spans
            return slab.table.find(text, starts, ends, prefix.encode())
        try:
            return slab.rows_of(self.names)
        except KeyError:
            return None
