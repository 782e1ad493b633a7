"""A server is killed and restarted while clients stream: their loops continue without an error."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from carryover import AsyncCarryover, Carryover, RetryPolicy

from benchmarks.ports import free_port
from models.artifact.files import save
from tests.helpers.text import text_model
from tests.helpers.zoo import TOLERANCE, one_pass, series
from tests.system.test_serve import serving

STEPS, CHUNK, KILL_AT, APART = 1600, 4, 300, 400
TOKENS = 2500
RETRY = RetryPolicy(60.0, max_pause=0.3)


class Progress:
    """The progress of each client. Fast clients wait for slow ones: the kill finds all of them streaming."""

    def __init__(self, clients: int) -> None:
        self.seen = [0] * clients
        self._changed = threading.Condition()

    def note(self, client: int, seen: int) -> None:
        with self._changed:
            self.seen[client] = seen
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: seen - min(self.seen) < APART, timeout=60), self.seen

    def wait_for(self, seen: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: min(self.seen) >= seen, timeout=60), self.seen


def blocking(url: str, name: str, whole: np.ndarray, over: bool, note: Callable[[int], None]) -> list[float]:
    predictions: list[float] = []
    with Carryover(url, retry=RETRY) as client:
        for prediction in client.session(name).stream(whole, CHUNK, socket=over):
            predictions.append(float(prediction))
            note(len(predictions))
    return predictions


def awaited(url: str, name: str, whole: np.ndarray, over: bool, note: Callable[[int], None]) -> list[float]:
    async def streamed() -> list[float]:
        predictions: list[float] = []
        async with AsyncCarryover(url, retry=RETRY) as client:
            async for prediction in client.session(name).stream(whole, CHUNK, socket=over):
                predictions.append(float(prediction))
                note(len(predictions))
        return predictions

    return asyncio.run(streamed())


@pytest.mark.timeout(180)
def test_a_stream_continues_when_the_server_is_killed_and_restarted(zoo_folder, artifacts, tmp_path: Path):
    ways = [(run, over) for run in (blocking, awaited) for over in (False, True)]
    wholes = [series("sine", STEPS, seed) for seed in range(len(ways))]
    save(text_model(), tmp_path / "letters")
    settings = {
        "CARRYOVER_MODELS": os.pathsep.join([str(zoo_folder), str(tmp_path / "letters")]),
        "CARRYOVER_PORT": str(free_port()),
        "CARRYOVER_STORE": f"sqlite:{tmp_path / 'sessions.sqlite'}",
    }
    url = f"http://127.0.0.1:{settings['CARRYOVER_PORT']}"
    progress = Progress(len(ways))
    with ThreadPoolExecutor(len(ways)) as pool, Carryover(url, retry=RETRY) as writer:
        callers = [
            pool.submit(run, url, f"s{i}", wholes[i], over, lambda seen, i=i: progress.note(i, seen))
            for i, (run, over) in enumerate(ways)
        ]
        with serving(zoo_folder, **settings):
            progress.wait_for(KILL_AT)
            assert max(progress.seen) < STEPS
            text = iter(writer.session("text", "letters").generate("the sea ", TOKENS, seed=7))
            tokens = [next(text) for _ in range(300)]
        # Left by SIGKILL.
        with serving(zoo_folder, **settings) as (_, port):
            results = [caller.result(timeout=120) for caller in callers]
            with Carryover(f"http://127.0.0.1:{port}") as client:
                assert [client.session(f"s{i}").info().position for i in range(len(ways))] == [STEPS] * len(
                    ways
                )
                text_position = client.session("text").info().position
                assert 308 <= text_position < 8 + TOKENS, "it was killed in the middle of the text"
                tokens += list(text)
                whole_text = client.session("text-2", "letters").generate("the sea ", TOKENS, seed=7).read()
    assert [token.position for token in tokens] == list(range(9, 9 + TOKENS))
    assert "".join(map(str, tokens)) == whole_text
    for predictions, whole in zip(results, wholes, strict=True):
        want = one_pass(artifacts["sine"], whole)[:, 0]
        np.testing.assert_allclose(predictions, want, atol=2 * TOLERANCE)
