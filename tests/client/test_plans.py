"""The parts of the client that do no input or output: plans, patience, windows, errors, requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carryover
import numpy as np
import pytest
from carryover import Patience, bulk, errors, frames, line, plans, streaming, wire
from carryover.effects import Emit, Open, Pull, Read, Reply, Request, Sleep, Write
from carryover.numbers import Chunk, chunk_of, chunks_of
from carryover.retry import Pauses
from carryover.values import Answer
from carryover.window import Window
from carryover.wire import Cursor, Wanted

from app.codec.problems import STATUS, problem
from tests.helpers.paths import ROOT


def run(plan: Any, perform: Callable[[Any], Any]) -> Any:
    """What the plan returns; `perform` gives each effect's result, or an error to throw in."""
    try:
        effect = next(plan)
        while True:
            result = perform(effect)
            effect = plan.throw(result) if isinstance(result, Exception) else plan.send(result)
    except StopIteration as done:
        return done.value


def scripted(*replies: Any) -> tuple[Callable[[Any], Any], list[float], list[Request]]:
    """Answers requests in order; tells the pauses that were made, and what was asked."""
    left, pauses, requests = list(replies), [], []

    def perform(effect: Any) -> Any:
        if isinstance(effect, Sleep):
            pauses.append(effect.seconds)
            return None
        requests.append(effect)
        return left.pop(0)

    return perform, pauses, requests


class Clock:
    """Stands still until told; pauses are the longest that may be drawn."""

    def __init__(self) -> None:
        self.now = 0.0

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, clock=lambda: self.now, draw=lambda low, high: high)


def told(position: int, **more: Any) -> Reply:
    body = {"session": "a", "model": "sine", "position": position, "epoch": "0" * 15 + "1", "replayed": False}
    return Reply(200, json.dumps(body | {"predictions": [0.5]} | more).encode())


def refused(error: Any, retry_after: str | None = None) -> Reply:
    status, body, _ = problem(error)
    return Reply(status, json.dumps(body).encode(), retry_after)


# Patience.


def test_pauses_double_up_to_a_bound_and_are_drawn_from_zero():
    drawn = []
    patience = Patience(1e9, first=1.0, most=5.0, draw=lambda low, high: drawn.append((low, high)) or high)
    pauses = Pauses(patience)
    assert [pauses.after(carryover.Unreachable("x")) for _ in range(4)] == [1, 2, 4, 5]
    assert {low for low, _ in drawn} == {0.0}


def test_what_the_server_asks_for_is_waited_for():
    perform, pauses, _ = scripted(refused(app_error("Overloaded"), "3"), told(1))
    run(plans.asked(Request("GET", "/"), Clock().patience(10)), perform)
    assert pauses == [pytest.approx(3.05)]


def test_patience_ends_with_the_last_error():
    clock = Clock()
    pauses = Pauses(clock.patience(2.0))
    pauses.after(carryover.Unreachable("first"))
    clock.now = 2.0
    with pytest.raises(carryover.Unreachable, match="second"):
        pauses.after(carryover.Unreachable("second"))


def test_progress_makes_a_stream_patient_again():
    clock = Clock()
    pauses = Pauses(clock.patience(2.0))
    for _ in range(5):
        pauses.after(carryover.Unreachable("x"))
        pauses.progress()
        clock.now += 1.5
    assert pauses.after(carryover.Unreachable("x")) == 0.05


def test_a_request_is_sent_again_byte_for_byte():
    perform, _, requests = scripted(
        told(5), carryover.Unreachable("cut off"), refused(app_error("StoreFailed")), told(6, replayed=True)
    )
    cursor = Cursor("a")
    answer = run(plans.advance(cursor, chunk_of([0.1]), Wanted(), Clock().patience(10)), perform)
    assert requests[1] == requests[2] == requests[3]
    assert json.loads(requests[1].body) == {"observations": [0.1], "at": 5, "epoch": "0" * 15 + "1"}
    assert (answer.replayed, cursor.position) == (True, 6)


def test_what_cannot_succeed_later_is_not_sent_again():
    perform, pauses, requests = scripted(refused(app_error("TooLarge")))
    with pytest.raises(carryover.TooLarge):
        run(plans.asked(Request("GET", "/"), Clock().patience(10)), perform)
    assert (len(requests), pauses) == (1, [])


def test_a_fork_under_a_name_that_was_taken_before_is_told_even_after_a_retry():
    perform, _, _ = scripted(told(1), carryover.Unreachable("cut off"), refused(app_error("SessionExists")))
    with pytest.raises(carryover.SessionExists):
        run(plans.fork(Cursor("a"), Cursor("b"), Clock().patience(10)), perform)


