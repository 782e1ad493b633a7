"""The answers to a session's last few chunks. A retry gets the stored answer and is not applied again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from app.session.rows import Answer, LongAnswers, Rows
from models.arrays import Digests, Floats, Ints, UInt32s
from models.forecaster import Forecaster
from models.jit import jit, readonly, writable


def find(rows: Rows, i: int, at: int, length: int) -> int | None:
    """The index of the remembered chunk of session `i` that began at `at` with this length.

    0 is the newest; None means that there is no such chunk.
    """
    header = rows.headers[i]
    end = int(header["position"])
    for chunk, chunk_length in enumerate(header["chunk_lengths"].tolist()):
        if chunk_length == 0 or end <= at:
            return None
        if end - chunk_length == at:
            return chunk if chunk_length == length else None
        end -= chunk_length
    return None


def began_at(rows: Rows, i: int, at: int) -> tuple[int, int] | None:
    """The index and length of the remembered chunk of session `i` that began at `at`, whatever its length."""
    for chunk, start, end in _spans(rows, i):
        if start == at:
            return chunk, end - start
    return None


def reached(rows: Rows, i: int, position: int) -> tuple[int, int] | None:
    """The index and start of the remembered chunk of session `i` that has led to or beyond `position`."""
    for chunk, start, end in _spans(rows, i):
        if start < position <= end:
            return chunk, start
    return None


def _spans(rows: Rows, i: int) -> Iterator[tuple[int, int, int]]:
    """The index of each remembered chunk of session `i`, and the positions where it began and ended."""
    end = int(rows.headers["position"][i])
    for chunk, length in enumerate(rows.headers["chunk_lengths"][i].tolist()):
        if length == 0:
            return
        yield chunk, end - length, end
        end -= length


def forget_newest(rows: Rows, i: int) -> None:
    """Forget the newest chunk of session `i`, which is about to be remembered with more behind it."""
    for name in ("chunk_lengths", "digest", "answer"):
        column = rows.headers[name][i]
        column[:-1] = column[1:].copy()
        column[-1] = 0
    rows.long_answers[i] = rows.long_answers.get(i, ())[1:]


def digest(rows: Rows, i: int, chunk: int) -> int:
    """The digest of a remembered chunk of session `i`."""
    return int(rows.headers["digest"][i, chunk])


def answer(rows: Rows, i: int, chunk: int) -> Answer:
    """The stored answer of session `i` to a remembered chunk."""
    long = rows.long_answers.get(i, ())
    kept = long[chunk] if chunk < len(long) else None
    return kept if kept is not None else {"predictions": rows.headers["answer"][i, chunk][None]}


def remember(
    rows: Rows,
    lengths: Ints,
    digests: Digests,
    last: Floats,
    long: dict[int, Answer],
    max_bytes: int,
) -> None:
    """Put the newest answer of every session first, in place.

    Parameters
    ----------
    rows : the sessions; their headers are written to
    lengths, digests : [batch], of the chunks just applied
    last : [batch, outputs], the prediction after each chunk: the whole answer to a chunk of length 1; of no
        numbers where the header holds none
    long : by index, the long answers (`app.session.rows`)
    max_bytes : limit of the long answers of a session; older ones are dropped, the newest is always kept
    """
    headers = rows.headers
    _put_in_front(headers["chunk_lengths"], headers["digest"], headers["answer"], lengths, digests, last)
    if not long and not rows.long_answers:
        return
    chunk_lengths, counts, before = headers["chunk_lengths"], headers["long_answer_count"], rows.long_answers
    max_chunks = chunk_lengths.shape[1]
    for i in long.keys() | before.keys():
        answers = (long.get(i), *before.get(i, ()))[:max_chunks]
        fitting = _fitting(answers, max_bytes)
        if fitting < len(answers):
            chunk_lengths[i, fitting:] = 0
            answers = answers[:fitting]
        while answers and answers[-1] is None:
            answers = answers[:-1]
        counts[i] = len(answers)
        if answers:
            before[i] = answers
        else:
            before.pop(i, None)


def reset_sessions(rows: Rows, forecaster: Forecaster, which: Sequence[int] = (0,)) -> None:
    """Reset the carries of these sessions in place. Their positions do not change.

    Their stored answers are dropped, so that no chunk from before the reset is replayed.
    """
    which = list(which)  # NumPy would take a tuple for one index per dimension
    rows.carries[which] = forecaster.reset(rows.carries[which])
    for name in ("since_reset", "chunk_lengths", "long_answer_count"):
        rows.headers[name][which] = 0
    for i in which:
        rows.long_answers.pop(i, None)
        if i in rows.notes:
            rows.notes[i] = rows.notes[i].quiet()


@jit(
    writable("uint32", 2), writable("uint64", 2), writable("float32", 3),
    readonly("int64"), readonly("uint64"), readonly("float32", 2),
)  # fmt: skip
def _put_in_front(
    chunk_lengths: UInt32s,
    digest: Digests,
    answer: Floats,
    lengths: Ints,
    digests: Digests,
    last: Floats,
) -> None:
    """Shift every remembered chunk by one, and drop the oldest."""
    chunks, outputs = chunk_lengths.shape[1], last.shape[1]
    for i in range(len(lengths)):
        length, mark = np.uint32(lengths[i]), digests[i]
        for chunk in range(chunks):
            chunk_lengths[i, chunk], length = length, chunk_lengths[i, chunk]
            digest[i, chunk], mark = mark, digest[i, chunk]
        for output in range(outputs):
            number = last[i, output]
            for chunk in range(chunks):
                answer[i, chunk, output], number = number, answer[i, chunk, output]


def _fitting(answers: LongAnswers, max_bytes: int) -> int:
    """How many of the answers, the newest first, are within the limit; the newest always is."""
    total = 0
    for chunk, kept in enumerate(answers):
        if kept:
            for array in kept.values():  # three times as fast as a sum over a generator
                total += array.nbytes
            if chunk and total > max_bytes:
                return chunk
    return len(answers)
