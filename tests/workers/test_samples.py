"""A session of a model over samples is the same at whichever worker its packets arrive."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from app import server
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers import graphs
from tests.helpers.two_workers import owned, two_workers
from tests.helpers.ways import HttpRoute

pytestmark = pytest.mark.anyio


async def test_packets_at_either_worker_are_one_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    save(graphs.loudness(), tmp_path / "loudness")
    random = np.random.default_rng(3)
    loud = np.repeat(random.random(12) < 0.5, 61)
    samples = (np.where(loud, 0.6, 0.01) * random.standard_normal(len(loud)) * 20_000).clip(-32768, 32767)
    samples = samples.astype("<i2")
    forecaster = Forecaster(graphs.loudness())
    floats = (samples / np.float32(32768)).astype(np.float32)[:, None]
    outputs, _ = forecaster.advance(floats, np.array([len(floats)]), forecaster.new_carry[None])
    whole = forecaster.samples.answer(forecaster.new_carry, 0, outputs)
    assert len(whole["events"]) > 2

    async with two_workers(HttpRoute, tmp_path, tmp_path / "loudness", default_model="loudness") as both:

        async def send(worker: int, session: str, packet: np.ndarray, at: int) -> dict[str, Any]:
            kind = {"content-type": "audio/l16;rate=8000;endianness=little-endian"}
            address = f"/sessions/{session}/audio?at={at}"
            content = packet.tobytes()
            answer = await both.ways[worker].http.post(address, content=content, headers=kind)
            assert answer.status_code == 200, answer.text
            return answer.json()

        for session in (*owned(0, 1), *owned(1, 1)):
            predictions, events = [], []
            for i, at in enumerate(range(0, len(samples), 37)):  # most packets end within a frame
                packet = samples[at : at + 37]
                answer = await send(i % 2, session, packet, at)
                assert (answer["position"], answer["replayed"]) == (at + len(packet), False)
                again = await send((i + 1) % 2, session, packet, at)
                assert again == answer | {"replayed": True}
                predictions += answer["predictions"]
                events += [[event["event"] == "speech_start", event["sample"]] for event in answer["events"]]
            assert_allclose(predictions, whole["predictions"][:, 0], atol=1e-6)
            assert events == whole["events"].tolist()
