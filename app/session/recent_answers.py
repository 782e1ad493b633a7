"""The answers of a session's last few chunks, so that a retry is answered again and never applied again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.session.rows import Answer, Rows
from models.arrays import Digests, Floats, Ints, Words
from models.forecaster import Forecaster
from models.jit import jit, readonly, writable


def find(rows: Rows, i: int, at: int, length: int) -> int | None:
    """Which remembered chunk of session `i` began at `at` and had this length, if any: 0 is the newest."""
    header = rows.headers[i]
    end = int(header["position"])
    for place, steps in enumerate(header["steps"].tolist()):
        if steps == 0 or end <= at:
            return None
        if end - steps == at:
            return place if steps == length else None
        end -= steps
    return None


def digest(rows: Rows, i: int, place: int) -> int:
    """The digest of a remembered chunk of session `i`."""
    return int(rows.headers["digest"][i, place])


def answer(rows: Rows, i: int, place: int) -> Answer:
    """The stored answer of session `i` at this place."""
    long = rows.long_answers.get(i, ())
    kept = long[place] if place < len(long) else None
    return kept if kept is not None else {"predictions": rows.headers["answer"][i, place][None]}


def remember(
    rows: Rows,
    lengths: Ints,
    digests: Digests,
    last: Floats,
    long: dict[int, Answer],
    most_bytes: int,
) -> None:
    """Put the newest answer of every session in front, in place.

    Parameters
    ----------
    rows : the sessions; their headers are written to
    lengths, digests : [batch], of the chunks just applied
    last : [batch, outputs], the prediction after each chunk: the whole answer where it had one step
    long : by index, the answers that are more than that
    most_bytes : older long answers of a session are forgotten beyond this; the newest is always kept
    """
    headers = rows.headers
    _put_in_front(headers["steps"], headers["digest"], headers["answer"], lengths, digests, last)
    if not long and not rows.long_answers:
        return
    for i in long.keys() | rows.long_answers.keys():
        _remember_long(rows, i, long.get(i), most_bytes)


def reset_sessions(rows: Rows, forecaster: Forecaster, which: Sequence[int] = (0,)) -> None:
    """Begin these sessions' carries anew and leave their positions, in place.

    Their answers are forgotten: after a reset no chunk from before it may be taken for a retry.
    """
    which = list(which)  # a tuple would be an index of as many dimensions
    rows.carries[which] = forecaster.reset(rows.carries[which])
    for name in ("since_reset", "steps", "has_long"):
        rows.headers[name][which] = 0
    for i in which:
        rows.long_answers.pop(i, None)


@jit(
    writable("uint32", 2), writable("uint64", 2), writable("float32", 3),
    readonly("int64"), readonly("uint64"), readonly("float32", 2),
)  # fmt: skip
def _put_in_front(
    steps: Words,
    digest: Digests,
    answer: Floats,
    lengths: Ints,
    digests: Digests,
    last: Floats,
) -> None:
    """What was newest is second from now on, and what was oldest is forgotten."""
    chunks, outputs = steps.shape[1], last.shape[1]
    for i in range(len(lengths)):
        length, mark = np.uint32(lengths[i]), digests[i]
        for place in range(chunks):
            steps[i, place], length = length, steps[i, place]
            digest[i, place], mark = mark, digest[i, place]
        for output in range(outputs):
            number = last[i, output]
            for place in range(chunks):
                answer[i, place, output], number = number, answer[i, place, output]


def _remember_long(rows: Rows, i: int, newest: Answer | None, most_bytes: int) -> None:
    most_chunks = rows.headers["steps"].shape[1]
    answers = (newest, *rows.long_answers.get(i, ()))[:most_chunks]
    total = 0
    for place, kept in enumerate(answers):
        if not kept:
            continue
        for array in kept.values():  # a sum of a generator would cost three times as much
            total += array.nbytes
        if place and total > most_bytes:
            rows.headers["steps"][i, place:] = 0
            answers = answers[:place]
            break
    while answers and answers[-1] is None:
        answers = answers[:-1]
    rows.headers["has_long"][i] = len(answers)
    if answers:
        rows.long_answers[i] = answers
    else:
        rows.long_answers.pop(i, None)
