"""`carryover listen`: send audio to a session, and print the stretches of speech in it as they end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from carryover import Segment

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
    model: connect.NewModel = None,
    rate: Annotated[
        int, typer.Option(min=1, help="Samples a second on standard input; a file says it itself.")
    ] = 16_000,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the segments, in place of standard output: JSON, a line each.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a file that was interrupted: skip the samples that were applied."
        ),
    ] = False,
    began_at: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="POSITION",
            help="With --resume: the session's position when the first sample of this file was sent.",
        ),
    ] = 0,
    as_json: options.Json = False,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Send audio to a session of a model over samples, and print where speech starts and ends, in seconds.

    A stretch of speech is printed when it ends. The last one may not have ended with the audio. Times count
    from the session's first sample. The server may restart meanwhile.

    With --resume the session applies each sample of the file once. The server compares the last second that
    it has applied with the file. Segments that ended in the last eight seconds before the interruption are
    printed again; with --out each is written once.

    For example: carryover listen meeting.wav speaker-1 --model silero-vad

    For example: arecord -q -f S16_LE -r 16000 -t raw | carryover listen - desk --model silero-vad
    """
    from carryover import CannotResume

    from models.errors import BadData

    if resume and str(audio) == "-":
        raise typer.BadParameter("needs a file: samples of standard input are gone", param_hint="--resume")
    with ExitStack() as stack:
        written = None if out is None else _Written(out, resume)
        service = stack.enter_context(connect.client(url, key_file, connect.PATIENCE_SECONDS))
        target = service.session(session, model)
        try:
            if str(audio) == "-":
                heard = target.stream_audio(_pieces(sys.stdin.buffer), rate)
            else:
                after = None if written is None else written.end
                heard = target.stream_audio(audio, resume=resume, start=began_at, after=after)
        except ValueError as error:
            raise BadData(str(error)) from None
        file = sys.stdout if out is None else stack.enter_context(out.open("a", encoding="utf-8"))
        try:
            for segment in heard:
                print(_as_json(segment) if as_json or out else _as_text(segment), file=file, flush=True)
        except CannotResume as error:
            raise BadData(f"{error}. If it began at another position, give that with --began-at") from None


class _Written:
    """The segments that an earlier run has written.

    A line that is not complete is removed from the file, and so is a segment that had not ended.

    Parameters
    ----------
    resume : the file is gone on with

    Raises
    ------
    BadData : the file has something else, or anything at all without `resume`

    Attributes
    ----------
    end : of the last segment; None if there is none
    """

    def __init__(self, path: Path, resume: bool) -> None:
        from models.errors import BadData

        self.end: int | None = None
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not resume:
            raise BadData(f"{path} has segments already: choose another --out, or go on with --resume")
        while lines and self.end is None:
            if lines[-1].endswith(b"\n"):
                try:
                    self.end = json.loads(lines[-1])["end"]
                except (ValueError, KeyError, TypeError):
                    raise BadData(f"{path} is no file of segments: choose another --out") from None
            if self.end is None:
                lines.pop()
        if resume and path.exists():
            with path.open("r+b") as file:
                file.truncate(sum(map(len, lines)))


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
