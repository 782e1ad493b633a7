"""The session ids of a bulk request: decoded, checked, and recognised when the same list comes again.

The lists used last are kept, up to `MAX_BYTES`. A list is found by its whole text and the form that it came
in, so that a text means the same whatever was sent before. Only lists of valid ids are kept.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from app.codec import limits
from app.jobs.session_list import SessionList

KEY_BYTES = 32  # of a text's beginning and end, which are hashed in place of the whole
MIN_SESSIONS = 16  # shorter lists are not worth keeping
MAX_BYTES = 2**25  # of all lists together: some 140,000 sessions
# What a list takes, measured, with the names that a tenant's prefix makes of it.
SESSION_LIST_BYTES, NAME_BYTES, LETTER_BYTES = 1500, 200, 4
# 0.45 ms for 10,000 ids, in place of 3.9 ms for a match each.
SESSION_IDS = re.compile(rf"{limits.SESSION_ID.pattern}(?:\n{limits.SESSION_ID.pattern})*", re.ASCII)

Decoder = Callable[[bytes], Sequence[str]]
"""Makes the ids of a text."""
Key = tuple[Decoder, int, bytes, bytes]


class SessionListCache:
    """Lists of sessions by their text, the one used last at the end."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[Key, tuple[bytes, SessionList]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def decode(self, text: bytes, decoder: Decoder, most: int) -> SessionList:
        """The ids in this text. A valid list is kept.

        Parameters
        ----------
        most : longer lists are not kept
        """
        known = self.get(text, decoder)
        if known is not None:
            return known
        session_list = SessionList(decoder(text))
        session_list.valid = are_session_ids(session_list)
        if session_list.valid and MIN_SESSIONS <= len(session_list) <= most:
            self.put(text, decoder, session_list)
        return session_list

    def get(self, text: bytes, decoder: Decoder) -> SessionList | None:
        """The list of exactly this text in this form, if it is kept."""
        key = _key(text, decoder)
        kept = self._kept.get(key)
        if kept is None or kept[0] != text:
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def put(self, text: bytes, decoder: Decoder, session_list: SessionList) -> None:
        """Keep a list; the lists used longest ago make room for it."""
        key = _key(text, decoder)
        replaced = self._kept.pop(key, None)
        if replaced is not None:
            self.nbytes -= _size(*replaced)
        self._kept[key] = text, session_list
        self.nbytes += _size(text, session_list)
        while self.nbytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= _size(*oldest)


def are_session_ids(names: Sequence[str]) -> bool:
    """Whether all of these are valid session ids."""
    if max(map(len, names), default=0) > limits.MAX_SESSION_ID:
        return False  # also keeps the text below small: one long string may be here ten thousand times
    joined = "\n".join(names)
    # A name with a newline would pass for two.
    return SESSION_IDS.fullmatch(joined) is not None and joined.count("\n") == len(names) - 1


def _key(text: bytes, decoder: Decoder) -> Key:
    return decoder, len(text), text[:KEY_BYTES], text[-KEY_BYTES:]


def _size(text: bytes, session_list: SessionList) -> int:
    return SESSION_LIST_BYTES + NAME_BYTES * len(session_list) + LETTER_BYTES * len(text)
