"""Audio to a session of a model over samples: a WAV file, or samples as they come from a microphone.

Each piece is a request of its own, with the position that it starts at. A retry is answered from what the
server has kept, so every sample is applied once and every event comes once.

A source of the same pieces is gone on with after an interruption: what the session has applied is skipped. Of
the last pieces the answers come again, because the earlier run may have lost them.
"""

from __future__ import annotations

import io
import wave
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from carryover import plans, wire
from carryover.effects import PULL, Emit, Plan
from carryover.errors import CannotResume, NotCarryover, OutOfStep
from carryover.observations import Chunk
from carryover.retry import RetryPolicy
from carryover.values import Answer
from carryover.wire import Cursor

PIECE_SECONDS = 1.0
REPEATED = 8
"""Pieces whose answers are asked for again when a session goes on with a file; servers keep so many."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some samples, as the body of a request."""

    body: bytes
    kind: str
    samples: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech.

    start, end : positions of samples; None where speech began before this audio, or had not ended with it
    rate : samples a second
    """

    start: int | None
    end: int | None
    rate: int

    @property
    def start_seconds(self) -> float | None:
        """Its start, in seconds of the session."""
        return None if self.start is None else self.start / self.rate

    @property
    def end_seconds(self) -> float | None:
        """Its end, in seconds of the session."""
        return None if self.end is None else self.end / self.rate


def stream_audio(cursor: Cursor, retry: RetryPolicy, began_at: int | None = None) -> Plan[None]:
    """Pull pieces until the source is empty, and emit an answer for each, in order.

    Parameters
    ----------
    began_at : position of the session when the first piece was sent in an earlier run; the pieces that it
        has applied since are skipped. None: all pieces are new

    Raises
    ------
    CannotResume : the session has applied something else
    """
    if began_at is None:
        yield from plans.locate(cursor, retry)
    else:
        yield from _skip_applied(cursor, began_at, retry)
    while True:
        piece: Piece | None = yield PULL
        if piece is None:
            return
        at = cursor.position or 0
        reply = yield from plans.send(wire.audio(cursor, piece.body, piece.kind), retry)
        answer = wire.parse_answer(wire.reply_object(reply), cursor, Chunk([], flat=True))
        if answer.position != at + piece.samples:
            raise NotCarryover(f"the answer has position {answer.position}, but the samples start at {at}")
        cursor.update(answer)
        yield Emit(answer)


def _skip_applied(cursor: Cursor, began_at: int, retry: RetryPolicy) -> Plan[None]:
    """Pull the pieces that the session has applied, and emit the last answers that the server has kept.

    The last piece is sent once more at the position where it began. The server compares its content with what
    it has applied, and applies it in no case.
    """
    cursor.invalidate()
    yield from plans.locate(cursor, retry)
    position, at = cursor.position or 0, began_at
    last: deque[tuple[int, Piece]] = deque(maxlen=REPEATED)
    while at < position:
        piece: Piece | None = yield PULL
        if piece is None:
            break
        last.append((at, piece))
        at += piece.samples
    agrees = at == position
    for at, piece in last if agrees else ():
        again = Cursor(cursor.session, position=at, epoch=cursor.epoch)
        try:
            reply = yield from plans.send(wire.audio(again, piece.body, piece.kind), retry)
        except OutOfStep:
            agrees = False
            continue
        yield Emit(wire.parse_answer(wire.reply_object(reply), again, Chunk([], flat=True)))
        agrees = True
    if not agrees:
        raise CannotResume(
            f"session {cursor.session!r} is at {position}, and has not applied this audio from {began_at} "
            "on: it got other samples, or was reset, or the audio began at another position. To send it as "
            "new samples, do not resume"
        )


def open_wav(path: str | Path) -> tuple[int, Iterator[Piece]]:
    """The rate of a WAV file, and its samples in pieces of about a second.

    Raises
    ------
    ValueError : it is not a WAV file of linear PCM
    """
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115  (`_wav_pieces` closes it)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a WAV file of linear PCM: {error}") from error
    return file.getframerate(), _wav_pieces(file)


def _wav_pieces(file: wave.Wave_read) -> Iterator[Piece]:
    with file:
        size = max(1, int(file.getframerate() * PIECE_SECONDS))
        width = file.getsampwidth() * file.getnchannels()
        while data := file.readframes(size):
            body = io.BytesIO()
            with wave.open(body, "wb") as piece:
                piece.setparams(file.getparams())
                piece.writeframes(data)
            yield Piece(body.getvalue(), "audio/wav", len(data) // width)


def pcm_piece(data: bytes, rate: int) -> Piece:
    """Samples of 16 bits, little-endian.

    Raises
    ------
    ValueError : half a sample
    """
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes are not a whole number of samples of 16 bits")
    return Piece(bytes(data), f"audio/l16;rate={rate};endianness=little-endian", len(data) // 2)


def pcm_pieces(source: Iterable[bytes], rate: int) -> Iterator[Piece]:
    """A piece for each entry of the source that is not empty."""
    return (pcm_piece(data, rate) for data in source if data)


def check_rate(rate: int | None) -> int:
    """The rate of raw samples.

    Raises
    ------
    ValueError : it is not given
    """
    if rate is None:
        raise ValueError("raw samples need their rate, as in stream_audio(microphone, rate=16000)")
    return rate


class SegmentFinder:
    """Joins the events of a session to segments.

    Parameters
    ----------
    rate : samples a second
    after : segments that end up to this position are left out; None: all are wanted
    """

    def __init__(self, rate: int, after: int | None = None) -> None:
        self._rate, self._after = rate, after
        self._start: int | None = None

    def closed_by(self, answer: Answer) -> Iterator[Segment]:
        """The segments that end in this piece."""
        for event in answer.events or ():
            if event["event"] == "speech_start":
                self._start = event["sample"]
            else:
                start, self._start = self._start, None
                if self._after is None or event["sample"] > self._after:
                    yield Segment(start, event["sample"], self._rate)

    def left_open(self) -> Iterator[Segment]:
        """The segment that has not ended with the audio, if there is one."""
        if self._start is not None:
            yield Segment(self._start, None, self._rate)


class AudioStream:
    """The segments of speech in audio, as they end. Iterate over it once."""

    def __init__(self, answers: Generator[Answer, None, None], rate: int, after: int | None = None) -> None:
        self._answers = answers
        self.rate = rate
        self._after = after

    def __iter__(self) -> Iterator[Segment]:
        finder = SegmentFinder(self.rate, self._after)
        for answer in self._answers:
            yield from finder.closed_by(answer)
        yield from finder.left_open()

    def answers(self) -> Iterator[Answer]:
        """Yield one `Answer` per piece: predictions of its frames, `covers` and `events`."""
        return self._answers

    def close(self) -> None:
        """Stop."""
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class AsyncAudioStream:
    """The segments of speech in audio, as they end. Iterate over it once."""

    def __init__(self, answers: AsyncGenerator[Answer, None], rate: int, after: int | None = None) -> None:
        self._answers = answers
        self.rate = rate
        self._after = after

    async def __aiter__(self) -> AsyncIterator[Segment]:
        finder = SegmentFinder(self.rate, self._after)
        async for answer in self._answers:
            for segment in finder.closed_by(answer):
                yield segment
        for segment in finder.left_open():
            yield segment

    def answers(self) -> AsyncIterator[Answer]:
        """Yield one `Answer` per piece; see `AudioStream.answers`."""
        return self._answers

    async def close(self) -> None:
        """Stop."""
        await self._answers.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()
