"""The open loop sends every message, answered or not, and counts what came in time from when it was due."""

import threading

from websockets.sync.server import serve

from benchmarks import paced_load
from benchmarks.paced_load import PacedOutcome, PacedPlan, generate
from benchmarks.socket_load import Conversation, Plan


def handle(socket) -> None:
    """Greet, and send every message back."""
    socket.send(b"greeting")
    for message in socket:
        socket.send(message)


def test_every_message_is_sent_and_its_answer_counted(monkeypatch):
    monkeypatch.setattr(paced_load, "DRAIN_SECONDS", 100.0)  # it ends with the last answer
    conversations = [Conversation(f"/{i}", [b"a", b"b"]) for i in range(3)]
    with serve(handle, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.socket.getsockname()[1]
        outcome = generate(PacedPlan(Plan("127.0.0.1", port, "binary", conversations, 0.05), 0.01))
        server.shutdown()
    assert (outcome.sent, outcome.answered) == (15, 15)
    assert outcome.in_time <= 15


def test_a_generator_that_is_late_is_named():
    outcome = PacedOutcome(100, 100, 90, 5e3, 4e4, 1e4, 0.032)
    assert outcome.generator_bound
    assert str(outcome).startswith("90.00% of 100 frames answered in real time, p50 5.0 ms, p99 40.0 ms")
