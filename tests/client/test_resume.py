"""A client that is killed anywhere and run again: every row of its source is applied exactly once."""

from __future__ import annotations

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from carryover import AsyncCarryover, CannotResume, Carryover, Stream, connection

from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio

ROWS, CHUNK, EARLIER = 5, 2, 3
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; each client would load the system's anew
Call = Callable[[Callable[[Any], Any]], Any]


class Killed(BaseException):
    """The client's process has ended. The client cannot catch it."""


class Life:
    """Ends a client at its n-th operation on the network: before it, or behind it and before its answer."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.behind = False

    def end_at(self, operation: int | None, *, behind: bool = False) -> None:
        self.left, self.behind = operation, behind

    def before(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left == 0 and not self.behind:
                raise Killed

    def after(self) -> None:
        if self.left == 0:
            raise Killed


@pytest.fixture(params=["sqlite"])
def store(request) -> str:
    return request.param


@pytest.fixture(params=["blocking", "awaited"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def socket(kind) -> bool:
    return kind == "awaited"


@pytest.fixture
def life(monkeypatch) -> Life:
    """Wrap every operation on the network."""
    life = Life()

    def wrap(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *arguments: Any) -> Any:
            life.before()
            result = original(self, *arguments)
            life.after()
            return result

        async def awaited(self: Any, *arguments: Any) -> Any:
            life.before()
            result = await original(self, *arguments)
            life.after()
            return result

        monkeypatch.setattr(owner, name, awaited if inspect.iscoroutinefunction(original) else wrapped)

    for owner in (Carryover, AsyncCarryover):
        wrap(owner, "_perform")
    for owner in (connection.Connection, connection.AsyncConnection):
        for name in ("open", "read", "write"):
            wrap(owner, name)
    return life


@pytest.fixture
def started(start_hot, kind):
    """`async with started() as (service, call)`: each `await call(...)` is a client's whole life."""

    @asynccontextmanager
    async def start() -> AsyncIterator[tuple[Any, Call]]:
        async with start_hot() as service:
            url = f"http://127.0.0.1:{service.port}"

            def blocking(work: Callable[[Any], Any]) -> Any:
                with Carryover(url, retry=0, verify=PLAIN) as client:
                    return work(client)

            async def call(work: Callable[[Any], Any]) -> Any:
                if kind == "blocking":
                    return await asyncio.to_thread(caught, blocking, work)
                async with AsyncCarryover(url, retry=0, verify=PLAIN) as client:
                    try:
                        return await work(client)
                    except Killed:
                        return Killed

            yield service, call

    return start


def caught(work: Callable[[Any], Any], *arguments: Any) -> Any:
    """The result; or Killed, which must not end the thread of a pool."""
    try:
        return work(*arguments)
    except Killed:
        return Killed


async def lives(life: Life, run: Callable[[str], Any], check: Callable[[str], Any]) -> int:
    """Kill a run at its first, second, ... operation, until one lives to its end; check each."""
    count = 0
    for behind in (False, True):
        for operation in range(1, 100):
            session = f"s{behind:d}-{operation}"
            life.end_at(operation, behind=behind)
            ended = await run(session)
            life.end_at(None)
            await check(session)
            count += 1
            if ended is not Killed:
                break
        else:
            raise AssertionError("no run came to its end")
    return count


def answers_of(stream: Any) -> Any:
    """All answers of a stream of either client."""
    if isinstance(stream, Stream):
        return list(stream.answers())

    async def collected() -> list[Any]:
        return [answer async for answer in stream.answers()]

    return collected()


def flat(answers: list[Any]) -> list[float]:
    return [float(number) for answer in answers for number in np.ravel(answer.predictions)]


