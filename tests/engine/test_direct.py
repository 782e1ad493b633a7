"""Chunks that are applied at once leave the same sessions, answers and counts behind as those of a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import numpy as np
import pytest

from app.config import Settings
from app.engine.batch import Batch
from app.engine.engine import Engine
from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionView
from app.jobs.jobs import Adopt, Advance, AdvanceMany, Create, Delete, Job, Reset
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.stores.memory import MemoryStore
from models.forecaster import Forecaster
from tests.helpers import faults, zoo
from tests.helpers.faults import CURSED
from tests.helpers.services import Clock

pytestmark = pytest.mark.anyio

MODELS = ("sine", "pair", "adaptive", "planned")
WIDTHS = {model: len(zoo.INPUTS[model]) for model in MODELS}
TTL_SECONDS = 30.0


@pytest.fixture
def artifacts_of_models(artifacts):
    return [artifacts[model] for model in MODELS]


@asynccontextmanager
async def running(artifacts, seed: int = 0, **changes: Any) -> AsyncIterator[Engine]:
    """An engine whose sessions have the same epochs in every run, and that only jobs make tick."""
    small = {
        "resident_sessions": 16,
        "batch_sessions": 16,
        "bulk_sessions": 16,
        "idle_ttl_seconds": TTL_SECONDS,
        "default_model": artifacts[0].name,
    }
    settings, clock = Settings(**(small | changes)), Clock()
    engine = Engine(
        [Forecaster(artifact) for artifact in artifacts], MemoryStore(100, 1e9, clock), settings, clock
    )
    epochs = Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.engine.residents.secrets.token_bytes", epochs.randbytes)
        engine.start()
        engine._upkeep.stop()
        yield engine
        await engine.stop()


def count_direct(engine: Engine, method: str = "_step") -> list[int]:
    """The sizes of the jobs that are stepped without admission from now on, or applied at once: "advance"."""
    sizes: list[int] = []
    original = getattr(engine._direct, method)

    def counting(job: AdvanceMany, now: float) -> Any:
        result = original(job, now)
        if result is not None:
            sizes.append(len(job))
        return result

    setattr(engine._direct, method, counting)
    return sizes


WAYS = ("at once", "staged", "admitted")


def take_way(engine: Engine, way: str) -> list[int]:
    """Have bulk jobs applied at once, staged without admission, or admitted. Returns what is counted."""
    engine._may_apply_at_once = way == "at once"
    if way == "admitted":
        engine._direct._step = lambda job, now: None  # type: ignore[method-assign]
    return count_direct(engine)


def many(sessions: list[str], rows: Any, lengths: list[int] | None = None, **more: Any) -> AdvanceMany:
    observations = np.array(rows, np.float32).reshape(-1, np.shape(rows)[-1])
    counts = np.array(lengths or [1] * len(sessions), np.int64)
    return AdvanceMany(SessionList(sessions), observations, counts, **more)


async def outcome_of(engine: Engine, job: Job) -> Any:
    try:
        return await engine.ask(job)
    except CarryoverError as error:
        return error


def plain_value(outcome: Any) -> Any:
    """An outcome as a value that can be compared."""
    if isinstance(outcome, BulkAnswer):
        errors = {i: plain_value(error) for i, error in outcome.errors.items()}
        columns = outcome.positions.tolist(), outcome.epochs.tolist(), outcome.steps.tolist()
        bits = outcome.predictions.view(np.uint32).tolist()
        return columns, np.array(outcome.outputs).tolist(), bits, outcome.replayed, errors, outcome.model
    if isinstance(outcome, ChunkAnswer):
        answer = {name: numbers.tolist() for name, numbers in outcome.answer.items()}
        return outcome.session, outcome.position, outcome.epoch, outcome.replayed, answer
    if isinstance(outcome, CarryoverError):
        return type(outcome).__name__, str(outcome)
    if isinstance(outcome, SessionView):
        return outcome.session, outcome.position, outcome.epoch, outcome.since_reset
    return outcome


def state(engine: Engine) -> dict[str, Any]:
    """Everything that the engine remembers of its sessions, and what it has counted."""
    slabs = {}
    for slab in engine.residents.models.slabs.values():
        count = len(slab._owner)
        long = {row: [plain_long(answer) for answer in answers] for row, answers in slab.long_answers.items()}
        slabs[slab.forecaster.artifact.name] = (
            dict(slab.index),
            slab.headers[:count].tobytes(),
            slab.carries[:count].tobytes(),
            slab.used[:count].tolist(),
            long,
        )
    metrics = engine.metrics
    names = ("chunks", "observations", "replays", "created", "expired", "deleted", "evicted", "restored")
    counts = {name: getattr(metrics, name) for name in names}
    return {"slabs": slabs, "counts": counts, "ticks": engine.ticks, "batches": metrics.batches.counts}


def plain_long(answer: Any) -> Any:
    return answer and {name: numbers.tolist() for name, numbers in answer.items()}


class Driver:
    """Random jobs over a few sessions; what it sends depends on the answers that it got, and on its seed."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.rng = Random(seed)
        self.engine = engine
        self.model = self.rng.choice(["sine", "pair"])
        self.names = [f"{self.model}-{i}" for i in range(12)]
        self.known: dict[str, tuple[int, int]] = {}  # position and epoch
        self.last: dict[
            str, tuple[int, list[float]]
        ] = {}  # where the last chunk of one observation was, and it

    async def run(self, jobs: int) -> list[Any]:
        trace = [plain_value(await outcome_of(self.engine, Create(name, self.model))) for name in self.names]
        for _ in range(jobs):
            self.engine.clock.wait(self.rng.choice([0.1, 0.1, 0.1, TTL_SECONDS * 0.4]))
            draw = self.rng.random()
            trace.append(await (self.command() if draw < 0.06 else self.chunks()))
        return trace

    async def command(self) -> Any:
        name = self.rng.choice(self.names)
        job = self.rng.choice([Reset(name), Delete(name), Create(f"{self.model}-new", self.model)])
        return plain_value(await outcome_of(self.engine, job))

    def row(self) -> list[float]:
        scale = self.rng.choice([1, 1, 1, 0, 1e-40, 1e4])
        return [float(np.float32(scale * self.rng.gauss(0, 1))) for _ in range(WIDTHS[self.model])]

    async def chunks(self) -> Any:
        rng = self.rng
        names = rng.sample(self.names, rng.choice([1, 2, 5, 12]))
        rows, lengths, at, epochs = [], [], [], []
        for name in names:
            position, epoch = self.known.get(name, (0, 0))
            row, here = self.row(), rng.choice([-1, position])
            draw = rng.random()
            if draw < 0.02 and name in self.last:
                here, row = self.last[name]
            elif draw < 0.03:
                here = rng.choice([position + 1, max(0, position - 1), 2**63 - 1])
            length = 2 if rng.random() < 0.01 else 1
            rows += [row] + [self.row() for _ in range(length - 1)]
            lengths.append(length)
            at.append(here)
            epochs.append(rng.choice([0, epoch, epoch]) if rng.random() < 0.99 else 3)
        claims = {"at": np.array(at, np.int64), "epochs": np.array(epochs, np.uint64)}
        claims = rng.choice([claims, claims, claims, {}, {"at": claims["at"]}])
        claims["model"] = rng.choice([None, self.model, None, "pair"] if rng.random() < 0.2 else [None])
        outcome = await outcome_of(self.engine, many(names, rows, lengths, **claims))
        if isinstance(outcome, BulkAnswer):
            starts = np.cumsum(lengths) - lengths
            for i, name in enumerate(names):
                if outcome.steps[i] and i not in outcome.replayed:
                    position = int(outcome.positions[i])
                    self.known[name] = position, int(outcome.epochs[i])
                    if lengths[i] == 1:
                        self.last[name] = position - 1, rows[starts[i]]
        return plain_value(outcome)


