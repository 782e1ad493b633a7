"""The session ids of a bulk request: parted, checked, and recognised when they come again.

The newest rosters are kept, up to `MAX_BYTES`, and found by the bytes and the form that they came in, which
are compared whole: what a text means depends on nothing that was sent before. Only what is right is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from app.codec import limits
from app.jobs.session_list import SessionList
from models.arrays import Bools, Bytes
from models.jit import INT, jit, readonly_contiguous

ID_LETTERS = np.array([limits.SESSION_ID.fullmatch(chr(byte)) is not None for byte in range(256)])
MAX_ID_LENGTH = 128
NEWLINE = ord("\n")
ENDS = 32  # bytes of a text's beginning and end that it is looked for by
MIN_SESSIONS = 16  # names from which on a roster is worth keeping
MAX_BYTES = 2**25  # of all that are kept: the lists of some 140,000 sessions
# What one takes, measured, with a tenant's own names beside it.
SESSION_LIST_BYTES, NAME_BYTES, LETTER_BYTES = 1500, 200, 4

Decoder = Callable[[bytes], Sequence[str]]  # takes a text to its ids
Key = tuple[Decoder, int, bytes, bytes]


class SessionListCache:
    """Those that are kept, the one that was asked for last at the end."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, tuple[bytes, SessionList]] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, text: bytes, decoder: Decoder) -> SessionList | None:
        """The roster of exactly this text in this form, if it is kept."""
        key = _key(text, decoder)
        kept = self._kept.get(key)
        if kept is None or kept[0] != text:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def put(self, text: bytes, decoder: Decoder, told: SessionList) -> None:
        """Keep one more; those that were asked for longest ago make room for it."""
        key = _key(text, decoder)
        alike = self._kept.pop(key, None)
        if alike is not None:
            self.nbytes -= _size(*alike)
        self._kept[key] = text, told
        self.nbytes += _size(text, told)
        while self.nbytes > MAX_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= _size(*oldest)


def _key(text: bytes, decoder: Decoder) -> Key:
    return decoder, len(text), text[:ENDS], text[-ENDS:]


def _size(text: bytes, told: SessionList) -> int:
    return SESSION_LIST_BYTES + NAME_BYTES * len(told) + LETTER_BYTES * len(text)


SESSION_LISTS = SessionListCache()


def decode_session_list(text: bytes, decoder: Decoder, most: int) -> SessionList:
    """The ids in this text; those of more than `most` sessions, or that are none, are not kept."""
    known = SESSION_LISTS.get(text, decoder)
    if known is not None:
        return known
    told = SessionList(decoder(text))
    told.valid = are_session_ids(told)
    if told.valid and MIN_SESSIONS <= len(told) <= most:
        SESSION_LISTS.put(text, decoder, told)
    return told


def are_session_ids(sessions: Sequence[str]) -> bool:
    """Whether all of these are session ids; a pass over their bytes, however many they are."""
    joined = "\n".join(sessions)
    return joined.isascii() and bool(
        _are_ids(np.frombuffer(joined.encode(), np.uint8), ID_LETTERS, len(sessions))
    )


@jit(readonly_contiguous("uint8"), readonly_contiguous("bool"), INT)
def _are_ids(text: Bytes, letters: Bools, count: int) -> bool:
    """Whether this is so many session ids, parted by newlines."""
    length = 0
    for letter in text:
        if letter == NEWLINE:
            count -= 1
            if not 1 <= length <= MAX_ID_LENGTH:
                return False
            length = 0
        elif letters[letter]:
            length += 1
        else:
            return False
    return count == 1 and 1 <= length <= MAX_ID_LENGTH