def streamed(session: str, rows: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda client: answers_of(client.session(session).stream(rows, CHUNK, **options))


@pytest.mark.parametrize(("socket", "form"), [(True, "array"), (False, "iterator")])
async def test_killed_anywhere_and_run_again_every_row_is_applied_once(
    started, life, socket, form, artifacts
):
    whole = series("sine", ROWS)
    want = one_pass(artifacts["sine"], whole)

    async with started() as (service, call):

        def run(session: str) -> Any:
            rows = whole if form == "array" else iter(whole.tolist())
            return call(streamed(session, rows, socket=socket, resume=True))

        async def check(session: str) -> None:
            rest = flat(await run(session))
            await check_session(service, session, ROWS, want[-1])
            np.testing.assert_allclose(rest, want[ROWS - len(rest) :, 0], atol=TOLERANCE)

        assert await lives(life, run, check) > ROWS


@pytest.mark.parametrize("kind", ["blocking"])
async def test_a_second_source_goes_on_behind_the_first(started, life, socket, artifacts):
    """The first one ends in the middle of a chunk; the second one is killed anywhere."""
    earlier, whole = series("sine", EARLIER, 1), series("sine", ROWS)
    want = one_pass(artifacts["sine"], np.concatenate([earlier, whole]))
    async with started() as (service, call):

        async def run(session: str) -> Any:
            kill, life.left = life.left, None
            if kill is not None:
                await call(lambda client: client.session(session).advance(earlier))
            life.left = kill
            return await call(streamed(session, whole, socket=socket, resume=True, start=EARLIER))

        async def check(session: str) -> None:
            await run(session)
            await check_session(service, session, EARLIER + ROWS, want[-1])

        await lives(life, run, check)


@pytest.mark.parametrize("kind", ["awaited"])
async def test_a_source_that_has_grown_goes_on_and_may_be_killed_again(started, life, socket, artifacts):
    """An earlier run ended in the middle of a chunk, so a chunk behind it is shorter."""
    whole = series("sine", ROWS)
    want = one_pass(artifacts["sine"], whole)
    async with started() as (service, call):

        async def run(session: str) -> Any:
            if life.left is not None:
                kill, life.left = life.left, None
                await call(streamed(session, whole[:EARLIER], socket=socket))
                life.left = kill
            return await call(streamed(session, whole, socket=socket, resume=True))

        async def check(session: str) -> None:
            await run(session)
            await check_session(service, session, ROWS, want[-1])

        await lives(life, run, check)


async def test_predictions_that_were_lost_are_repeated(started, socket, artifacts):
    whole = series("sine", ROWS)
    want = one_pass(artifacts["sine"], whole)[:, 0]
    async with started() as (service, call):
        await call(streamed("a", whole[:4], socket=socket))
        answers = await call(streamed("a", whole, socket=socket, resume=True, after=2))
        assert (await service.session("a"))["position"] == ROWS
    assert [answer.replayed for answer in answers] == [True, False]
    np.testing.assert_allclose(flat(answers), want[2:], atol=TOLERANCE)


async def test_what_cannot_be_decided_is_refused_and_changes_nothing(started, socket):
    whole, other = series("sine", ROWS), series("sine", ROWS, 1)
    async with started() as (service, call):
        await call(streamed("a", whole[:4], socket=socket))
        refused = {
            "the source has 3 rows": (whole[:3], {}),
            "are not those of the source": (other, {}),
            "cannot go on at 4 with a source that began at 7": (whole, {"start": 7}),
            "cannot go on at 5": (whole, {"after": 5}),
            r"the source began at another position": (whole, {"start": 1}),
        }
        for message, (rows, options) in refused.items():
            with pytest.raises(CannotResume, match=message):
                await call(streamed("a", rows, socket=socket, resume=True, **options))
        assert (await service.session("a"))["position"] == 4
        await call(lambda client: client.session("a").reset())
        with pytest.raises(CannotResume, match="or was reset"):
            await call(streamed("a", whole, socket=socket, resume=True))
        assert (await service.session("a"))["position"] == 4
        # Without resuming, all rows are new.
        await call(streamed("a", whole, socket=socket))
        assert (await service.session("a"))["position"] == 4 + ROWS


async def check_session(service: Any, session: str, rows: int, last: np.ndarray) -> None:
    shown = await service.session(session)
    assert (shown["position"], shown["observations_since_reset"]) == (rows, rows), session
    assert shown["last_prediction"] == pytest.approx(last.tolist(), abs=2 * TOLERANCE)
