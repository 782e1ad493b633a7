"""`carryover listen`: send audio to a session, and print the stretches of speech in it as they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import Segment

PATIENCE_SECONDS = 300.0
PIECE_BYTES = 3200  # 0.1 s of 16 kHz: what may be read at once of a pipe that goes on


def listen(
    audio: Annotated[
        Path,
        typer.Argument(
            help="A WAV file; or - for raw samples of 16 bits, little-endian, on standard input.",
            show_default=False,
        ),
    ],
    session: connect.SessionId,
    model: Annotated[
        str | None, typer.Option(help="Model of a session that does not exist yet.", show_default=False)
    ] = None,
    rate: Annotated[
        int, typer.Option(min=1, help="Samples a second on standard input; a file says it itself.")
    ] = 16_000,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Send audio to a session of a model over samples, and print where speech starts and ends, in seconds.

    A stretch of speech is printed when it ends. The last one may not have ended with the audio. Times count
    from the session's first sample. The server may restart meanwhile.

    For example: carryover listen meeting.wav speaker-1 --model silero-vad

    For example: arecord -q -f S16_LE -r 16000 -t raw | carryover listen - desk --model silero-vad
    """
    from models.errors import BadData

    with connect.client(url, key_file, PATIENCE_SECONDS) as service:
        target = service.session(session, model)
        try:
            if str(audio) == "-":
                heard = target.stream_audio(_pieces(sys.stdin.buffer), rate)
            else:
                heard = target.stream_audio(audio)
        except ValueError as error:
            raise BadData(str(error)) from None
        for segment in heard:
            print(_as_json(segment) if as_json else _as_text(segment), flush=True)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """What has come in, as soon as it has, in whole samples."""
    rest = b""
    while data := file.read1(PIECE_BYTES) if hasattr(file, "read1") else file.read(PIECE_BYTES):
        rest += data
        whole = len(rest) - len(rest) % 2
        yield rest[:whole]
        rest = rest[whole:]


def _as_json(segment: Segment) -> str:
    return json.dumps({"start": segment.start, "end": segment.end, "rate": segment.rate})


def _as_text(segment: Segment) -> str:
    start, end = segment.start_seconds, segment.end_seconds
    return f"{'...' if start is None else f'{start:.3f}'}  {'...' if end is None else f'{end:.3f}'}"
