"""How recorded streams are sent to a server: each row once, gaps as null, answers beside their own rows."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from benchmarks.load import BadRun
from benchmarks.served import forecasts_sent, sent


class Doubling(BaseHTTPRequestHandler):
    """Predicts twice each observation, and 7 behind a gap; keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    bodies: list[dict[str, Any]] = []  # noqa: RUF012 -- of the one server of a test
    spoilt = False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        rows = [[7.0 if value is None else 2 * value for value in row] for row in body["observations"]]
        payload = {"predictions": rows, "lower": rows, "upper": rows, "scores": [0.5] * len(rows)}
        if "horizon" in body:
            steps = np.arange(body["horizon"])[:, None] + np.array(rows[-1])
            payload["forecast"] = steps.tolist()
            payload["forecast_quantiles"] = {"0.05": (steps - 1).tolist(), "0.95": (steps + 1).tolist()}
        if self.spoilt:
            payload["predictions"] = [[float("nan")]]
        self.answer(payload)

    def do_GET(self) -> None:
        self.answer({"position": sum(len(body["observations"]) for body in self.bodies)})

    def answer(self, payload: dict[str, Any]) -> None:
        text = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    Doubling.bodies, Doubling.spoilt = [], False
    with HTTPServer(("127.0.0.1", 0), Doubling) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


def test_every_row_is_sent_once_and_told_of_before_it_came(server):
    observations = np.random.default_rng(0).normal(size=(50, 2))
    observations[3, 1] = np.nan
    seconds = 3600.0 * np.arange(50)
    answers = sent(server.server_address[1], "a", "m", observations, seconds, longest=9)
    rows = [row for body in Doubling.bodies for row in body["observations"]]
    assert rows[3] == [observations[3, 0], None]
    np.testing.assert_array_equal(np.array(rows, dtype=float), observations)
    assert [body["at"] for body in Doubling.bodies] == np.cumsum(
        [0, *(len(body["observations"]) for body in Doubling.bodies[:-1])]
    ).tolist()
    assert len({len(body["observations"]) for body in Doubling.bodies}) > 2
    assert [time for body in Doubling.bodies for time in body["timestamps"]] == seconds.tolist()
    assert np.isnan(answers.predictions[0]).all()
    np.testing.assert_array_equal(answers.predictions[1:], np.nan_to_num(2 * observations[:-1], nan=7.0))
    assert answers.scores.shape == (50,)
    assert answers.session == {"position": 50}


def test_a_nan_in_an_answer_is_a_bad_run(server):
    Doubling.spoilt = True
    with pytest.raises(BadRun, match="an answer holds NaN"):
        sent(server.server_address[1], "a", "m", np.ones((5, 1)), None)


def test_each_row_is_forecast_from_once_at_the_end_of_a_chunk(server):
    observations = np.random.default_rng(1).normal(size=(60, 2))
    rows = range(20, 57)
    found = forecasts_sent(server.server_port, "m", observations, None, rows, 3, [0.9])
    expected = 2 * observations[20:57, None] + np.arange(3)[:, None]
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)
    np.testing.assert_allclose(found.widths, np.ones((37, 3, 1, 2)), rtol=1e-5)
    ends = [body["at"] + len(body["observations"]) - 1 for body in Doubling.bodies if "horizon" in body]
    assert sorted(ends) == list(rows)
    assert all(body["levels"] == [0.9] for body in Doubling.bodies if "horizon" in body)
    assert len({len(body["observations"]) for body in Doubling.bodies}) > 5
