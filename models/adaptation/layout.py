"""Where each part of what a session has learned lies in its carry."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from models.arrays import Floats

Shape = tuple[int, ...]


class LearnedLayout:
    """The layout of what a session has learned: its parts, one after the other.

    Parameters
    ----------
    shapes : name -> shape of the part of one session
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._places: dict[str, tuple[int, Shape]] = {}
        self.size = 0
        for name, shape in shapes.items():
            self._places[name] = (self.size, shape)
            self.size += prod(shape)

    @property
    def names(self) -> tuple[str, ...]:
        """The parts, in order."""
        return tuple(self._places)

    def start(self, name: str) -> int:
        """The first column of a part."""
        return self._places[name][0]

    def view(self, rows: Floats, name: str) -> Any:
        """[batch, *shape], a view of a part of rows [batch, size]: writing to it writes to the rows."""
        start, shape = self._places[name]
        return rows[:, start : start + prod(shape)].reshape(len(rows), *shape)

    def parts(self, row: Floats) -> dict[str, Any]:
        """All parts of one row, [size], by name."""
        return {name: self.view(row[None], name)[0] for name in self._places}
