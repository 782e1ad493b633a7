"""The parts of the client that do no input or output: plans, retries, windows, errors, requests."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import carryover
import numpy as np
import pytest
from carryover import RetryPolicy, bulk, errors, frames, plans, session_socket, streaming, texts, wire
from carryover.effects import Begin, Emit, More, Open, Pull, Read, Reply, Request, Sleep, Write
from carryover.observations import Chunk, chunk_of, chunks_of
from carryover.retry import Pauses
from carryover.values import Answer
from carryover.window import Window
from carryover.wire import ChunkOptions, Cursor

from app.codec.problems import STATUS, problem
from tests.helpers.paths import ROOT


def run(plan: Any, perform: Callable[[Any], Any]) -> Any:
    """Run a plan and return its result; `perform` returns each effect's result, or an error to throw."""
    try:
        effect = next(plan)
        while True:
            result = perform(effect)
            effect = plan.throw(result) if isinstance(result, Exception) else plan.send(result)
    except StopIteration as done:
        return done.value


def scripted(*replies: Any) -> tuple[Callable[[Any], Any], list[float], list[Request]]:
    """Return a function that answers requests in order, the pauses it was asked for, and the requests."""
    remaining, pauses, requests = list(replies), [], []

    def perform(effect: Any) -> Any:
        if isinstance(effect, Sleep):
            pauses.append(effect.seconds)
            return None
        requests.append(effect)
        return remaining.pop(0)

    return perform, pauses, requests


class Clock:
    """A clock that the test sets; every pause is the longest that may be drawn."""

    def __init__(self) -> None:
        self.now = 0.0

    def retry(self, seconds: float) -> RetryPolicy:
        return RetryPolicy(seconds, clock=lambda: self.now, draw=lambda low, high: high)


def chunk_reply(position: int, **more: Any) -> Reply:
    body = {"session": "a", "model": "sine", "position": position, "epoch": "0" * 15 + "1", "replayed": False}
    return Reply(200, json.dumps(body | {"predictions": [0.5]} | more).encode())


def refusal_reply(error: Any, retry_after: str | None = None) -> Reply:
    status, body, _ = problem(error)
    return Reply(status, json.dumps(body).encode(), retry_after)


# Retries.


def test_pauses_double_up_to_a_bound_and_are_drawn_from_zero():
    drawn = []
    retry = RetryPolicy(
        1e9, first_pause=1.0, max_pause=5.0, draw=lambda low, high: drawn.append((low, high)) or high
    )
    pauses = Pauses(retry)
    assert [pauses.after(carryover.Unreachable("x")) for _ in range(4)] == [1, 2, 4, 5]
    assert {low for low, _ in drawn} == {0.0}


def test_the_client_waits_as_long_as_the_server_asks():
    perform, pauses, _ = scripted(refusal_reply(app_error("Overloaded"), "3"), chunk_reply(1))
    run(plans.send(Request("GET", "/"), Clock().retry(10)), perform)
    assert pauses == [pytest.approx(3.05)]


def test_when_the_time_is_over_the_last_error_is_raised():
    clock = Clock()
    pauses = Pauses(clock.retry(2.0))
    pauses.after(carryover.Unreachable("first"))
    clock.now = 2.0
    with pytest.raises(carryover.Unreachable, match="second"):
        pauses.after(carryover.Unreachable("second"))


@pytest.mark.parametrize(("seconds", "said"), [(300, " for up to 300 s"), (math.inf, "")])
def test_the_first_failure_says_for_how_long_it_will_be_retried(seconds, said, caplog):
    pauses = Pauses(Clock().retry(seconds))
    for _ in range(2):
        pauses.after(carryover.Unreachable("no answer"))
    assert caplog.messages == [f"trying again{said}: no answer"]


def test_progress_restarts_the_time_and_the_pauses():
    clock = Clock()
    pauses = Pauses(clock.retry(2.0))
    for _ in range(5):
        pauses.after(carryover.Unreachable("x"))
        pauses.progress()
        clock.now += 1.5
    assert pauses.after(carryover.Unreachable("x")) == 0.05


