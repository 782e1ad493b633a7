"""The client that awaits, on asyncio and on trio. `service` is its twin, and says more of each call."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import httpx

from carryover import bulk, effects, plans, streaming
from carryover.connection import BROKEN, AsyncConnection, http_options, reply_of, request_options, unreachable
from carryover.effects import Plan
from carryover.errors import Unreachable
from carryover.numbers import Chunk, checked_size, chunk_of, chunks_of, gap, is_whole
from carryover.retry import Patience
from carryover.values import Answer, Forecast, ModelInfo, Prediction, SessionInfo, gathered
from carryover.window import ahead_of
from carryover.wire import Cursor, Wanted, adopted

T = TypeVar("T")


class AsyncCarryover:
    """A Carryover server; see `Carryover`. Two tasks may use it at once for different sessions only."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        patience: Patience | float = 60.0,
        timeout: float = 30.0,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._verify = verify
        self._patience = patience if isinstance(patience, Patience) else Patience(patience)
        self._key = key
        self._http = httpx.AsyncClient(**http_options(url, key, timeout, verify))
        self._cursors: dict[str, Cursor] = {}
        self._models: dict[str, ModelInfo] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; sessions stay where they are."""
        await self._http.aclose()

    def session(self, id: str, model: str | None = None, **options: Any) -> AsyncSession:
        """A session by its id; see `Carryover.session`."""
        return AsyncSession(self, adopted(self._cursors, id, model, options))

    def forget(self, id: str) -> None:
        """Drop what this client knows of a session: that of a million of them is memory."""
        self._cursors.pop(id, None)

    async def advance(
        self,
        observations: Mapping[str, Any],
        model: str | None = None,
        *,
        level: float | None = None,
        score: bool = False,
    ) -> bulk.Answers:
        """Move many sessions on by a chunk each, in one request; see `Carryover.advance`."""
        cursors = {name: adopted(self._cursors, name, None, {}) for name in observations}
        chunks = {name: chunk_of(rows) for name, rows in observations.items()}
        return await self._run(bulk.advance(cursors, chunks, model, Wanted(0, level, score), self._patience))

    def sessions(self, model: str | None = None, after: str = "") -> AsyncIterator[dict[str, Any]]:
        """Every session behind `after`, in the order of their ids: `session`, `model`, ..."""
        return self._emitted(plans.sessions(model, self._patience, after))

    async def count(self) -> int:
        """How many sessions there are."""
        return await self._run(plans.count(self._patience))

    async def models(self) -> list[ModelInfo]:
        """Every model that is loaded."""
        return await self._run(plans.models(self._patience))

    # Plans are run here.

    async def _run(self, plan: Plan[T]) -> T:
        try:
            effect = next(plan)
            while True:
                try:
                    result = await self._performed(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def _emitted(self, plan: Plan[None], perform: Any = None) -> AsyncGenerator[Any, None]:
        perform = perform or self._performed
        try:
            effect = next(plan)
            while True:
                if effect.__class__ is effects.Emit:
                    yield effect.value
                    effect = next(plan)
                    continue
                try:
                    result = await perform(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration:
            return
        finally:
            plan.close()

    async def _performed(self, effect: Any) -> Any:
        if effect.__class__ is effects.Sleep:
            await anyio.sleep(effect.seconds)
            return None
        try:
            return reply_of(await self._http.request(**request_options(effect)))
        except BROKEN as error:
            raise unreachable(self.url, error) from error


class AsyncSession:
    """One session of a server; see `Session`."""

    def __init__(self, service: AsyncCarryover, cursor: Cursor) -> None:
        self.service = service
        self._cursor = cursor

    def __repr__(self) -> str:
        return f"<AsyncSession {self.id!r} of {self.service.url}>"

    @property
    def id(self) -> str:
        """Its name on the server."""
        return self._cursor.session

    @property
    def position(self) -> int | None:
        """Observations consumed, as far as this client knows; None before the server was asked."""
        return self._cursor.position

    async def advance(
        self, observations: Any, *, horizon: int = 0, level: float | None = None, score: bool = False
    ) -> Answer:
        """Move on by one chunk, and predict what follows each of its observations."""
        service = self.service
        chunk = await service._run(
            plans.chunked(observations, self._cursor, service._models, service._patience)
        )
        wanted = Wanted(horizon, level, score)
        return await service._run(plans.advance(self._cursor, chunk, wanted, service._patience))

    async def skip(self, count: int) -> Answer:
        """Move on over observations that are wholly missing."""
        return await self.service._run(
            plans.advance(self._cursor, gap(count), Wanted(), self.service._patience)
        )

    def stream(
        self,
        observations: Iterable[Any] | AsyncIterable[Any],
        chunk: int = 1,
        *,
        horizon: int = 0,
        level: float | None = None,
        score: bool = False,
        ahead: int | None = None,
        socket: bool | None = None,
    ) -> AsyncStream:
        """Stream observations, of an async iterable too; iterating gives a `Prediction` an observation."""
        service, size = self.service, checked_size(chunk)
        way = streaming.Way(service.url, service._key, service._patience, socket)
        wanted = Wanted(horizon, level, score)
        whole, most = is_whole(observations), ahead_of(observations, ahead)
        plan = streaming.stream(self._cursor, wanted, most, whole, way)
        return AsyncStream(_streamed(service, self._cursor, plan, observations, size))

    async def forecast(self, steps: int, *, level: float | None = None, future: Any = None) -> Forecast:
        """Roll out for so many steps, feeding predictions back in; the session does not move."""
        return await self.service._run(
            plans.forecast(self._cursor, steps, level, future, self.service._patience)
        )

    async def create(self) -> SessionInfo:
        """Make it now, rather than by its first chunk; one that is there is an error."""
        return await self.service._run(plans.create(self._cursor, self.service._patience))

    async def info(self) -> SessionInfo:
        """What the server knows of it. Where this client believes it to be stays as it is."""
        return await self.service._run(plans.peek(self._cursor, self.service._patience))

    async def refresh(self) -> SessionInfo:
        """Take over where the server has it: after `OutOfStep`, to go on from there."""
        return await self.service._run(plans.inspect(self._cursor, self.service._patience))

    def rewind(self, position: int) -> None:
        """Go on behind `position`, the end of one of the last few chunks, as if later answers had not come.

        The same observations have to follow in the same chunks: they are answered from what the server
        remembers, and applied only from where it is. So a program that was killed loses no answer.
        """
        self._cursor.position = position

    async def reset(self) -> SessionInfo:
        """Zero the carry; the position stays."""
        return await self.service._run(plans.reset(self._cursor, self.service._patience))

    async def fork(self, id: str | None = None) -> AsyncSession:
        """A new session with a copy of the carry; its id is drawn when none is given."""
        service = self.service
        into = None if id is None else Cursor(id)
        made = await service._run(plans.fork(self._cursor, into, service._patience))
        service._cursors[made.session] = made
        return AsyncSession(service, made)

    async def delete(self) -> None:
        """Forget it."""
        await self.service._run(plans.delete(self._cursor, self.service._patience))

    async def state(self) -> bytes:
        """All that it remembers, as a safetensors file."""
        return await self.service._run(plans.export(self._cursor, self.service._patience))

    async def save(self, path: str | Path) -> None:
        """Write its state to a file."""
        await anyio.Path(path).write_bytes(await self.state())

    async def load(self, source: str | Path | bytes) -> SessionInfo:
        """Put it in a saved state, whether it is there or not."""
        state = source if isinstance(source, bytes) else await anyio.Path(source).read_bytes()
        return await self.service._run(plans.load(self._cursor, state, self.service._patience))


class AsyncStream:
    """Predictions as they come in; iterate over it once."""

    def __init__(self, answers: AsyncGenerator[Answer, None]) -> None:
        self._answers = answers

    async def __aiter__(self) -> AsyncIterator[Prediction]:
        async for answer in self._answers:
            for prediction in answer:
                yield prediction

    def answers(self) -> AsyncIterator[Answer]:
        """An answer a chunk, in place of a prediction an observation."""
        return self._answers

    async def collect(self) -> Answer:
        """All of it, as the answer to one chunk; pandas on the index that came in."""
        return gathered([answer async for answer in self._answers])

    async def close(self) -> None:
        """Stop. Chunks in flight may have been applied: the session asks the server before it goes on."""
        await self._answers.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _streamed(
    service: AsyncCarryover, cursor: Cursor, plan: Plan[None], observations: Any, size: int
) -> AsyncGenerator[Answer, None]:
    columns = await service._run(plans.columns_for(observations, cursor, service._models, service._patience))
    pull = _puller(observations, size, *columns)
    connection = AsyncConnection(service.url, service.timeout, service._verify)

    async def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Pull:
            return await anext(pull, None)
        if kind is effects.Read:
            return await connection.read()
        if kind is effects.Write:
            return await connection.write(effect.data)
        if kind is effects.Open:
            return await connection.open()
        if kind is effects.Close:
            return await connection.close()
        return await service._performed(effect)

    try:
        async with aclosing(service._emitted(plan, perform)) as answers:
            async for answer in answers:
                yield answer
    finally:
        await connection.close()


async def _puller(
    observations: Any, size: int, inputs: tuple[str, ...], targets: tuple[str, ...]
) -> AsyncGenerator[Chunk, None]:
    """Chunks of an iterable of either kind."""
    if not hasattr(observations, "__aiter__"):
        chunks: Iterator[Chunk] = chunks_of(observations, size, inputs, targets)
        for chunk in chunks:
            yield chunk
        return
    rows: list[Any] = []
    async for row in observations:
        rows.append(row)
        if len(rows) == size:
            yield chunk_of(rows)
            rows = []
    if rows:
        yield chunk_of(rows)
