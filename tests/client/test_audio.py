"""Audio by the client and the command: every segment once, although answers are lost."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import carryover
import numpy as np
import pytest
from carryover import AsyncCarryover, Carryover, RetryPolicy, Segment
from carryover.audio import open_wav
from carryover.effects import Request

from app.cli import run
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers import graphs
from tests.helpers.services import starter
from tests.helpers.ways import HotRoute

pytestmark = pytest.mark.anyio
RATE = 8000
RETRY = RetryPolicy(20.0, first_pause=0.001, max_pause=0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    save(graphs.loudness(frame=32), folder / "loudness")
    return folder


@pytest.fixture
def start(folder, clock, tmp_path, monkeypatch):
    made = starter(HotRoute, "memory", folder, clock, tmp_path, monkeypatch)
    return lambda: made(models=(folder,), default_model="loudness")


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """[samples], 3 seconds of bursts, which end loud."""
    random = np.random.default_rng(6)
    loud = np.repeat(np.arange(30) % 2 == 1, 800)
    return (
        (np.where(loud, 0.6, 0.005) * random.standard_normal(len(loud)) * 16_000)
        .clip(-32768, 32767)
        .astype("<i2")
    )


@pytest.fixture(scope="module")
def segments(speech) -> list[Segment]:
    """What the network, given all samples at once, answers."""
    forecaster = Forecaster(graphs.loudness(frame=32))
    numbers = (speech / np.float32(32768)).astype(np.float32)[:, None]
    carry = forecaster.new_carry
    outputs, _ = forecaster.advance(numbers, np.array([len(numbers)]), carry[None])
    events = forecaster.samples.answer(carry, 0, outputs)["events"].astype(int).tolist()
    assert [kind for kind, _ in events] == [1, 0] * 14 + [1]
    ends = [sample for _, sample in events] + [None]
    return [Segment(start, end, RATE) for start, end in zip(ends[::2], ends[1::2], strict=True)]


@pytest.fixture(scope="module")
def file(speech, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("wav") / "meeting.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(speech.tobytes())
    return path


@pytest.fixture
def lossy(monkeypatch) -> None:
    """Lose every third answer, after the server has sent it."""
    asked = 0

    def lost(effect: Any) -> None:
        nonlocal asked
        asked += isinstance(effect, Request)
        if isinstance(effect, Request) and asked % 3 == 0:
            raise carryover.Unreachable("lost on purpose")

    performed, awaited = Carryover._perform, AsyncCarryover._perform

    def perform(self: Any, effect: Any) -> Any:
        result = performed(self, effect)
        lost(effect)
        return result

    async def perform_async(self: Any, effect: Any) -> Any:
        result = await awaited(self, effect)
        lost(effect)
        return result

    monkeypatch.setattr(Carryover, "_perform", perform)
    monkeypatch.setattr(AsyncCarryover, "_perform", perform_async)


@pytest.mark.usefixtures("lossy")
async def test_every_segment_comes_once_although_answers_are_lost(start, file, speech, segments):
    raw = speech.tobytes()
    pieces = [raw[at : at + 6002] for at in range(0, len(raw), 6002)]

    async def microphone() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async with start() as service:
        url = f"http://127.0.0.1:{service.port}"

        def blocking() -> list[list[Segment]]:
            with Carryover(url, retry=RETRY) as client:
                return [
                    list(client.session("a", model="loudness").stream_audio(file)),
                    list(client.session("b").stream_audio([*pieces, b""], RATE)),
                ]

        found = await asyncio.to_thread(blocking)
        async with AsyncCarryover(url, retry=RETRY) as client:
            found.append([segment async for segment in client.session("c").stream_audio(str(file))])
            found.append([segment async for segment in client.session("d").stream_audio(microphone(), RATE)])
        assert found == [segments] * 4
        assert {(await service.session(name))["position"] for name in "abcd"} == {len(speech)}


async def test_answers_say_what_they_cover_and_ordinary_streams_work_too(start, file, speech):
    async with start() as service:

        def answers() -> list[Any]:
            with Carryover(f"http://127.0.0.1:{service.port}") as client:
                heard = list(client.session("a").stream_audio(file).answers())
                samples = (speech / np.float32(32768)).astype(np.float32)
                whole = [
                    client.session(name).stream(samples[:4000], 333, socket=socket).collect()
                    for name, socket in (("b", True), ("c", False))
                ]
                return [heard, *whole]

        heard, *whole = await asyncio.to_thread(answers)
        assert [answer.covers for answer in heard] == [[0, 8000], [8000, 16000], [16000, 24000]]
        assert [len(answer) for answer in heard] == [250] * 3
        for answer in whole:
            np.testing.assert_allclose(answer.predictions, heard[0].predictions[:125], atol=1e-6)
            assert (answer.covers, answer[-1].position) == ([0, 4000], 4000)
            assert answer.events == [event for event in heard[0].events if event["sample"] < 3900]


@pytest.mark.parametrize("socket", [True, False])
async def test_chunks_shorter_than_a_frame_are_streamed(start, speech, socket):
    samples = (speech[:320] / np.float32(32768)).astype(np.float32)[:, None]
    async with start() as service:
        url = f"http://127.0.0.1:{service.port}"

        def predictions(name: str, chunk: int) -> Any:
            with Carryover(url) as client:
                try:
                    return client.session(name).stream(samples, chunk, socket=socket).collect().predictions
                except (ArithmeticError, ValueError) as error:
                    return error

        short, whole = [await asyncio.to_thread(predictions, *case) for case in (("a", 10), ("b", 320))]
        async with AsyncCarryover(url) as client:
            awaited = await client.session("c").stream(samples, 10, socket=socket).collect()
    assert np.shape(whole) == (10, 1)
    assert np.shape(short) == np.shape(awaited.predictions) == (10, 1)
    np.testing.assert_allclose(short, whole, atol=1e-6)


async def test_the_command_prints_segments_of_a_file_and_of_standard_input(
    start, file, speech, segments, capsys, monkeypatch
):
    async with start() as service:
        url = ["--url", f"http://127.0.0.1:{service.port}"]
        capsys.readouterr()
        assert await asyncio.to_thread(run, ["listen", str(file), "a", *url]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{segments[0].start / RATE:.3f}  {segments[0].end / RATE:.3f}"
        assert (len(lines), lines[-1].split()[1]) == (len(segments), "...")
        piped = io.TextIOWrapper(io.BytesIO(speech.tobytes()))
        monkeypatch.setattr(sys, "stdin", piped)
        arguments = ["listen", "-", "b", "--rate", str(RATE), "--json", *url]
        assert await asyncio.to_thread(run, arguments) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert found == [{"start": each.start, "end": each.end, "rate": RATE} for each in segments]
        assert await asyncio.to_thread(run, ["listen", __file__, "a", *url]) == 2
        assert "is not a WAV file" in capsys.readouterr().err


async def test_the_command_goes_on_where_it_was_interrupted_and_writes_each_segment_once(
    start, file, speech, segments, tmp_path, capsys, monkeypatch
):
    expected = [{"start": each.start, "end": each.end, "rate": RATE} for each in segments]
    out = tmp_path / "segments.jsonl"
    async with start() as service:
        url = ["--url", f"http://127.0.0.1:{service.port}"]
        perform, sent = Carryover._perform, []

        def interrupted(self: Any, effect: Any) -> Any:
            result = perform(self, effect)
            if isinstance(effect, Request) and effect.method == "POST":
                sent.append(effect)
                if len(sent) == 2:
                    raise KeyboardInterrupt  # the second piece was applied, and its answer is lost
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Carryover, "_perform", interrupted)
            assert await asyncio.to_thread(run, ["listen", str(file), "a", "--out", str(out), *url]) == 130
        assert (await service.session("a"))["position"] == 2 * RATE
        before = [json.loads(line) for line in out.read_text().splitlines()]
        assert before == expected[: len(before)]
        out.write_text(out.read_text() + '{"start": 12')  # a line that was cut off
        arguments = ["listen", str(file), "a", "--out", str(out), *url]
        assert await asyncio.to_thread(run, arguments) == 2
        assert "has segments already" in capsys.readouterr().err
        for _ in range(2):  # the second time there is nothing left
            assert await asyncio.to_thread(run, [*arguments, "--resume"]) == 0
            assert [json.loads(line) for line in out.read_text().splitlines()] == expected
            assert (await service.session("a"))["position"] == len(speech)
        # Another file, or another beginning, is found out.
        other = tmp_path / "other.wav"
        with wave.open(str(other), "wb") as writer:
            writer.setparams((1, 2, RATE, 0, "NONE", ""))
            writer.writeframes(speech[::-1].tobytes())
        for wrong in ([str(other)], [str(file), "--began-at", str(RATE)]):
            refused = ["listen", wrong[0], "a", "--resume", *wrong[1:], *url]
            assert await asyncio.to_thread(run, refused) == 2
            assert "has not applied this audio" in (refusal := capsys.readouterr().err)
            assert "--began-at" in refusal
        assert (await service.session("a"))["position"] == len(speech)
        assert await asyncio.to_thread(run, ["listen", "-", "a", "--resume", *url]) == 2


def test_what_is_no_audio_is_refused_before_it_is_sent(tmp_path):
    with pytest.raises(ValueError, match="not a WAV file"):
        open_wav(__file__)
    session = Carryover("http://127.0.0.1:9").session("a")
    with pytest.raises(ValueError, match="need their rate"):
        session.stream_audio([b"ab"])
