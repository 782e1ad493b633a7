"""The benchmark of a voice detector finds sessions whose state is wrong, and gives medians of its rounds."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from websockets.sync.server import serve

from benchmarks.load import BadRun
from benchmarks.silero import OWN_HEADER, Contender, Run, check, figures, frames

POSITION = 11  # of the session before the check


class Detector:
    """A graph whose probability is the sum of all samples that the session has seen, context and all."""

    def run(self, names, feeds):
        state = feeds["state"] + feeds["input"].sum()
        return [state[0, :, :1], state]


def seen(session: int) -> float:
    """What the detector must answer after one frame more."""
    given = [frames(session)[i % 8] for i in range(POSITION + 1)]
    return sum(frame.sum() for frame in given) + sum(frame[-64:].sum() for frame in given[:-1])


@pytest.fixture
def answers() -> list[float]:
    """What the server at `contender` answers next."""
    return [seen(3)]


@pytest.fixture
def contender(answers):
    def handle(socket):
        socket.send(json.dumps({"position": POSITION}))
        message = socket.recv()
        assert message == OWN_HEADER + frames(3)[POSITION % 8].tobytes()
        socket.send(OWN_HEADER + np.float32(answers[0]).tobytes())

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Contender(SimpleNamespace(port=server.socket.getsockname()[1]), OWN_HEADER)
        server.shutdown()
        thread.join()


def test_a_session_with_the_state_of_all_its_frames_passes(contender, monkeypatch):
    monkeypatch.setattr("benchmarks.silero.TOLERANCE", 1e-4)  # sums of thousands of samples
    check(contender, "s", frames(3), Detector())


def test_a_session_that_has_lost_a_frame_is_found(contender, answers):
    answers[0] -= frames(3)[2].sum()
    with pytest.raises(BadRun, match="frame 11 is wrong by"):
        check(contender, "s", frames(3), Detector())


def test_the_ratios_are_the_medians_of_the_rounds():
    ours = [Run(rate, 100, 1, 1) for rate in (900, 300, 200)]
    theirs = [Run(100, cpu, 1, 1) for cpu in (210, 250, 400)]
    lines = figures({"fastapi": theirs, "carryover": ours})
    assert lines[-1] == "carryover over fastapi: 3.00 of frames/s, 2.50 of CPU a frame"