def test_in_bulk_what_is_refused_for_the_moment_is_sent_again_alone():
    cursors = {name: Cursor(name, position=3) for name in "ab"}
    chunks = {name: chunk_of([0.5]) for name in "ab"}
    body = {"positions": [4, None], "epochs": ["1", None], "predictions": [[0.1], None], "replayed": []}
    later = problem(app_error("Overloaded"))[1]
    last = {"positions": [4], "epochs": ["2"], "predictions": [[0.2]], "replayed": [], "errors": {}}
    perform, _, requests = scripted(
        Reply(200, json.dumps(body | {"errors": {"1": later}}).encode()),
        Reply(200, json.dumps(last).encode()),
    )
    answers = run(bulk.advance(cursors, chunks, None, Wanted(), Clock().patience(10)), perform)
    assert json.loads(requests[1].body)["sessions"] == ["b"]
    assert [answers[name].predictions for name in "ab"] == [[0.1], [0.2]]


# Errors.


def app_error(name: str) -> Any:
    from app import errors as served

    return getattr(served, name)("it went wrong", position=7)


@pytest.mark.parametrize("served", STATUS, ids=lambda one: one.__name__)
def test_every_problem_of_the_server_is_an_error_of_the_same_name(served):
    status, body, _ = problem(served("it went wrong", position=7))
    error = carryover.errors.problem(status, json.dumps(body).encode(), "2")
    assert type(error).__name__ == served.__name__
    assert (str(error), error.status, error.position) == ("it went wrong", status, 7)
    assert isinstance(error, carryover.Unavailable) == (status in (429, 503))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (429, "OverLimit"),
        (502, "Unavailable"),
        (404, "NotCarryover"),
    ],
)
def test_a_proxy_s_page_is_told_by_its_status(status, kind):
    assert type(errors.problem(status, b"<html>no</html>")).__name__ == kind


def test_a_problem_of_a_later_server_is_still_an_error_of_its_status():
    body = {"type": "urn:carryover:over-quota", "title": "Over quota", "status": 429, "detail": "slowly"}
    assert type(errors.problem(429, json.dumps(body).encode())) is carryover.OverLimit


# Windows.


def window(ahead: int, **hello: Any) -> Window:
    made = Window(Cursor("a"), Wanted(), ahead)
    made.learned({"position": 10, "epoch": "1"} | hello)
    return made


def answer(position: int, steps: int = 1) -> Answer:
    return Answer("a", "sine", position, "1", False, {"predictions": np.zeros(steps, np.float32)})


def flying(made: Window, steps: int) -> int:
    """How many chunks of so many observations it lets fly, once an answer was in."""
    made.take(answer(made.push(chunk_of(np.zeros(steps))).at + steps, steps))
    while made.has_room():
        made.push(chunk_of(np.zeros(steps)))
    return len(made.pending)


def test_one_chunk_flies_until_the_first_answer_is_in():
    made = window(8)
    made.push(chunk_of([0.1]))
    assert not made.has_room()


@pytest.mark.parametrize(
    ("ahead", "steps", "hello", "want"),
    [
        (8, 1, {}, 8),
        (3, 1, {}, 3),
        (8, 1, {"recent_chunks": 2}, 2),
        (8, 200, {}, 5),  # 4,096 bytes hold five answers of 200 numbers
        (8, 5000, {}, 1),  # the last answer is always remembered
        (8, 200, {"recent_bytes": 1600}, 2),
    ],
)
def test_no_more_flies_than_the_server_remembers(ahead, steps, hello, want):
    assert flying(window(ahead, **hello), steps) == want


def test_chunks_are_numbered_one_behind_the_other():
    made = window(8)
    made.take(answer(made.push(chunk_of([0.1])).at + 1))
    assert [made.push(chunk_of([0.1] * n)).at for n in (2, 3, 1)] == [11, 13, 16]


# Sockets.


class Served:
    """A server's end of a socket, in memory: what it says, and what it was told."""

    def __init__(self, *messages: bytes) -> None:
        from websockets.server import ServerProtocol

        self.protocol = ServerProtocol()
        self.messages, self.heard, self.opened = list(messages), [], 0
        self.emitted: list[Answer] = []
        self.chunks = [chunk_of([0.1]), None]

    def perform(self, effect: Any) -> Any:
        if isinstance(effect, Emit):
            self.emitted.append(effect.value)
        elif isinstance(effect, Open):
            self.opened += 1
        elif isinstance(effect, Pull):
            return self.chunks.pop(0)
        elif isinstance(effect, Write):
            self.protocol.receive_data(effect.data)
            for event in self.protocol.events_received():
                if hasattr(event, "path"):
                    self.request = event
                    self.protocol.send_response(self.protocol.accept(event))
                else:
                    self.heard.append(event.data)
        elif isinstance(effect, Read):
            if self.messages:
                self.protocol.send_text(self.messages.pop(0))
            return b"".join(self.protocol.data_to_send())
        return None


def over(server: Served, key: str | None = None) -> None:
    way = streaming.Way("https://host/prefix/", key, Clock().patience(0), True)
    run(streaming.stream(Cursor("..", "sine"), Wanted(level=0.9, score=True), 8, True, way), server.perform)


