"""Silero's voice detector, end to end: speech in random chunks, in every way in, after a crash and a move.

The probabilities are those of the package, which calls onnxruntime once for each frame. Without the package
(`tests/shipped-graphs.txt`) the test is skipped. Without espeak-ng the speech is replaced by vowels that the
test synthesises. SILERO_FRAMES lengthens the streams.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
import torch
from websockets.sync.client import connect

from app.cli import run
from app.codec.frames import HEADER
from models.artifact.files import load_any
from models.forecaster import Forecaster
from tests.helpers import binary
from tests.helpers.shipped import FRAME, SILERO, found, silero
from tests.system.test_serve import posted, serving

RATE = 16_000
SESSIONS = 5
FRAMES = int(os.environ.get("SILERO_FRAMES", "120"))  # of each session at most, 32 ms each
WAYS = ("http", "bulk", "socket", "binary socket", "v2")
TEXT = (
    "The river rose slowly during the night. By morning the lower meadows were under water, and the keeper "
    "of the bridge had closed the road. Nobody was surprised. It had happened in seven of the last ten years."
)
OPTIONS = (
    "--state state=stateN --constant sr=16000 --shape input=512 --context input=64 "
    "--rename input=audio --rename output=speech --kind output=probability"
)


@pytest.fixture(scope="module")
def graph() -> Path:
    return found(SILERO)


@pytest.fixture
def models(graph, tmp_path) -> Path:
    """A folder of models with the graph, imported by the command that the documentation gives."""
    assert run(["import", str(graph), "--out", str(tmp_path / "models" / "vad"), *OPTIONS.split()]) == 0
    return tmp_path / "models"


@pytest.fixture
def streams(tmp_path) -> tuple[np.ndarray, str]:
    """[sessions, frames, 512] of speech with pauses, each session somewhere else in it; and what spoke."""
    if espeak := shutil.which("espeak-ng"):
        subprocess.run([espeak, "-g", "20", "-w", str(tmp_path / "speech.wav"), TEXT], check=True)
        with wave.open(str(tmp_path / "speech.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
            times = np.arange(0, len(samples) / file.getframerate(), 1 / RATE)
            samples = np.interp(times * file.getframerate(), np.arange(len(samples)), samples)
        speaker = "espeak-ng"
    else:
        samples, speaker = vowels(12), "vowels synthesised by the test"
    samples = np.concatenate([np.zeros(RATE), samples, np.zeros(RATE)])
    samples += 1e-3 * np.random.default_rng(1).standard_normal(len(samples))
    count = len(samples) // FRAME
    frames = samples[: count * FRAME].reshape(count, FRAME).astype(np.float32)
    return np.stack([np.roll(frames, 31 * i, axis=0)[:FRAMES] for i in range(SESSIONS)]), speaker


def vowels(seconds: int) -> np.ndarray:
    """[samples], syllables: harmonics of a pitch that falls, under the formants of a vowel."""
    times = np.arange(seconds * RATE) / RATE
    phase = 2 * np.pi * np.cumsum(130 - 30 * (times % 1.5)) / RATE
    signal = np.zeros(len(times))
    formants = np.where((times % 0.8) < 0.4, 700, 350), np.where((times % 0.8) < 0.4, 1200, 2200)
    for harmonic in range(1, 30):
        pitch = harmonic * 115
        gain = sum(np.exp(-(((pitch - formant) / 150) ** 2)) for formant in formants)
        signal += gain * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * times), 0, 1) * (times % 3 < 2.2)
    return 0.1 * signal * syllables


class Client:
    """Sends the chunks of several sessions to one server, and gathers their probabilities."""

    def __init__(self, streams: np.ndarray, http: httpx.Client) -> None:
        self.http = http
        self.streams = streams
        self.got: list[list[float]] = [[] for _ in streams]
        self.random = np.random.default_rng(2)
        self.port = 0

    def rounds(self, until: int) -> None:
        """Send chunks of random lengths, each round in another way, until every session has got this far."""
        ways: list[str] = []
        while any(len(got) < until for got in self.got):
            ways = ways or self.random.permutation(WAYS).tolist()
            self.send_all(ways.pop(), until)

    def send_all(self, way: str, until: int) -> None:
        chunks = {}
        for i, got in enumerate(self.got):
            length = min(int(self.random.choice([1, 2, 3, 11])), until - len(got))
            if length:
                chunks[i] = self.streams[i, len(got) : len(got) + length]
        for i, probabilities in self._answers(way, chunks).items():
            assert len(probabilities) == len(chunks[i])
            self.got[i] += probabilities

    def _answers(self, way: str, chunks: dict[int, np.ndarray]) -> dict[int, list[float]]:
        if way == "bulk":
            return self._bulk(chunks)
        single = {"http": self._http, "socket": self._socket, "binary socket": self._binary, "v2": self._v2}
        return {i: single[way](i, chunk) for i, chunk in chunks.items()}

    def body(self, i: int, chunk: np.ndarray) -> dict:
        return {"observations": chunk.tolist(), "at": len(self.got[i])}

    def post(self, path: str, **request) -> httpx.Response:
        return self.http.post(self.url(path), **request).raise_for_status()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def _http(self, i: int, chunk: np.ndarray) -> list[float]:
        return self.send_http(i, self.body(i, chunk))

    def send_http(self, i: int, body: dict) -> list[float]:
        answer = self.post(f"/sessions/s{i}/observations", json=body).json()
        return np.ravel(answer["predictions"]).tolist()

    def _bulk(self, chunks: dict[int, np.ndarray]) -> dict[int, list[float]]:
        """All sessions in one request, so that they are computed in one batch."""
        content = binary.encode(
            [f"s{i}" for i in chunks], list(chunks.values()), at=[len(self.got[i]) for i in chunks]
        )
        headers = {"content-type": "application/octet-stream"}
        answer = binary.decode(self.post("/observations", content=content, headers=headers).content)
        assert not answer.errors, answer.errors
        return {i: rows[:, 0].tolist() for i, rows in zip(chunks, answer.predictions, strict=True)}

    def _socket(self, i: int, chunk: np.ndarray) -> list[float]:
        with connect(self._stream(i), compression=None) as socket:
            assert json.loads(socket.recv())["position"] == len(self.got[i])
            socket.send(json.dumps(self.body(i, chunk)))
            return np.ravel(json.loads(socket.recv())["predictions"]).tolist()

    def _binary(self, i: int, chunk: np.ndarray) -> list[float]:
        with connect(self._stream(i), compression=None) as socket:
            socket.recv()  # the hello message
            socket.send(HEADER.pack(0, 0, FRAME, 0, len(self.got[i]), 0) + chunk.astype("<f4").tobytes())
            answer = socket.recv()
        assert isinstance(answer, bytes), answer
        return np.frombuffer(answer, "<f4", offset=HEADER.size).tolist()

    def _stream(self, i: int) -> str:
        return f"ws://127.0.0.1:{self.port}/sessions/s{i}/stream"

    def _v2(self, i: int, chunk: np.ndarray) -> list[float]:
        data, shape = chunk.ravel().tolist(), [1, *chunk.shape]
        parameters = {"sequence_id": f"s{i}", "at": len(self.got[i])}
        parameters |= {} if self.got[i] else {"sequence_start": True}
        body = {
            "inputs": [{"name": "audio", "datatype": "FP32", "shape": shape, "data": data}],
            "parameters": parameters,
        }
        (output,) = self.post("/v2/models/vad/infer", json=body).json()["outputs"]
        assert output["name"] == "speech"
        return output["data"]


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as http:
        yield http


def test_speech_gets_the_probabilities_of_the_package(graph, models, streams, http, tmp_path, capsys):
    frames, speaker = streams
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    expected = np.stack([silero(session, stream)[:, 0] for stream in frames])
    assert expected.max() > 0.9  # there is speech
    assert expected.min() < 0.1  # and silence

    client, third = Client(frames, http), frames.shape[1] // 3
    own = {"CARRYOVER_MODELS": str(models), "CARRYOVER_DEFAULT_MODEL": "vad"}
    durable = own | {"CARRYOVER_STORE": f"sqlite:{tmp_path / 'sessions.sqlite'}"}
    with serving(models, **durable) as (process, client.port):
        client.rounds(third)
        lost = client.body(0, frames[0, third : third + 3])
        acknowledged = client.body(1, frames[1, third : third + 2])
        answer = client.post("/sessions/s1/observations", json=acknowledged).json()
        unread = posted(client.port, "s0", lost)
        process.kill()  # SIGKILL
        process.wait()
        unread.close()
    with serving(models, **durable) as (_, client.port):
        again = client.post("/sessions/s1/observations", json=acknowledged).json()
        assert again["replayed"]
        assert again["predictions"] == answer["predictions"]
        client.got[1] += np.ravel(again["predictions"]).tolist()
        client.got[0] += client.send_http(0, lost)
        client.rounds(2 * third)
        states = [client.http.get(client.url(f"/sessions/s{i}/state")).content for i in range(SESSIONS)]
    with serving(models, **own) as (_, client.port):  # another server, with its sessions in memory
        for i, state in enumerate(states):
            moved = client.http.put(client.url(f"/sessions/s{i}/state"), content=state).raise_for_status()
            assert moved.json()["position"] == 2 * third
        client.rounds(frames.shape[1])

    differences = np.abs(np.array(client.got) - expected)
    with capsys.disabled():
        print(f"\n{differences.size} frames of {speaker}: at most {differences.max():.1e} from the package")
    assert differences.max() <= 1e-6


@pytest.mark.filterwarnings("ignore")  # of the package
def test_segments_are_those_of_the_packages_iterator_whatever_the_packets(
    graph, streams, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(graph.parents[2]))
    package = pytest.importorskip("silero_vad")
    frames = streams[0].reshape(-1, FRAME)
    iterator, expected = package.VADIterator(package.load_silero_vad(onnx=True)), []
    for frame in frames:
        expected += (iterator(torch.from_numpy(frame)) or {}).items()

    arguments = [*OPTIONS.split(), "--rate", str(RATE), "--events", "speech"]
    assert run(["import", str(graph), "--out", str(tmp_path / "vad"), *arguments]) == 0
    forecaster = Forecaster(load_any(tmp_path / "vad"))
    samples, random = frames.reshape(-1, 1), np.random.default_rng(3)
    carry, at, found = forecaster.new_carry[None], 0, []
    while at < len(samples):
        packet = samples[at : at + int(random.integers(1, 2000))]
        outputs, moved = forecaster.advance(packet, np.array([len(packet)]), carry)
        events = forecaster.samples.answer(carry[0], at, outputs)["events"].tolist()
        found += [("start" if kind else "end", int(sample)) for kind, sample in events]
        carry, at = moved, at + len(packet)
    assert found == expected
    # How many there are is the network's affair, whose probabilities differ a little between processors.
    assert len(found) >= 4
