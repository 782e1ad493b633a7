"""The session ids of a bulk request: parted, checked, and recognised when they come again.

The newest rosters are kept, up to `MOST_BYTES`, and found by the bytes and the form that they came in, which
are compared whole: what a text means depends on nothing that was sent before. Only what is right is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from app.codec import chunks
from app.jobs.session_list import Roster
from models.compiled import INT, compiled, read_dense

ID_LETTERS = np.array([chunks.SESSION_ID.fullmatch(chr(byte)) is not None for byte in range(256)])
LONGEST_ID = 128
NEWLINE = ord("\n")
ENDS = 32  # bytes of a text's beginning and end that it is looked for by
FEWEST = 16  # names from which on a roster is worth keeping
MOST_BYTES = 2**25  # of all that are kept: the lists of some 140,000 sessions
# What one takes, measured, with a tenant's own names beside it.
ROSTER_BYTES, NAME_BYTES, LETTER_BYTES = 1500, 200, 4

Form = Callable[[bytes], Sequence[str]]  # takes a text to its ids
Key = tuple[Form, int, bytes, bytes]


class Rosters:
    """Those that are kept, the one that was asked for last at the end."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[bytes, Roster]] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, text: bytes, form: Form) -> Roster | None:
        """The roster of exactly this text in this form, if it is kept."""
        key = _key(text, form)
        kept = self._kept.get(key)
        if kept is None or kept[0] != text:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, text: bytes, form: Form, told: Roster) -> None:
        """Keep one more; those that were asked for longest ago make room for it."""
        key = _key(text, form)
        alike = self._kept.pop(key, None)
        if alike is not None:
            self.nbytes -= _size(*alike)
        self._kept[key] = text, told
        self.nbytes += _size(text, told)
        while self.nbytes > MOST_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= _size(*oldest)


def _key(text: bytes, form: Form) -> Key:
    return form, len(text), text[:ENDS], text[-ENDS:]


def _size(text: bytes, told: Roster) -> int:
    return ROSTER_BYTES + NAME_BYTES * len(told) + LETTER_BYTES * len(text)


ROSTERS = Rosters()


def roster(text: bytes, form: Form, most: int) -> Roster:
    """The ids in this text; those of more than `most` sessions, or that are none, are not kept."""
    known = ROSTERS.find(text, form)
    if known is not None:
        return known
    told = Roster(form(text))
    told.checked = are_ids(told)
    if told.checked and FEWEST <= len(told) <= most:
        ROSTERS.keep(text, form, told)
    return told


def are_ids(sessions: Sequence[str]) -> bool:
    """Whether all of these are session ids; a pass over their bytes, however many they are."""
    joined = "\n".join(sessions)
    return joined.isascii() and bool(
        _are_ids(np.frombuffer(joined.encode(), np.uint8), ID_LETTERS, len(sessions))
    )


@compiled(read_dense("uint8"), read_dense("bool"), INT)
def _are_ids(text: npt.NDArray[np.uint8], letters: npt.NDArray[np.bool_], count: int) -> bool:
    """Whether this is so many session ids, parted by newlines."""
    length = 0
    for letter in text:
        if letter == NEWLINE:
            count -= 1
            if not 1 <= length <= LONGEST_ID:
                return False
            length = 0
        elif letters[letter]:
            length += 1
        else:
            return False
    return count == 1 and 1 <= length <= LONGEST_ID
