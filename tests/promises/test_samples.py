"""Models over samples: any number of them at once, positions that count them, events that come once."""

from __future__ import annotations

import io
import json
import wave
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from app.codec.frames import COVERED, HEADER, RATE, S16
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers import binary, graphs
from tests.helpers.services import Start, starter
from tests.helpers.ways import AsgiRoute, TextSocket, check_problem

pytestmark = pytest.mark.anyio

FRAME = 8
BINARY = {"content-type": "application/octet-stream"}
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    save(graphs.loudness(), folder / "loudness")
    save(graphs.counter(), folder / "counter")
    return folder


@pytest.fixture
def start_on(folder, clock, tmp_path, monkeypatch):
    """Starts a service with the models, by a way and over a store."""

    def start_on(way: Any, store: str = "memory") -> Start:
        models = {"models": (folder,), "default_model": "loudness"}
        made = starter(way, store, folder, clock, tmp_path, monkeypatch)
        return lambda **changes: made(**(models | changes))

    return start_on


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """[samples], bursts of noise between silences, as s16 holds it."""
    random = np.random.default_rng(3)
    loud = np.repeat(random.random(40) < 0.5, random.integers(5, 90, 40))
    samples = np.where(loud, 0.6, 0.01) * random.standard_normal(len(loud))
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def whole(speech) -> Answer:
    """What the network, given all samples at once, answers."""
    return answer_of(speech)


def answer_of(samples: np.ndarray, rate: int | None = None) -> Answer:
    forecaster = Forecaster(graphs.loudness())
    carry = forecaster.new_carry
    if rate is not None:
        forecaster.samples.set_rate(carry, rate)
    numbers = (samples / np.float32(32768)).astype(np.float32)[:, None]
    outputs, _ = forecaster.advance(numbers, np.array([len(numbers)]), carry[None])
    answer = forecaster.samples.answer(carry, 0, outputs)
    return answer | {"events": answer["events"].tolist(), "covers": answer["covers"][0].tolist()}


def cuts(total: int, seed: int, longest: int = 120) -> list[slice]:
    random, slices = np.random.default_rng(seed), []
    while not slices or slices[-1].stop < total:
        start = slices[-1].stop if slices else 0
        slices.append(slice(start, min(total, start + int(random.integers(1, longest)))))
    return slices


