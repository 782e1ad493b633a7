"""Which sessions a list has, in which order, and how it goes on after a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from app.session.notes import Labels

Order = Literal["last_seen", "error", "surprise"]
ORDERS: tuple[Order, ...] = get_args(Order)


class SessionQuery(NamedTuple):
    """A list of sessions.

    model : of the sessions; None for all
    prefix : their names begin with it
    labels : each has all of these
    order : a value of the sessions that they are in the order of; None for their names
    descending : the greatest first; sessions without the value are in the ascending order of their names
    """

    model: str | None = None
    prefix: str = ""
    labels: Labels = ()
    order: Order | None = None
    descending: bool = False

    @property
    def names_descend(self) -> bool:
        """Whether what is listed by name begins with the greatest."""
        return self.descending and self.order is None


class Rank(NamedTuple):
    """The place of a session in a list by value. Of those with the same value, the epoch says which is first.

    An epoch is a random number that a session keeps, and unlike its name it is sorted as fast as the value.
    """

    value: float
    epoch: int


class RankedSession(NamedTuple):
    """A session in a list by value."""

    value: float
    epoch: int
    name: str
    model: str


Cursor = Rank | str
"""What was listed last: a session with a value, or the name of one without, which come last."""


class SessionPage(NamedTuple):
    """A page of a list. It may be short, or empty, though it is not the last.

    found : (name, model) of each
    next : where the next page begins; None behind the last
    """

    found: Sequence[tuple[str, str]]
    next: Cursor | None
