"""The session ids of a bulk request, found and checked in one compiled pass over their bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.codec.limits import MAX_SESSION_ID, SESSION_ID
from app.jobs.session_list import NameSpans, SessionList
from models.arrays import Bools, Bytes, Ints
from models.jit import INT, contiguous, jit, jit_part, readonly_contiguous

# In an id; the two ids that are none though their letters may be are `.` and `..`.
ID_LETTERS = np.array([SESSION_ID.fullmatch(f"a{chr(byte)}") is not None for byte in range(256)])
NEWLINE, DOT, QUOTE, COMMA, OPEN_LIST, CLOSE_LIST = b'\n.",[]'
SPACE, TAB, RETURN = b" \t\r"


def read_lines(text: bytes, count: int) -> SessionList | None:
    """So many ids, separated by newlines; None unless all are valid."""
    starts, ends = np.empty((2, count), np.int64)
    found = _read_lines(np.frombuffer(text, np.uint8), ID_LETTERS, MAX_SESSION_ID, starts, ends)
    return SessionList(spans=NameSpans(text, starts, ends)) if found == count else None


def read_json_list(text: bytes, most: int) -> SessionList | None:
    """The ids in a JSON list of up to `most`; None for other JSON, or where a string has an escape."""
    starts, ends = np.empty((2, most), np.int64)
    found = _read_json_list(np.frombuffer(text, np.uint8), ID_LETTERS, MAX_SESSION_ID, starts, ends)
    return SessionList(spans=NameSpans(text, starts[:found], ends[:found])) if found > 0 else None


def are_session_ids(names: Sequence[str]) -> bool:
    """Whether all of these are valid session ids."""
    if max(map(len, names), default=0) > MAX_SESSION_ID:
        return False  # also keeps the text below small: one long string may be here ten thousand times
    joined = "\n".join(names)
    return joined.isascii() and read_lines(joined.encode(), len(names)) is not None


@jit_part
def _id_end(text: Bytes, start: int, letters: Bools, longest: int) -> int:
    """The end of the id that begins here; `start` where there is none."""
    i, last, dots = np.uint64(start), np.uint64(min(len(text), start + longest)), 0
    while i < last and letters[text[i]]:
        dots += text[i] == DOT
        i += np.uint64(1)
    size = int(i) - start
    return start if size <= 2 and dots == size else start + size


@jit(readonly_contiguous("uint8"), contiguous("bool"), INT, contiguous("int64"), contiguous("int64"))
def _read_lines(text: Bytes, letters: Bools, longest: int, starts: Ints, ends: Ints) -> int:
    """Write where each id lies. Returns how many there are; -1 if one is not valid or there are more."""
    i = 0
    for count in range(len(starts)):
        end = _id_end(text, i, letters, longest)
        if end == i or (end < len(text) and text[end] != NEWLINE):
            return -1
        starts[count], ends[count] = i, end
        i = end + 1
        if end == len(text):
            return count + 1
    return -1


@jit_part
def _skip_blanks(text: Bytes, i: int) -> int:
    while i < len(text) and (text[i] == SPACE or text[i] == NEWLINE or text[i] == TAB or text[i] == RETURN):
        i += 1
    return i


@jit(readonly_contiguous("uint8"), contiguous("bool"), INT, contiguous("int64"), contiguous("int64"))
def _read_json_list(text: Bytes, letters: Bools, longest: int, starts: Ints, ends: Ints) -> int:
    """Write where each id lies. Returns how many there are; -1 if it is no list of valid ids, or of more."""
    i = _skip_blanks(text, 0)
    if i >= len(text) or text[i] != OPEN_LIST:
        return -1
    for count in range(len(starts)):
        i = _skip_blanks(text, i + 1)
        if i >= len(text) or text[i] != QUOTE:
            return -1
        end = _id_end(text, i + 1, letters, longest)
        if end == i + 1 or end >= len(text) or text[end] != QUOTE:
            return -1
        starts[count], ends[count] = i + 1, end
        i = _skip_blanks(text, end + 1)
        if i >= len(text):
            return -1
        if text[i] == CLOSE_LIST:
            return count + 1 if _skip_blanks(text, i + 1) == len(text) else -1
        if text[i] != COMMA:
            return -1
    return -1
