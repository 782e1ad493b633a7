"""Random lives of sessions against a plain reference of DESIGN sections 2 and 5, over both stores."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.config import Settings
from app.engine import upkeep
from app.engine.engine import Engine
from app.errors import CarryoverError, OutOfStep, SessionExists, SessionGone, UnknownSession
from app.jobs.jobs import Advance, Create, Delete, Expire, Export, Fork, Import, Inspect, Reset
from app.jobs.options import ChunkOptions
from app.session import state_file
from app.session.rows import Answer
from app.stores import Store
from app.stores.memory import MemoryStore
from app.stores.redis.store import RedisStore
from app.stores.redis.url import parse_url
from app.stores.sqlite.store import SqliteStore
from models.artifact.learning import Learning
from models.forecaster import Forecaster
from tests.helpers import plain
from tests.helpers.redis_server import RedisServer, needs_redis
from tests.helpers.zoo import artifacts

TTL = 100.0
REMEMBERED = 3
NAMES = st.sampled_from("abcde")  # more than are resident: any may be evicted at any time
NUMBERS = st.sampled_from([-1.0, 0.0, 0.25, 2.0])
ROWS = st.lists(st.tuples(st.none() | NUMBERS, st.none() | NUMBERS), min_size=1, max_size=3).map(tuple)
CHUNKS = st.runner().flatmap(lambda lives: lives.chunks)
CHOICES = st.runner().flatmap(lambda lives: lives.choices)
Chunk = Any  # what a life sends: see `_job`
Choice = Mapping[str, Any]  # arguments of `Create`
NONE: Choice = {}


@dataclass
class ExpectedSession:
    """A session as the reference knows it."""

    epoch: int
    position: int
    used: float
    choice: Choice
    since_reset: list[Any] = field(default_factory=list)  # rows
    answers: list[tuple[int, Chunk, Answer]] = field(default_factory=list)  # at, chunk, the answer


class Lives(RuleBasedStateMachine):
    """The engine, and beside it what every session should be."""

    store_name = "memory"
    examples = 40
    forecaster = Forecaster(artifacts()["sine"])
    chunks: st.SearchStrategy[Chunk] = st.lists(NUMBERS, min_size=1, max_size=3)
    choices: st.SearchStrategy[Choice] = st.just({})

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "0.sqlite"
        self.now = 1_700_000_000.0
        self.alive: dict[str, ExpectedSession] = {}
        self.gone: dict[str, int] = {}
        self.files: list[tuple[bytes, ExpectedSession]] = []  # exported, and what they must bring back
        self.runner = asyncio.Runner()
        self._open()

    def teardown(self) -> None:
        for engine in self.engines:
            self.runner.run(engine.stop())
        self.runner.close()
        shutil.rmtree(self.folder)

    # What happens.

    @rule(name=NAMES, choice=CHOICES)
    def create(self, name: str, choice: Choice) -> None:
        if self._here(name) is not None:
            self._refused(SessionExists, Create(name, **choice))
            return
        view = self._ask(Create(name, **choice))
        self._born(name, view.epoch, choice=choice)

    @rule(name=NAMES, chunk=CHUNKS, at=st.sampled_from(["none", "right", "right", "behind", "ahead", "zero"]))
    def chunk(self, name: str, chunk: Chunk, at: str) -> None:
        session = self._here(name)
        position = session.position if session else 0
        places = {"none": None, "right": position, "behind": position - 1, "ahead": position + 1, "zero": 0}
        self._send(name, chunk, places[at] if places[at] != -1 else None, None)

    @rule(name=NAMES, back=st.integers(0, REMEMBERED + 1), other=st.booleans())
    def retry(self, name: str, back: int, other: bool) -> None:
        session = self._here(name)
        if session is None or back >= len(session.answers):
            return
        at, chunk, _ = session.answers[-1 - back]
        self._send(name, self._otherwise(chunk) if other else chunk, at, session.epoch)

    @rule(name=NAMES, chunk=CHUNKS)
    def chunk_for_a_namesake(self, name: str, chunk: Chunk) -> None:
        session = self._here(name)
        self._send(name, chunk, session.position if session else 0, 12345)

    @rule(name=NAMES, right=st.booleans())
    def reset(self, name: str, right: bool) -> None:
        session = self._here(name)
        if session is None:
            self._refused(self._absent(name), Reset(name))
        elif not right:
            self._refused(OutOfStep, Reset(name, at=session.position + 1))
        else:
            view = self._ask(Reset(name, at=session.position, epoch=session.epoch))
            assert (view.position, view.since_reset) == (session.position, 0)
            session.since_reset, session.answers, session.used = [], [], self.now

    @rule(name=NAMES, into=NAMES)
    def fork(self, name: str, into: str) -> None:
        session = self._here(name)
        if name == into:
            return
        if session is None:
            self._refused(self._absent(name), Fork(name, into))
        elif self._here(into) is not None:
            self._refused(SessionExists, Fork(name, into))
        else:
            view = self._ask(Fork(name, into))
            self._born(into, view.epoch, session.position, session.since_reset, session.choice)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        session = self._here(name)
        if session is None:
            self._refused(self._absent(name), Delete(name))
            return
        self._ask(Delete(name))
        self._bury(name)

    @rule(name=NAMES)
    def export(self, name: str) -> None:
        session = self._here(name)
        if session is None:
            self._refused(self._absent(name), Export(name))
            return
        file = state_file.encode(self._ask(Export(name)))
        self.files.append((file, dataclasses.replace(session, answers=list(session.answers))))

    @precondition(lambda self: self.files)
    @rule(name=NAMES, which=st.integers(0, 100))
    def import_(self, name: str, which: int) -> None:
        file, exported = self.files[which % len(self.files)]
        self._here(name)
        view = self._ask(Import(name, state_file.decode(file)))
        assert (view.position, view.since_reset) == (exported.position, len(exported.since_reset))
        since, choice = exported.since_reset, exported.choice
        session = self._born(name, view.epoch, exported.position, since, choice)
        session.answers = list(exported.answers)

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        session = self._here(name)
        if session is None:
            self._refused(self._absent(name), Inspect(name))
            return
        view = self._ask(Inspect(name))
        actual = (view.position, view.since_reset, view.epoch)
        assert actual == (session.position, len(session.since_reset), session.epoch)
        if session.since_reset:
            wanted = self._answer(session, 1)["predictions"][0]
            np.testing.assert_allclose(view.last_prediction, wanted, atol=1e-5)

    @rule(seconds=st.sampled_from([1.0, 40.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        for names in ("abc", "de"):  # no more than a batch takes
            self._ask(Expire(names))
        for name in list(self.alive):
            self._here(name)

    @rule()
    def tend(self) -> None:
        self.engine.residents.store.tend()

    @precondition(lambda self: self.store_name != "memory")
    @rule()
    def restart(self) -> None:
        for engine in self.engines:
            self.runner.run(engine.stop())
        self._open()

    @precondition(lambda self: self.store_name == "redis")
    @rule(which=st.integers(0, 2))
    def go_elsewhere(self, which: int) -> None:
        """Another replica answers from here on, with whatever it still has resident."""
        others = self.engines
        while len(others) <= which:
            self._open()
            others.append(self.engine)
            self.engines = others
        self.engine = others[which]

    @precondition(lambda self: self.store_name == "sqlite")
    @rule()
    def crash(self) -> None:
        """What is on disk now is all that a killed process leaves."""
        left = self.path.with_name(f"{int(self.path.stem) + 1}.sqlite")
        shutil.copy(self.path, left)
        for beside in ("-wal", "-mark"):
            shutil.copy(f"{self.path}{beside}", f"{left}{beside}")
        self.runner.run(self.engine.stop())
        self.path = left
        self._open()

    @invariant()
    def as_many_sessions(self) -> None:
        if self.store_name != "redis":  # a replica counts what the others did only now and then
            assert len(self.engine.residents) == len(self.alive)

    # The reference.

    def _send(self, name: str, chunk: Chunk, at: int | None, epoch: int | None) -> None:
        session = self._here(name)
        job, rows = self._job(name, chunk, at, epoch), self._rows(chunk)
        if session is None:
            if at or epoch is not None:
                self._refused(self._absent(name), job)
                return
            answer = self._ask(job)
            session = self._born(name, answer.epoch)
        elif epoch not in (None, session.epoch):
            self._refused(OutOfStep, job)
            return
        elif at in (None, session.position):
            answer = self._ask(job)
        else:
            before = [one for one in session.answers if one[:2] == (at, chunk)]
            if not before:
                error = self._refused(OutOfStep, job)
                assert error.extra["position"] == session.position
                return
            answer = self._ask(job)
            assert (answer.replayed, answer.position) == (True, at + len(rows))
            np.testing.assert_equal(answer.answer, before[0][2])
            return
        session.since_reset = session.since_reset + rows
        self._compare(answer.answer, session, chunk)
        session.answers = [*session.answers, (session.position, chunk, answer.answer)][-REMEMBERED:]
        session.position += len(rows)
        session.used = self.now
        assert (answer.replayed, answer.position, answer.epoch) == (False, session.position, session.epoch)

    # What a chunk is, and what it is answered by.

    def _rows(self, chunk: Chunk) -> list[Any]:
        return list(chunk)

    def _job(self, name: str, chunk: Chunk, at: int | None, epoch: int | None) -> Advance:
        return Advance(name, np.array(chunk, np.float32)[:, None], at, epoch)

    def _otherwise(self, chunk: Chunk) -> Chunk:
        return [number + 1 for number in chunk]

    def _compare(self, answer: Answer, session: ExpectedSession, chunk: Chunk) -> None:
        wanted = self._answer(session, len(self._rows(chunk)))
        assert answer.keys() == wanted.keys()
        for name, numbers in wanted.items():
            np.testing.assert_allclose(answer[name], numbers, atol=1e-5)

    def _answer(self, session: ExpectedSession, last: int) -> Answer:
        """All since the reset in one pass."""
        observations = np.array(session.since_reset, np.float32)[:, None]
        carries = np.zeros((1, self.forecaster.carry_size), np.float32)
        passed = self.forecaster.advance(observations, np.array([len(observations)]), carries)
        return {"predictions": passed[0][-last:]}

    def _here(self, name: str) -> ExpectedSession | None:
        session = self.alive.get(name)
        if session is not None and session.used + TTL < self.now:
            # The engine expires it at the next request for it.
            self._refused(SessionGone, Inspect(name))
            self._bury(name)
            return None
        return session

    def _born(
        self, name: str, epoch: int, position: int = 0, since_reset: Sequence[Any] = (), choice: Choice = NONE
    ) -> ExpectedSession:
        self.gone.pop(name, None)
        self.alive[name] = ExpectedSession(epoch, position, self.now, choice, list(since_reset))
        return self.alive[name]

    def _bury(self, name: str) -> None:
        self.gone[name] = self.alive.pop(name).position

    def _absent(self, name: str) -> type[CarryoverError]:
        return SessionGone if name in self.gone else UnknownSession

    # The engine.

    def _open(self) -> None:
        settings = Settings(
            resident_sessions=3,
            batch_sessions=3,
            recent_chunks=REMEMBERED,
            idle_ttl_seconds=TTL,
            expire_after_jump=True,  # time that passes between two lives is idle time
        )
        self.engine = Engine([self.forecaster], self._store(), settings, lambda: self.now)
        self.engines = [self.engine]

        async def start() -> None:
            self.engine.start()

        self.runner.run(start())

    def _store(self) -> Store:
        if self.store_name == "redis":
            return RedisStore(parse_url(self.url), 1e9, clock=lambda: self.now)
        if self.store_name == "memory":
            return MemoryStore(100, float("inf"), lambda: self.now)
        return SqliteStore(self.path, 100, float("inf"), 0.0, lambda: self.now)

    def _ask(self, job: Any) -> Any:
        return self.runner.run(asyncio.wait_for(self.engine.ask(job), 10))

    def _refused(self, error: type[CarryoverError], job: Any) -> CarryoverError:
        with pytest.raises(error) as raised:
            self._ask(job)
        if error is SessionGone and job.session in self.gone:
            assert raised.value.extra["position"] == self.gone[job.session]
        return raised.value


class DurableLives(Lives):
    store_name = "sqlite"


class LearningLives(Lives):
    """Sessions that learn, each as it chose to, from streams with gaps; some want intervals."""

    forecaster = Forecaster(artifacts()["adaptive"])
    chunks = st.tuples(ROWS | st.integers(1, 3), st.sampled_from([None, 0.8, 0.9]), st.booleans())
    choices = st.sampled_from(
        [
            {},
            {"level": 0.8},
            {"learning": {"readout": "gain"}, "level": 0.9},
            {"learning": {"readout": "off"}},
            {"learning": {"forgetting": 0.9, "prior": 10.0}},
        ]
    )

    def _rows(self, chunk: Chunk) -> list[Any]:
        rows = chunk[0]
        return [(None, None)] * rows if isinstance(rows, int) else list(rows)

    def _job(self, name: str, chunk: Chunk, at: int | None, epoch: int | None) -> Advance:
        rows, level, score = chunk
        if isinstance(rows, int):
            observations = np.empty((rows, 0), np.float32)
        else:
            observations = np.array(rows, np.float32)
        gaps = isinstance(rows, int) or bool(np.isnan(observations).any())
        options = ChunkOptions(level, score, gaps) if gaps or level or score else None
        return Advance(name, observations, at, epoch, options=options)

    def _otherwise(self, chunk: Chunk) -> Chunk:
        return (chunk[0], {None: 0.8, 0.8: 0.9, 0.9: None}[chunk[1]], chunk[2])

    def _compare(self, answer: Answer, session: ExpectedSession, chunk: Chunk) -> None:
        rows, level, score = self._rows(chunk), chunk[1] or session.choice.get("level"), chunk[2]
        expected = self._said(session)[-len(rows) :]
        wanted = {"predictions": [one.prediction for one in expected]}
        if level:
            widths = np.array([one.widths[self._learning(session).levels.index(level)] for one in expected])
            wanted |= {"lower": wanted["predictions"] - widths, "upper": wanted["predictions"] + widths}
        if score:
            wanted["residuals"] = np.array([one.errors for one in expected], float)
            self._compare_scores(answer["scores"], wanted["residuals"])
        if any(None in row for row in rows):
            wanted["observed"] = np.array([[one is not None for one in row] for row in rows])
        assert answer.keys() - {"scores"} == wanted.keys()
        for name, numbers in wanted.items():
            np.testing.assert_allclose(answer[name], numbers, rtol=1e-5, atol=1e-4, err_msg=name)

    def _compare_scores(self, scores: np.ndarray, residuals: np.ndarray) -> None:
        """Only where there are scores: see `tests/models/adaptation/test_surprise.py`."""
        judged = ~np.isnan(residuals).all(axis=1)
        np.testing.assert_array_equal(~np.isnan(scores[:, 0]), judged)
        assert ((scores[judged] >= 0) & (scores[judged] < 1)).all()

    def _answer(self, session: ExpectedSession, last: int) -> Answer:
        return {"predictions": np.array([one.prediction for one in self._said(session)[-last:]])}

    def _said(self, session: ExpectedSession) -> list[plain.Said]:
        return plain.predicted(self.forecaster.artifact, self._learning(session), session.since_reset)

    def _learning(self, session: ExpectedSession) -> Learning:
        return self.forecaster.learning.with_options(**session.choice.get("learning", {}))


class DurableLearningLives(LearningLives):
    store_name = "sqlite"
    examples = 10  # each life waits for the disk


class SharedLives(Lives):
    """Several replicas on one store: each keeps rows of its own, which others move on."""

    store_name = "redis"
    server: RedisServer

    def __init__(self) -> None:
        self.url = self.server.url
        self.server.ask("FLUSHALL")
        super().__init__()


@pytest.fixture(autouse=True)
def sweeps(monkeypatch) -> None:
    """Sessions expire when a life sweeps: the engine would also do so whenever a life takes a second."""
    monkeypatch.setattr(upkeep, "SWEEP_SECONDS", 1e9)


@pytest.mark.parametrize("lives", [Lives, DurableLives, LearningLives, DurableLearningLives])
def test_no_life_of_sessions_differs_from_the_plain_reference(lives):
    live(lives)


@needs_redis
def test_no_life_among_replicas_differs_from_the_plain_reference(redis_server):
    SharedLives.server = redis_server
    live(SharedLives)


def live(lives: type[Lives]) -> None:
    run_state_machine_as_test(
        lives,
        settings=settings(
            max_examples=lives.examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            # To shorten a failing example takes minutes and looks like a hung test: it is reported as found.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )
