"""Audio to a session of a model over samples: a WAV file, or samples as they come from a microphone.

Each piece is a request of its own, with the position that it starts at. A retry is answered from what the
server has kept, so every sample is applied once and every event comes once.
"""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from carryover import plans, wire
from carryover.effects import PULL, Emit, Plan
from carryover.errors import NotCarryover
from carryover.observations import Chunk
from carryover.retry import RetryPolicy
from carryover.values import Answer
from carryover.wire import Cursor

PIECE_SECONDS = 1.0


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


def stream_audio(cursor: Cursor, retry: RetryPolicy) -> Plan[None]:
    """Pull pieces until the source is empty, and emit an answer for each, in order."""
    yield from plans.locate(cursor, retry)
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
    """Joins the events of a session to segments."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._start: int | None = None

    def closed_by(self, answer: Answer) -> Iterator[Segment]:
        """The segments that end in this piece."""
        for event in answer.events or ():
            if event["event"] == "speech_start":
                self._start = event["sample"]
            else:
                start, self._start = self._start, None
                yield Segment(start, event["sample"], self._rate)

    def left_open(self) -> Iterator[Segment]:
        """The segment that has not ended with the audio, if there is one."""
        if self._start is not None:
            yield Segment(self._start, None, self._rate)


class AudioStream:
    """The segments of speech in audio, as they end. Iterate over it once."""

    def __init__(self, answers: Generator[Answer, None, None], rate: int) -> None:
        self._answers = answers
        self.rate = rate

    def __iter__(self) -> Iterator[Segment]:
        finder = SegmentFinder(self.rate)
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

    def __init__(self, answers: AsyncGenerator[Answer, None], rate: int) -> None:
        self._answers = answers
        self.rate = rate

    async def __aiter__(self) -> AsyncIterator[Segment]:
        finder = SegmentFinder(self.rate)
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