@pytest.mark.parametrize("recent_chunks", [1, 2, 8])
@pytest.mark.parametrize("seed", range(4))
async def test_the_same_jobs_leave_the_same_behind_in_every_way(artifacts_of_models, seed, recent_chunks):
    traces, states = [], []
    for way in WAYS:
        async with running(artifacts_of_models, seed, recent_chunks=recent_chunks) as engine:
            sizes = take_way(engine, way)
            traces.append(await Driver(engine, seed).run(150))
            states.append(state(engine))
            assert (len(sizes) > 30 and max(sizes) > 1) or way == "admitted"
    assert traces[0] == traces[1] == traces[2]
    assert states[0] == states[1] == states[2]


async def test_evictions_choose_the_same_sessions_in_every_way(artifacts_of_models):
    """The marks of use decide which sessions leave: a session that was just used stays."""
    left = []
    for way in WAYS:
        async with running(artifacts_of_models) as engine:
            sizes = take_way(engine, way)
            rng = Random(3)
            names = [f"s{i}" for i in range(24)]  # and 16 rows
            for name in names:
                await engine.ask(Create(name, "sine"))
            resident = []
            for _ in range(60):
                index = engine.residents.models.current["sine"].index
                hot = rng.sample(sorted(index), 4)
                await engine.ask(many(hot, [[0.5]] * 4))
                await engine.ask(many([rng.choice(names)], [[0.5]]))
                resident.append(sorted(index))
            left.append((resident, engine.metrics.evicted, state(engine)))
            assert len(sizes) > 60 or way == "admitted"
    assert left[0] == left[1] == left[2]
    assert left[0][1] > 20