def test_a_request_is_sent_again_byte_for_byte():
    perform, _, requests = scripted(
        chunk_reply(5),
        carryover.Unreachable("cut off"),
        refusal_reply(app_error("StoreFailed")),
        chunk_reply(6, replayed=True),
    )
    cursor = Cursor("a")
    answer = run(plans.advance(cursor, chunk_of([0.1]), ChunkOptions(), Clock().retry(10)), perform)
    assert requests[1] == requests[2] == requests[3]
    assert json.loads(requests[1].body) == {"observations": [0.1], "at": 5, "epoch": "0" * 15 + "1"}
    assert (answer.replayed, cursor.position) == (True, 6)


def test_a_request_that_cannot_succeed_later_is_not_sent_again():
    perform, pauses, requests = scripted(refusal_reply(app_error("TooLarge")))
    with pytest.raises(carryover.TooLarge):
        run(plans.send(Request("GET", "/"), Clock().retry(10)), perform)
    assert (len(requests), pauses) == (1, [])


def test_a_fork_to_an_existing_session_is_an_error_even_after_a_retry():
    perform, _, _ = scripted(
        chunk_reply(1), carryover.Unreachable("cut off"), refusal_reply(app_error("SessionExists"))
    )
    with pytest.raises(carryover.SessionExists):
        run(plans.fork(Cursor("a"), Cursor("b"), Clock().retry(10)), perform)


NOT_KNOWN = [
    carryover.Unreachable("cut off"),
    Reply(502, b"<html>bad gateway</html>"),
    Reply(503, b"<html>try later</html>"),
]


@pytest.mark.parametrize("lost", NOT_KNOWN, ids=["no answer", "502", "503"])
def test_what_a_lost_attempt_has_done_already_is_no_error(lost):
    done = {"session": "a", "model": "sine", "position": 0, "epoch": "1"}
    exists, gone = refusal_reply(app_error("SessionExists")), refusal_reply(app_error("SessionGone"))
    found = Reply(200, json.dumps(done).encode())
    calls = {
        "create": (plans.create(Cursor("a"), Clock().retry(10)), [lost, exists, found]),
        "fork": (plans.fork(Cursor("a", position=1), None, Clock().retry(10)), [lost, exists, found]),
        "delete": (plans.delete(Cursor("a"), Clock().retry(10)), [lost, gone]),
    }
    results = {}
    for name, (plan, replies) in calls.items():
        try:
            run(plan, scripted(*replies)[0])
            results[name] = "done"
        except carryover.CarryoverError as error:
            results[name] = type(error).__name__
    assert results == dict.fromkeys(calls, "done")


@pytest.mark.parametrize("more", [{"position": 500}, {"model": "other"}], ids=["in use", "another model"])
def test_a_session_that_was_there_before_a_lost_attempt_is_not_taken_over(more):
    there = {"session": "a", "model": "sine", "position": 0, "epoch": "1"} | more
    perform, _, _ = scripted(
        carryover.Unreachable("cut off"),
        refusal_reply(app_error("SessionExists")),
        Reply(200, json.dumps(there).encode()),
    )
    cursor = Cursor("a", "sine")
    with pytest.raises(carryover.SessionExists):
        run(plans.create(cursor, Clock().retry(10)), perform)
    assert cursor.position is None


def test_in_bulk_only_the_sessions_that_were_refused_for_the_moment_are_sent_again():
    cursors = {name: Cursor(name, position=3) for name in "ab"}
    chunks = {name: chunk_of([0.5]) for name in "ab"}
    body = {"positions": [4, None], "epochs": ["1", None], "predictions": [[0.1], None], "replayed": []}
    later = problem(app_error("Overloaded"))[1]
    last = {"positions": [4], "epochs": ["2"], "predictions": [[0.2]], "replayed": [], "errors": {}}
    perform, _, requests = scripted(
        Reply(200, json.dumps(body | {"errors": {"1": later}}).encode()),
        Reply(200, json.dumps(last).encode()),
    )
    answers = run(bulk.advance(cursors, chunks, None, ChunkOptions(), Clock().retry(10)), perform)
    assert json.loads(requests[1].body)["sessions"] == ["b"]
    assert [answers[name].predictions for name in "ab"] == [[0.1], [0.2]]


def test_a_comment_between_the_events_of_a_text_is_no_token():
    pieces = [b": wait\n\n", b'id: e.1\ndata: {"position":1,"token":2,"text":"x"}\n\n: wait\n\n']
    done = b'event: done\nid: e.1\ndata: {"position":1,"finish":"length"}\n\n'
    replies = [Reply(200, b"", kind="text/event-stream"), *pieces, done]
    emitted: list[Any] = []

    def perform(effect: Any) -> Any:
        if isinstance(effect, Emit):
            emitted.append(effect.value)
        return replies.pop(0) if isinstance(effect, Begin | More) else None

    try:
        run(texts.generate(Cursor("a", position=0), {"steps": 1, "keep": True}, Clock().retry(0)), perform)
    except carryover.NotCarryover as error:
        emitted.append(error)
    assert emitted == [texts.Token(1, 2, "x"), texts.End(1, "length")]


# Errors.


def app_error(name: str) -> Any:
    from app import errors as served

    return getattr(served, name)("it went wrong", position=7)


@pytest.mark.parametrize("server_error", STATUS, ids=lambda error: error.__name__)
def test_every_problem_of_the_server_is_an_error_of_the_same_name(server_error):
    status, body, _ = problem(server_error("it went wrong", position=7))
    error = carryover.errors.problem(status, json.dumps(body).encode(), "2")
    assert type(error).__name__ == server_error.__name__
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
def test_a_proxy_s_page_is_an_error_of_its_status(status, kind):
    assert type(errors.problem(status, b"<html>no</html>")).__name__ == kind


def test_an_unknown_problem_type_is_an_error_of_its_status():
    body = {"type": "urn:carryover:over-quota", "title": "Over quota", "status": 429, "detail": "slowly"}
    assert type(errors.problem(429, json.dumps(body).encode())) is carryover.OverLimit


# Windows.


def make_window(max_in_flight: int, **hello: Any) -> Window:
    window = Window(Cursor("a"), ChunkOptions(), max_in_flight)
    window.apply_hello({"position": 10, "epoch": "1"} | hello)
    return window


def answer(position: int, steps: int = 1) -> Answer:
    return Answer("a", "sine", position, "1", False, {"predictions": np.zeros(steps, np.float32)})


def chunks_in_flight(window: Window, steps: int) -> int:
    """Return how many chunks of `steps` observations the window accepts after the first answer."""
    window.take(answer(window.push(chunk_of(np.zeros(steps))).at + steps, steps))
    while window.has_room():
        window.push(chunk_of(np.zeros(steps)))
    return len(window.pending)


def test_only_the_first_chunk_is_in_flight_until_its_answer():
    window = make_window(8)
    window.push(chunk_of([0.1]))
    assert not window.has_room()


@pytest.mark.parametrize(
    ("max_in_flight", "steps", "hello", "want"),
    [
        (8, 1, {}, 8),
        (3, 1, {}, 3),
        (8, 1, {"recent_chunks": 2}, 2),
        (8, 200, {}, 5),  # 4,096 bytes hold five answers of 200 numbers
        (8, 5000, {}, 1),  # the last answer is always stored
        (8, 200, {"recent_bytes": 1600}, 2),
    ],
)
def test_no_more_chunks_are_in_flight_than_the_server_stores_answers(max_in_flight, steps, hello, want):
    assert chunks_in_flight(make_window(max_in_flight, **hello), steps) == want


def test_each_chunk_starts_where_the_one_before_ends():
    window = make_window(8)
    window.take(answer(window.push(chunk_of([0.1])).at + 1))
    assert [window.push(chunk_of([0.1] * n)).at for n in (2, 3, 1)] == [11, 13, 16]


# Sockets.


class FakeServer:
    """The server's end of a socket, in memory: it sends `messages` and keeps what it received."""

    def __init__(self, *messages: bytes) -> None:
        from websockets.server import ServerProtocol

        self.protocol = ServerProtocol()
        self.messages, self.received, self.opened = list(messages), [], 0
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
                    self.received.append(event.data)
        elif isinstance(effect, Read):
            if self.messages:
                self.protocol.send_text(self.messages.pop(0))
            return b"".join(self.protocol.data_to_send())
        return None