def wav(samples: np.ndarray, rate: int, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


class Sender:
    """Sends chunks of samples in every way, to a session whose answers must follow each other."""

    def __init__(self, service: Any, session: str) -> None:
        self.service, self.session = service, session
        self.position = self.covered = 0
        self.predictions: list[float] = []
        self.events: list[list[int]] = []

    async def send(self, way: str, samples: np.ndarray, at: int | None = None) -> Answer:
        """The answer as JSON has it."""
        at = self.position if at is None else at
        return await getattr(self, way)(samples, at)

    async def feed(self, way: str, samples: np.ndarray) -> None:
        answer = await self.send(way, samples)
        self.position += len(samples)
        assert (answer["position"], answer["replayed"]) == (self.position, False)
        first, stop = answer["covers"]
        assert first == self.covered
        assert stop - first == FRAME * len(answer["predictions"])
        assert self.position - FRAME < stop <= self.position
        self.covered = stop
        self.predictions += answer["predictions"]
        kinds = {"speech_start": 1, "speech_end": 0}
        self.events += [[kinds[event["event"]], event["sample"]] for event in answer.get("events", ())]

    def check(self, whole: Answer) -> None:
        assert_allclose(self.predictions, whole["predictions"][: len(self.predictions), 0], atol=1e-6)
        assert self.events == list(whole["events"])

    async def http(self, samples: np.ndarray, at: int) -> Answer:
        body = {"observations": numbers(samples), "at": at}
        return await self._post(f"/sessions/{self.session}/observations", json=body)

    async def wav(self, samples: np.ndarray, at: int) -> Answer:
        headers = {"content-type": "audio/wav"}
        return await self._post(self._audio(at), content=wav(samples, 8000), headers=headers)

    async def l16(self, samples: np.ndarray, at: int) -> Answer:
        headers = {"content-type": "audio/l16; rate=8000"}
        return await self._post(self._audio(at), content=samples.astype(">i2").tobytes(), headers=headers)

    async def bulk(self, samples: np.ndarray, at: int) -> Answer:
        body = {
            "sessions": [self.session, f"{self.session}-other"],
            "observations": [[[number] for number in numbers(samples)], [[0.5]]],
            "at": [at, None],
        }
        answer = await self._post("/observations", json=body)
        assert answer["errors"] == {}
        return {
            "position": answer["positions"][0],
            "predictions": [row[0] for row in answer["predictions"][0]],
            "replayed": 0 in answer["replayed"],
            "covers": answer["covers"][0],
            "events": answer["events"][0],
        }

    async def text(self, samples: np.ndarray, at: int) -> Answer:
        line = await self.service._line(self.session)
        return json.loads(await line.ask(json.dumps({"observations": numbers(samples), "at": at}), text=True))

    async def f32(self, samples: np.ndarray, at: int) -> Answer:
        return await self._binary(np.array(numbers(samples), "<f4"), 0, at)

    async def s16(self, samples: np.ndarray, at: int) -> Answer:
        return await self._binary(samples.astype("<i2"), S16, at)

    async def _binary(self, samples: np.ndarray, flags: int, at: int, rate: int = 0) -> Answer:
        line = await self.service._line(self.session)
        answer = await line.ask(HEADER.pack(0, flags, 1, rate, at, 0) + samples.tobytes())
        assert isinstance(answer, bytes), answer
        _, flags, width, steps, position, _ = HEADER.unpack_from(answer)
        assert flags & COVERED
        assert width == 1
        end = HEADER.size + 4 * steps
        beside = np.frombuffer(answer, "<i8", offset=end).reshape(-1, 2).tolist()
        names = ("speech_end", "speech_start")
        return {
            "position": position,
            "predictions": np.frombuffer(answer, "<f4", steps, HEADER.size).tolist(),
            "replayed": bool(flags & 1),
            "covers": beside[0],
            "events": [{"event": names[kind], "sample": sample} for kind, sample in beside[1:]],
        }

    def _audio(self, at: int) -> str:
        return f"/sessions/{self.session}/audio?at={at}"

    async def _post(self, path: str, **request: Any) -> Answer:
        answer = await self.service.http.post(path, **request)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def numbers(samples: np.ndarray) -> list[float]:
    return (samples / np.float32(32768)).astype(np.float32).tolist()


WAYS = ("http", "wav", "l16", "bulk", "text", "f32", "s16")


async def test_chunks_of_any_size_in_any_way_answer_as_the_whole_and_say_what_they_cover(
    start_on, speech, whole
):
    random = np.random.default_rng(0)
    async with start_on(TextSocket)() as service:
        sender = Sender(service, "a")
        for i, chunk in enumerate(cuts(len(speech), seed=1)):
            await sender.feed(WAYS[i % len(WAYS)] if i < 14 else random.choice(WAYS), speech[chunk])
        sender.check(whole)
        assert len(whole["events"]) > 6
        described = (await service.http.get("/models/loudness")).json()
        assert described["unit"] == "sample"
        assert (described["samples"]["rate"], described["samples"]["frame"]) == (8000, FRAME)
        assert described["inputs"][0]["shape"] == []


@pytest.mark.parametrize("store", ["sqlite"])
async def test_a_chunk_that_ends_within_a_frame_is_applied_once_over_a_restart(
    start_on, speech, whole, store
):
    chunks = cuts(len(speech), seed=2)
    half = len(chunks) // 2
    async with start_on(AsgiRoute, store)() as service:
        sender = Sender(service, "a")
        for chunk in chunks[:half]:
            await sender.feed("http", speech[chunk])
        # The answers of several chunks are kept with their covers and events.
        kept = [
            (chunk, await sender.send("http", speech[chunk], chunk.start)) for chunk in chunks[:half][-3:]
        ]
    async with start_on(AsgiRoute, store)() as service:
        sender.service = service
        for chunk, answer in kept:
            assert answer["replayed"]
            assert await sender.send("wav", speech[chunk], chunk.start) == answer
        changed = speech[chunks[half - 1]] + 1
        body = {"observations": numbers(changed), "at": chunks[half - 1].start}
        assert (await service.http.post("/sessions/a/observations", json=body)).status_code == 409
        for chunk in chunks[half:]:
            await sender.feed("http", speech[chunk])
        sender.check(whole)


async def test_two_replicas_go_on_with_each_others_frames(start_on, speech, whole, redis_url):
    start = start_on(AsgiRoute, "redis")
    async with start() as one, start() as other:
        sender = Sender(one, "a")
        for i, chunk in enumerate(cuts(len(speech), seed=6)):
            sender.service = (one, other)[i % 2]
            await sender.feed(("http", "l16", "bulk")[i % 3], speech[chunk])
            # The replica that did not apply it has the answer, too, with covers and events.
            behind, kind = (other, one)[i % 2], "wav" if i % 3 else "http"
            if i % 4 == 0:
                again = await Sender(behind, "a").send(kind, speech[chunk], chunk.start)
                assert (again["replayed"], again["position"]) == (True, sender.position)
                assert again["covers"][1] == sender.covered
        sender.check(whole)


async def test_forks_and_moved_sessions_go_on_within_a_frame_and_a_reset_begins_a_new_one(
    start_on, speech, whole
):
    stop = 5 * FRAME + 3
    while not any(kind and sample < stop for kind, sample in whole["events"]):
        stop += FRAME
    async with start_on(AsgiRoute)() as service:
        post = service.http.post
        sender = Sender(service, "a")
        await sender.feed("http", speech[:stop])
        assert (await post("/sessions/a/fork", json={"id": "b"})).status_code == 201
        state = (await service.http.get("/sessions/a/state")).content
        assert (await service.http.put("/sessions/c/state", content=state)).json()["position"] == stop
        rest = [await Sender(service, name).send("wav", speech[stop:], stop) for name in "abc"]
        assert [answer | {"session": "", "epoch": ""} for answer in rest] == [
            rest[0] | {"session": "", "epoch": ""}
        ] * 3
        assert_allclose(rest[0]["predictions"], whole["predictions"][len(sender.predictions) :, 0], atol=1e-6)
        replayed = await Sender(service, "c").send("http", speech[:stop], 0)
        assert (replayed["replayed"], replayed["covers"]) == (True, [0, sender.covered])
        assert (await post("/sessions/b/reset", json={})).json()["position"] == len(speech)
        answer = await Sender(service, "b").send("http", speech[: 2 * FRAME + 1], len(speech))
        assert answer["covers"] == [len(speech), len(speech) + 2 * FRAME]
        assert_allclose(answer["predictions"], whole["predictions"][:2, 0], atol=1e-6)


@pytest.mark.parametrize("rate", [11_025, 48_000])
async def test_samples_of_another_rate_are_resampled_and_positions_stay_the_sessions_own(
    start_on, speech, rate
):
    at_rate = np.repeat(speech, 6)[: 40 * rate // 100]
    expected = answer_of(at_rate, rate)
    async with start_on(TextSocket)() as service:
        headers = {"content-type": "audio/wav"}
        answer = (
            await service.http.post("/sessions/w/audio", content=wav(at_rate, rate), headers=headers)
        ).json()
        assert answer["position"] == len(at_rate)
        assert answer["covers"] == expected["covers"]
        assert len(at_rate) - answer["covers"][1] < rate / 8000 * (FRAME + 12)
        assert len(answer["predictions"]) == answer["covers"][1] * 8000 // rate // FRAME
        sender, got, events, covers = Sender(service, "c"), [], [], [0, 0]
        for chunk in cuts(len(at_rate), seed=4, longest=900):
            part = await sender._binary(at_rate[chunk], S16 | RATE, chunk.start, rate)
            assert part["covers"][0] == covers[1]
            covers, got, events = part["covers"], got + part["predictions"], events + part["events"]
        assert covers[1] == answer["covers"][1]
        assert_allclose(got, answer["predictions"], atol=1e-6)
        assert events == answer["events"]
        assert events
        assert [(await service.session(name))["rate"] for name in ("w", "c")] == [rate, rate]
        # The rate is the session's until it is reset.
        for_another = {"observations": [0.0], "rate": 16_000}
        refused = await service.http.post("/sessions/c/observations", json=for_another)
        assert (refused.status_code, "until it is reset" in refused.text) == (422, True)
        await service.http.post("/sessions/c/reset", json={})
        assert (await service.http.post("/sessions/c/observations", json=for_another)).status_code == 200


async def test_sessions_in_one_batch_do_not_see_each_others_frames(start_on, speech):
    streams = [np.roll(speech, 100 * i)[:400] for i in range(5)]
    sizes = np.random.default_rng(5).integers(1, 20, (5, 100))
    async with start_on(AsgiRoute)() as service:
        done, got, covered = [0] * 5, [[] for _ in streams], [0] * 5
        heard: list[list[list[int]]] = [[] for _ in streams]
        for step in range(40):
            parts = [
                np.array(numbers(stream[at : at + size]), np.float32)[:, None]
                for stream, at, size in zip(streams, done, sizes[:, step].tolist(), strict=True)
            ]
            content = binary.encode([f"s{i}" for i in range(5)], parts, at=done)
            body = (await service.http.post("/observations", content=content, headers=BINARY)).content
            positions, covers, predictions, events = read_covered(body)
            heard = [[*before, *more] for before, more in zip(heard, events, strict=True)]
            done = [at + len(part) for at, part in zip(done, parts, strict=True)]
            assert positions == done
            assert [first for first, _ in covers] == covered
            covered = [stop for _, stop in covers]
            got = [[*before, *more] for before, more in zip(got, predictions, strict=True)]
            if max(done) > 360:
                break
        assert any(heard)
        for stream, predictions, at, events in zip(streams, got, done, heard, strict=True):
            alone = answer_of(stream[:at])
            assert_allclose(predictions, alone["predictions"][: len(predictions), 0], atol=1e-6)
            assert events == alone["events"]


def read_covered(
    body: bytes,
) -> tuple[list[int], list[list[int]], list[list[float]], list[list[list[int]]]]:
    """Positions, covers, predictions and events of a binary bulk answer of five sessions without errors."""
    assert body[:4] == b"CYO1"
    flags = int.from_bytes(body[4:6], "little")
    assert flags in (64, 64 + 128)
    positions = np.frombuffer(body, "<i8", 5, 16).tolist()
    covers = np.frombuffer(body, "<i8", 10, 16 + 80).reshape(5, 2).tolist()
    place, events = 16 + 160, [[] for _ in range(5)]
    if flags & 128:
        numbers = np.frombuffer(body, "<i8", 5, place)
        assert numbers.any()
        rows = np.frombuffer(body, "<i8", 2 * int(numbers.sum()), place + 40).reshape(-1, 2)
        events = [part.tolist() for part in np.split(rows, numbers.cumsum()[:-1])]
        place += 40 + rows.nbytes
    counts = np.frombuffer(body, "<u4", 5, place)
    outputs = np.frombuffer(body, "<f4", int(counts.sum()), place + 20)
    return positions, covers, [part.tolist() for part in np.split(outputs, counts.cumsum()[:-1])], events


async def test_open_inference_has_the_events_as_an_output(start_on, speech, whole):
    async with start_on(AsgiRoute)() as service:
        described = (await service.http.get("/v2/models/loudness")).json()
        assert {"name": "events", "datatype": "INT64", "shape": [-1, -1, 2]} in described["outputs"]
        assert "events" not in str((await service.http.get("/v2/models/counter")).json())
        position, found, got = 0, [], []
        for i, chunk in enumerate(cuts(len(speech), seed=8)):
            samples = numbers(speech[chunk])
            tensor = {"name": "audio", "datatype": "FP32", "shape": [1, len(samples)], "data": samples}
            body = {
                "inputs": [tensor],
                "parameters": {"sequence_id": "a", "sequence_start": i == 0, "at": position},
            }
            if i % 3 == 1:
                body["outputs"] = [{"name": "events"}, {"name": "speech"}]
            answer = await service.http.post("/v2/models/loudness/infer", json=body)
            assert answer.status_code == 200, answer.text
            outputs = {output["name"]: output for output in answer.json()["outputs"]}
            events = outputs["events"]
            assert (events["datatype"], events["shape"]) == ("INT64", [1, len(events["data"]) // 2, 2])
            found += np.reshape(events["data"], (-1, 2)).tolist()
            got += outputs["speech"]["data"]
            position += len(samples)
        assert found == whole["events"]
        assert_allclose(got, whole["predictions"][: len(got), 0], atol=1e-6)


BAD_AUDIO = {
    "not RIFF": (b"RIFX" + bytes(60), "audio/wav", 400),
    "cut short": (wav(np.ones(50, np.int16), 8000)[:-7], "audio/wav", 400),
    "no samples": (wav(np.ones(0, np.int16), 8000), "audio/wav", 422),
    "another encoding": (
        wav(np.ones(9, np.int16), 8000).replace(b"\x01\0\x01\0", b"\x07\0\x01\0"),
        "audio/wav",
        400,
    ),
    "no rate": (bytes(8), "audio/l16", 400),
    "half a sample": (bytes(7), "audio/l16;rate=8000", 400),
    "no such rate": (bytes(8), "audio/l16;rate=8001", 422),
    "nine channels": (wav(np.ones(18, np.int16), 8000, 9), "audio/wav", 422),
    "another type": (bytes(8), "audio/ogg", 415),
}


async def test_what_is_no_audio_is_refused_and_moves_nothing(start_on):
    async with start_on(AsgiRoute)() as service:
        await Sender(service, "a").feed("http", np.ones(11, np.int16))
        for name, (body, kind, status) in BAD_AUDIO.items():
            answer = await service.http.post(
                "/sessions/a/audio", content=body, headers={"content-type": kind}
            )
            assert answer.status_code == status, (name, answer.text)
            check_problem(answer)
        for path in ("/sessions/a/forecast?steps=2", "/sessions/a/audio?at=3"):
            method = service.http.get if "forecast" in path else service.http.post
            assert (await method(path)).status_code >= 400
        await service.http.post("/sessions", json={"id": "silent"})
        assert (await service.session("silent"))["rate"] == 8000, "the network's own"
        chunk = {"model": "counter", "observations": [[1]], "rate": 8000}
        assert (await service.http.post("/sessions/k/observations", json=chunk)).status_code == 422
        assert (await service.session("a"))["position"] == 11


async def test_stereo_becomes_one_channel_and_every_width_of_wav_has_the_same_samples():
    from app.codec.audio import decode

    samples = np.array([0, 16384, -32768, 8192], np.int16)
    stereo = np.stack([samples, samples // 2], axis=1).ravel()
    assert_allclose(decode(wav(stereo, 8000, 2), "audio/wav").samples, samples / 32768 * 0.75, atol=1e-4)
    data = {
        (1, 8): ((samples >> 8) + 128).astype(np.uint8).tobytes(),
        (1, 24): b"".join(bytes(1) + number.tobytes() for number in samples),
        (1, 32): (samples.astype(np.int32) << 16).tobytes(),
        (3, 32): (samples / 32768).astype("<f4").tobytes(),
        (3, 64): (samples / 32768).astype("<f8").tobytes(),
    }
    plain = wav(samples, 8000)
    for (encoding, bits), body in data.items():
        form = encoding.to_bytes(2, "little") + plain[22:34] + bits.to_bytes(2, "little")
        file = plain[:20] + form + b"data" + len(body).to_bytes(4, "little") + body
        assert decode(file, "audio/x-wav").samples.tolist() == [0, 0.5, -1, 0.25]
        unknown = plain[:20] + form + b"LIST\x03\0\0\0abc\0data\xff\xff\xff\xff" + body
        assert decode(unknown, "audio/wav").samples.tolist() == [0, 0.5, -1, 0.25]


async def test_the_open_inference_protocol_answers_the_frames_that_samples_complete(start_on, speech, whole):
    async with start_on(AsgiRoute)() as service:
        got: list[float] = []
        for at, length in ((0, 5), (5, 40), (45, 2)):
            data = numbers(speech[at : at + length])
            tensor = {"name": "audio", "datatype": "FP32", "shape": [1, length], "data": data}
            parameters = {"sequence_id": "a", "at": at} | ({} if at else {"sequence_start": True})
            body = {"inputs": [tensor], "parameters": parameters}
            answer = await service.http.post("/v2/models/loudness/infer", json=body)
            assert answer.status_code == 200, answer.text
            output, events = answer.json()["outputs"]
            assert (output["name"], events["name"]) == ("speech", "events")
            assert output["shape"] == [1, len(output["data"]), 1]
            got += output["data"]
            covered = answer.json()["parameters"]
            assert (covered["covers_from"], covered["covers_to"]) == (at - at % FRAME, FRAME * len(got))
        assert_allclose(got, whole["predictions"][:5, 0], atol=1e-6)
        assert (await service.http.get("/v2/models/loudness")).json()["inputs"][0]["shape"] == [-1, -1]