# Every reason to leave a job to the batch.

Setup = Callable[[Engine], Any]


def known(count: int = 3, model: str = "sine") -> list[str]:
    return [f"{model}-{i}" for i in range(count)]


def step(model: str = "sine", count: int = 3, **more: Any) -> AdvanceMany:
    return many(known(count, model), [[0.5] * WIDTHS[model]] * count, **more)


async def expire(engine: Engine) -> None:
    engine.clock.wait(TTL_SECONDS + 1)


async def remember_a_long_answer(engine: Engine) -> None:
    await engine.ask(Advance("sine-1", np.full((5, 1), 0.5, np.float32)))


async def reload(engine: Engine) -> None:
    await engine.ask(Adopt(Forecaster(zoo.made("sine", hidden=64, layers=1, seed=9))))


def plant(fault: Callable[..., None], *arguments: Any) -> Setup:
    async def setup(engine: Engine) -> None:
        fault(faults.forecaster(engine), *arguments)

    return setup


async def nothing(engine: Engine) -> None:
    pass


HERE = {"at": np.array([1, 1, 1])}
LEVEL = ChunkOptions(level=0.9)
REASONS: dict[str, tuple[Setup, Callable[[], AdvanceMany]]] = {
    "a session is new": (nothing, lambda: many(["sine-0", "new"], [[0.5]] * 2)),
    "the first session is new": (nothing, lambda: many(["new", "sine-0"], [[0.5]] * 2)),
    "a session of another model": (nothing, lambda: many(["sine-0", "pair-0"], [[0.5]] * 2)),
    "options": (nothing, lambda: step(options=LEVEL)),
    "a chunk of two observations": (nothing, lambda: many(known(), [[0.5]] * 4, [1, 2, 1])),
    "another width": (nothing, lambda: many(known(), [[0.5, 0.5]] * 3)),
    "another model is named": (nothing, lambda: many(known(), [[0.5]] * 3, model="pair")),
    "sessions that learn": (nothing, lambda: step("adaptive")),
    "a model that knows the time": (nothing, lambda: step("planned")),
    "a long answer is remembered": (remember_a_long_answer, step),
    "the model was replaced": (reload, step),
    "behind": (nothing, lambda: step(at=np.array([1, 0, 1]))),
    "ahead": (nothing, lambda: step(at=np.array([1, 1, 2**63 - 1]))),
    "another epoch": (nothing, lambda: step(epochs=np.array([0, 0, 4], np.uint64), **HERE)),
    "expired": (expire, step),
    "the network raises": (plant(faults.raise_on_curse), lambda: many(known(), [[0.5], [CURSED], [0.5]])),
    "a carry is not finite": (
        plant(faults.blow_up_on_curse, "carry"), lambda: many(known(), [[0.5], [CURSED], [0.5]])),
    "a prediction is not finite": (
        plant(faults.blow_up_on_curse, "prediction"), lambda: many(known(), [[0.5], [CURSED], [0.5]])),
}  # fmt: skip


