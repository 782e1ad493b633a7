"""A server that is killed within a frame of samples goes on there: no sample is lost, none is taken twice."""

from __future__ import annotations

import http.client
import json
import signal
from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from benchmarks.failover.processes import Replica
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers import graphs


def test_a_session_goes_on_within_a_frame_after_kill_9(tmp_path):
    save(graphs.loudness(), tmp_path / "loudness")
    random = np.random.default_rng(3)
    loud = np.repeat(random.random(20) < 0.5, 45)
    samples = (np.where(loud, 0.6, 0.01) * random.standard_normal(len(loud)) * 20_000).clip(-32768, 32767)
    samples = samples.astype(">i2")
    environment = {
        "CARRYOVER_MODELS": str(tmp_path / "loudness"),
        "CARRYOVER_STORE": f"sqlite:{tmp_path / 'sessions.sqlite'}",
        "CARRYOVER_LOG_LEVEL": "error",
    }
    replica = Replica(tmp_path / "replica", environment).start()

    def send(at: int, *, answered: bool = True) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=30)
        packet = samples[at : at + 37].tobytes()  # most end within a frame, which has 8 samples
        address = f"/sessions/a/audio?at={at}"
        connection.request("POST", address, packet, {"content-type": "audio/l16;rate=8000"})
        if not answered:  # whether it was applied is not known
            replica.stop(signal.SIGKILL)
            connection.close()
            return {}
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status == 200, content
        return dict(json.loads(content))

    try:
        replica.wait()
        packets = range(0, len(samples), 37)
        middle = len(packets) // 2
        answers = [send(at) for at in packets[:middle]]
        send(packets[middle], answered=False)
        replica.start()
        replica.wait()
        assert send(packets[middle - 1]) == answers[-1] | {"replayed": True}
        for at in packets[middle:]:
            answers.append(send(at))
            assert answers[-1]["position"] == min(at + 37, len(samples))
    finally:
        replica.stop(signal.SIGKILL)

    forecaster = Forecaster(graphs.loudness())
    floats = (samples / np.float32(32768)).astype(np.float32)[:, None]
    outputs, _ = forecaster.advance(floats, np.array([len(floats)]), forecaster.new_carry[None])
    whole = forecaster.samples.answer(forecaster.new_carry, 0, outputs)
    predictions = [number for answer in answers for number in answer["predictions"]]
    assert_allclose(predictions, whole["predictions"][:, 0], atol=1e-6)
    events = [event for answer in answers for event in answer["events"]]
    assert [[event["event"] == "speech_start", event["sample"]] for event in events] == whole[
        "events"
    ].tolist()
    assert len(events) > 2
    assert answers[middle - 1]["position"] % 8, "it was killed within a frame"