HELLO = b'{"session":"..","position":4,"epoch":"0000000000000001","in_flight":64}'


def test_the_socket_is_asked_for_with_the_key_and_told_what_is_wanted():
    server = Served(HELLO, told(5, lower=[0.1], upper=[0.9], residuals=[None], scores=[None]).body)
    over(server, "secret")
    assert server.request.path == "/prefix/sessions/%2E%2E/stream"
    assert server.request.headers["Authorization"] == "Bearer secret"
    asked = {"observations": [0.1], "at": 4, "epoch": "0000000000000001", "model": "sine"}
    assert json.loads(server.heard[0]) == asked | {"level": 0.9, "score": True}
    (one,) = server.emitted[0]
    assert (one.lower, one.upper, one.residual, one.score) == (0.1, 0.9, None, None)


def test_an_answer_of_another_position_is_no_answer():
    with pytest.raises(carryover.NotCarryover, match="position 9"):
        over(Served(HELLO, told(9).body))


def test_a_refusal_on_the_socket_is_an_error_of_its_type():
    body = json.dumps(problem(app_error("SessionDamaged"))[1]).encode()
    with pytest.raises(carryover.SessionDamaged):
        over(Served(HELLO, body))


def test_a_handshake_that_is_refused_means_requests_or_an_error():
    def answered_with(status: bytes) -> Any:
        def perform(effect: Any) -> Any:
            return b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status if isinstance(effect, Read) else None

        return perform

    with pytest.raises(line.NoSocket):
        run(line.opened("ws://host/", None), answered_with(b"426 Upgrade Required"))
    with pytest.raises(carryover.Unauthorized):
        run(line.opened("ws://host/", None), answered_with(b"401 Unauthorized"))


# Numbers.


def test_gaps_are_null_whatever_they_came_as():
    nan = float("nan")
    for rows in ([0.1, None, nan], np.array([0.1, nan, nan]), (one for one in (0.1, nan, None))):
        assert json.loads(chunk_of(rows).text()) == [0.1, None, None]
    assert json.loads(chunk_of(np.array([[1, nan], [nan, 2]])).text()) == [[1, None], [None, 2]]
    assert chunk_of(np.array([0.1, nan])).floats() is None


def test_a_gap_s_answer_has_nan_in_arrays_and_none_in_lists():
    body = json.loads(
        told(3, predictions=[1, 2, 3], residuals=[0.1, None, 0.2], observed=[[True], [False], [True]]).body
    )
    arrays = wire.answered(body, Cursor("a"), chunk_of(np.zeros(3)))
    lists = wire.answered(body, Cursor("a"), chunk_of([0.0, None, 0.0]))
    np.testing.assert_array_equal(arrays.residuals, np.array([0.1, np.nan, 0.2], np.float32))
    assert (arrays.observed.dtype, lists.residuals, lists.scores) == (bool, [0.1, None, 0.2], None)


def test_a_skip_is_sent_as_one():
    text = wire.chunk_text(Chunk([], True, skip=5), 3, None, None, Wanted())
    assert json.loads(text) == {"skip": 5, "at": 3}


@pytest.mark.parametrize("source", [list(range(7)), np.arange(7), range(7), iter(range(7))])
def test_any_source_is_cut_alike(source):
    cut = list(chunks_of(source, 3, (), ()))
    assert [len(one) for one in cut] == [3, 3, 1]
    assert [number for one in cut for number in json.loads(one.text())] == list(range(7))


def test_binary_messages_are_those_of_the_server():
    from app.codec import frames as served
    from app.codec.limits import Limits
    from app.jobs.answers import ChunkAnswer

    rows = np.array([[0.5, 1.0], [2.0, 3.0]], np.float32)
    message = served.decode_binary(frames.message(rows, 7, "00000000000000ff", 3), "a", Limits(10, 10, 2))
    np.testing.assert_array_equal(message.chunk.observations, rows)
    assert (message.at, message.epoch, message.chunk.horizon) == (7, 255, 3)
    outcome = ChunkAnswer("a", "m", 9, 255, True, {"predictions": rows, "forecast": rows[:1]})
    body = frames.answer(served.encode_answer(outcome, message), flat=False)
    assert (body["position"], body["epoch"], body["replayed"]) == (9, "00000000000000ff", True)
    np.testing.assert_array_equal(body["predictions"], rows)
    np.testing.assert_array_equal(body["forecast"], rows[:1])


# The distribution.


def test_the_client_is_typed_and_needs_neither_numpy_nor_a_socket_library():
    program = """
import sys
sys.modules.update({"numpy": None, "websockets": None, "pandas": None})
import carryover
chunk = carryover.numbers.chunk_of([0.1, None])
print(chunk.text(), carryover.line.ClientProtocol)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0.1, null] None\n"
    assert (Path(carryover.__file__).parent / "py.typed").exists()