async def with_sessions(engine: Engine) -> None:
    for model in MODELS:
        await engine.ask(many(known(3, model), [[0.25] * WIDTHS[model]] * 3, model=model))


@pytest.mark.parametrize("reason", REASONS)
async def test_a_job_that_is_not_wholly_direct_is_left_to_the_batch_untouched(artifacts_of_models, reason):
    setup, make = REASONS[reason]
    async with running(artifacts_of_models) as engine:
        await with_sessions(engine)
        await setup(engine)
        before = state(engine)
        assert engine._direct.advance(make(), engine.clock()) is None
        batch = Batch(engine.clock(), [make()])
        assert not engine._direct.stage(batch)
        assert not batch.staged
        assert not batch.answers_if_committed
        assert state(engine) == before


@pytest.mark.parametrize(
    "job", [step, lambda: step(**HERE), lambda: step(model="pair"), lambda: step(count=1)]
)
async def test_a_job_that_is_direct_is_applied(artifacts_of_models, job):
    """The control of the test above: the same sessions, and no reason."""
    async with running(artifacts_of_models) as engine:
        await with_sessions(engine)
        await engine.ask(Advance("sine-9", np.full((5, 1), 0.5, np.float32)))  # another's long answer is none
        before = state(engine)
        answer = engine._direct.advance(job(), engine.clock())
        assert answer.positions.tolist() == [2] * len(job())
        assert state(engine)["slabs"] != before["slabs"]


async def test_an_observation_near_the_largest_float_writes_nothing_to_the_log(artifacts_of_models, recwarn):
    async with running(artifacts_of_models) as engine:
        await with_sessions(engine)
        calls = []
        advance = faults.forecaster(engine).advance
        faults.forecaster(engine).advance = lambda *inputs: calls.append(advance(*inputs)) or calls[-1]
        engine._direct.advance(many(known(), [[0.5], [3.4e38], [0.5]]), engine.clock())
        assert len(calls) == 1  # it did not raise
        assert not recwarn.list


@pytest.mark.parametrize("reason", ["a job waits", "a slow job is under way", "a watcher", "tracing"])
async def test_nothing_is_applied_at_once_while_something_else_must_see_it_first(artifacts_of_models, reason):
    async with running(artifacts_of_models) as engine:
        await with_sessions(engine)
        sizes = count_direct(engine, "advance")
        order: list[str] = []
        earlier: Job = Reset("sine-1", reply=lambda _: order.append("earlier"))
        if reason == "a slow job is under way":
            earlier = Advance("sine-1", np.full((3000, 1), 0.5, np.float32), horizon=20)
            earlier.reply = lambda _: order.append("earlier")
        with pytest.MonkeyPatch.context() as patch:
            if reason == "a watcher":
                patch.setattr(type(engine.watchers), "__bool__", lambda _: True, raising=False)
            elif reason == "tracing":
                patch.setattr(engine, "tracing", Untraced())
            else:
                engine.submit(earlier)
            if reason == "a slow job is under way":
                await faults.until(lambda: bool(engine._backlog.slow))
            later = many(known(), [[0.5]] * 3)
            later.reply = lambda answer: order.append("later" if not answer.errors else "refused")
            engine.submit(later)
            await faults.until(lambda: "later" in order)
        if reason in {"a watcher", "tracing"}:
            assert (order, sizes) == (["later"], [])
        else:
            assert order == ["earlier", "later"]


class Untraced:
    """Records no batch."""

    def begin_batch(self, sessions: int) -> None: ...

    def end_batch(self) -> None: ...


@pytest.mark.parametrize("quick", [True, False])
async def test_an_answer_that_cannot_be_handed_over_leaves_the_session_moved(
    artifacts_of_models, quick, caplog
):
    async with running(artifacts_of_models) as engine:
        await with_sessions(engine)
        engine._may_apply_at_once = quick
        job = step()
        job.reply = lambda _: 1 / 0
        engine.submit(job)
        answer = await engine.ask(step(at=np.array([2, 2, 2])))
        assert answer.positions.tolist() == [3, 3, 3]
        assert "the reply of a job raised" in caplog.text
