"""Real replicas, a balancer and a store, killed and stopped under load: a short run.

`python -m benchmarks.failover` is the long run, with every failure and 64 clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.failover import checker, scenarios
from benchmarks.failover.deployment import Deployment
from benchmarks.failover.processes import HAPROXY, SERVER
from benchmarks.failover.suite import Plain, play

pytestmark = [
    pytest.mark.skipif(SERVER is None, reason="no redis-server here: apt-get install redis-server"),
    pytest.mark.skipif(HAPROXY is None, reason="no haproxy here: apt-get install haproxy"),
]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("failover"), 2) as deployment:
        yield deployment


def test_no_chunk_is_lost_or_doubled_when_a_replica_is_killed(deployment, tmp_path: Path):
    outcome = asyncio.run(play(deployment, scenarios.killed, tmp_path, clients=12))
    assert outcome.complaints == []
    assert outcome.chunks > 12


def test_the_late_commits_of_a_replica_that_slept_are_refused(deployment, tmp_path: Path):
    outcome = asyncio.run(play(deployment, scenarios.asleep, tmp_path, clients=12))
    assert outcome.complaints == []
    assert outcome.fenced > 0


class TestChecker:
    """What it must notice, in histories written by hand."""

    plain = staticmethod(lambda observations: [2 * number for number in observations])

    def event(self, seq, at, numbers, outcome="applied", **more):
        event = {"session": "a", "seq": seq, "op": "chunk", "at": at, "observations": numbers}
        event |= {"outcome": outcome, "position": at + len(numbers), "predictions": [2 * n for n in numbers]}
        return event | more

    def complaints(self, *events):
        return checker.check(events, self.plain)

    def test_a_right_history_has_no_complaint(self):
        final = {"session": "a", "op": "final", "position": 3}
        retried = self.event(1, 2, [3.0], "unknown"), self.event(1, 2, [3.0], "replayed")
        assert self.complaints(self.event(0, 0, [1.0, 2.0]), *retried, final) == []

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"position": 1}, "position 1 in place of 2"),
            ({"predictions": [2.0, 4.1]}, "off what an uninterrupted run"),
            ({"predictions": [2.0]}, "off what an uninterrupted run"),
            ({"outcome": "unknown"}, "never acknowledged"),
            ({"outcome": "refused", "status": 409}, "was refused (409)"),
        ],
    )
    def test_a_wrong_answer_is_found(self, change, complaint):
        events = self.event(0, 0, [1.0, 2.0]) | change, self.event(1, 2, [3.0])
        assert any(complaint in found for found in self.complaints(*events))

    def test_a_chunk_that_was_applied_twice_is_found(self):
        assert self.complaints(self.event(0, 0, [1.0]), self.event(0, 0, [1.0])) == ["a: 0 was applied twice"]

    def test_an_acknowledged_chunk_that_is_lost_in_the_end_is_told(self):
        final = {"session": "a", "op": "final", "position": 1}
        assert self.complaints(self.event(0, 0, [1.0]), self.event(1, 1, [1.0]), final)

    def test_after_a_reset_answers_begin_anew(self):
        running = {"op": "reset", "predictions": [], "position": 1}
        events = self.event(0, 0, [1.0]), self.event(1, 1, []) | running, self.event(2, 1, [5.0])
        assert checker.check(events, lambda o: [sum(o[: i + 1]) * 2 for i in range(len(o))]) == []

    def test_the_reference_is_the_shipped_model(self):
        whole = Plain()([0.0, 0.1, 0.2])
        assert whole[:2] == pytest.approx(Plain()([0.0, 0.1]), abs=1e-6)
