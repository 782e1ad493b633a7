"""The session ids of a bulk request: parted, checked, and recognised when they come again.

The newest rosters are kept, up to `MOST_NAMES` names together, and found by the bytes that they came in,
which are compared whole. Only what is right is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from app import wire
from app.roster import Roster
from models.compiled import INT, compiled, read_dense

ID_LETTERS = np.array([wire.SESSION_ID.fullmatch(chr(byte)) is not None for byte in range(256)])
LONGEST_ID = 128
NEWLINE = ord("\n")
MOST_NAMES = 100_000  # some 15 MB
Key = tuple[int, bytes, bytes]
ENDS = 32  # bytes of a text's beginning and end that it is looked for by


class _Rosters:
    """Those that are kept, the one that was asked for last at the end."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[bytes, Roster]] = OrderedDict()
        self._names = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, text: bytes) -> Roster | None:
        key = _key(text)
        kept = self._kept.get(key)
        if kept is None or kept[0] != text:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, text: bytes, told: Roster) -> None:
        key = _key(text)
        _, replaced = self._kept.pop(key, (b"", ()))
        self._kept[key] = text, told
        self._names += len(told) - len(replaced)
        while self._names > MOST_NAMES:
            _, (_, oldest) = self._kept.popitem(last=False)
            self._names -= len(oldest)


def _key(text: bytes) -> Key:
    return len(text), text[:ENDS], text[-ENDS:]


ROSTERS = _Rosters()


def roster(text: bytes, parted: Callable[[bytes], Sequence[str]]) -> Roster:
    """The ids in this text, of any form that says by itself which it is.

    Parameters
    ----------
    parted : takes a text to its ids; called unless the text is known
    """
    known = ROSTERS.find(text)
    if known is not None:
        return known
    told = Roster(parted(text))
    told.checked = are_ids(told)
    if told.checked:
        ROSTERS.keep(text, told)
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