def stream_over(server: FakeServer, key: str | None = None) -> None:
    way = streaming.StreamTarget("https://host/prefix/", key, Clock().retry(0), True)
    run(
        streaming.stream(Cursor("..", "sine"), ChunkOptions(level=0.9, score=True), 8, True, way),
        server.perform,
    )


HELLO = b'{"session":"..","position":4,"epoch":"0000000000000001","in_flight":64}'


def test_the_handshake_has_the_key_and_the_first_message_has_the_options():
    server = FakeServer(HELLO, chunk_reply(5, lower=[0.1], upper=[0.9], residuals=[None], scores=[None]).body)
    stream_over(server, "secret")
    assert server.request.path == "/prefix/sessions/%2E%2E/stream"
    assert server.request.headers["Authorization"] == "Bearer secret"
    expected = {"observations": [0.1], "at": 4, "epoch": "0000000000000001", "model": "sine"}
    assert json.loads(server.received[0]) == expected | {"level": 0.9, "score": True}
    (row,) = server.emitted[0]
    assert (row.lower, row.upper, row.residual, row.score) == (0.1, 0.9, None, None)


def test_an_answer_with_another_position_is_refused():
    with pytest.raises(carryover.NotCarryover, match="position 9"):
        stream_over(FakeServer(HELLO, chunk_reply(9).body))


def test_a_refusal_on_the_socket_is_an_error_of_its_type():
    body = json.dumps(problem(app_error("SessionDamaged"))[1]).encode()
    with pytest.raises(carryover.SessionDamaged):
        stream_over(FakeServer(HELLO, body))


def test_a_refused_handshake_is_either_unavailable_sockets_or_the_refusal():
    def answered_with(status: bytes) -> Any:
        def perform(effect: Any) -> Any:
            return b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status if isinstance(effect, Read) else None

        return perform

    with pytest.raises(session_socket.SocketUnavailable):
        run(session_socket.open_socket("ws://host/", None), answered_with(b"426 Upgrade Required"))
    with pytest.raises(carryover.Unauthorized):
        run(session_socket.open_socket("ws://host/", None), answered_with(b"401 Unauthorized"))


# Observations.


def test_missing_values_of_every_type_are_null():
    nan = float("nan")
    for rows in ([0.1, None, nan], np.array([0.1, nan, nan]), (value for value in (0.1, nan, None))):
        assert json.loads(chunk_of(rows).text()) == [0.1, None, None]
    assert json.loads(chunk_of(np.array([[1, nan], [nan, 2]])).text()) == [[1, None], [None, 2]]
    assert chunk_of(np.array([0.1, nan])).floats() is None


def test_missing_numbers_of_an_answer_are_nan_in_arrays_and_none_in_lists():
    body = json.loads(
        chunk_reply(
            3, predictions=[1, 2, 3], residuals=[0.1, None, 0.2], observed=[[True], [False], [True]]
        ).body
    )
    arrays = wire.parse_answer(body, Cursor("a"), chunk_of(np.zeros(3)))
    lists = wire.parse_answer(body, Cursor("a"), chunk_of([0.0, None, 0.0]))
    np.testing.assert_array_equal(arrays.residuals, np.array([0.1, np.nan, 0.2], np.float32))
    assert (arrays.observed.dtype, lists.residuals, lists.scores) == (bool, [0.1, None, 0.2], None)


def test_a_skip_is_sent_as_a_number():
    text = wire.chunk_text(Chunk([], True, skip=5), 3, None, None, ChunkOptions())
    assert json.loads(text) == {"skip": 5, "at": 3}


@pytest.mark.parametrize("source", [list(range(7)), np.arange(7), range(7)])
def test_every_kind_of_source_is_cut_into_the_same_chunks(source):
    chunks = list(chunks_of(chunk_of(source), 3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert [number for chunk in chunks for number in json.loads(chunk.text())] == list(range(7))


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
chunk = carryover.observations.chunk_of([0.1, None])
print(chunk.text(), carryover.session_socket.ClientProtocol)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0.1, null] None\n"
    assert (Path(carryover.__file__).parent / "py.typed").exists()
