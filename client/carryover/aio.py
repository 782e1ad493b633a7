"""The asynchronous client, for asyncio and trio. `service` has the same calls, described in full."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread
import httpx

from carryover import audio, bulk, effects, events, plans, streaming, texts
from carryover.connection import (
    BROKEN,
    AsyncAnswerInPieces,
    AsyncConnection,
    http_options,
    reply_of,
    request_options,
    server_and_key,
    unreachable,
)
from carryover.effects import Plan
from carryover.errors import CannotResume, Unreachable
from carryover.events import Event
from carryover.files import replace_file
from carryover.observations import (
    Chunk,
    batched,
    check_positive,
    chunks_of,
    is_in_memory,
    length_of,
    missing_chunk,
    next_chunk,
)
from carryover.progress import open_bar
from carryover.resuming import Resume
from carryover.retry import RetryPolicy
from carryover.service import session_html, session_text
from carryover.texts import AsyncTextStream
from carryover.values import (
    Answer,
    Forecast,
    History,
    ModelInfo,
    Prediction,
    SessionInfo,
    concatenate_answers,
)
from carryover.window import max_in_flight_for
from carryover.wire import ChunkOptions, Cursor, Order, cursor_for

T = TypeVar("T")


class AsyncCarryover:
    """A Carryover server; see `Carryover`. Tasks that use it at the same time must use different sessions."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        retry: RetryPolicy | float = 60.0,
        timeout: float = 30.0,
        verify: ssl.SSLContext | None = None,
    ) -> None:
        self.url, key = server_and_key(url, key)
        self.timeout = timeout
        self._verify = verify
        self._retry = retry if isinstance(retry, RetryPolicy) else RetryPolicy(retry)
        self._key = key
        self._http = httpx.AsyncClient(**http_options(self.url, key, timeout, verify))
        self._cursors: dict[str, Cursor] = {}
        self._models: dict[str, ModelInfo] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The sessions stay on the server."""
        await self._http.aclose()

    def session(self, id: str, model: str | None = None, **options: Any) -> AsyncSession:
        """Return a session by its id; see `Carryover.session`."""
        return AsyncSession(self, cursor_for(self._cursors, id, model, options))

    def forget(self, id: str) -> None:
        """Free the memory that this client uses for a session. The session stays on the server."""
        self._cursors.pop(id, None)

    async def advance(
        self,
        observations: Mapping[str, Any],
        model: str | None = None,
        *,
        level: float | None = None,
        levels: Sequence[float] = (),
        score: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> bulk.BulkAnswer:
        """Send one chunk for each of many sessions, in one request; see `Carryover.advance`."""
        cursors = {name: cursor_for(self._cursors, name, None, {}) for name in observations}
        chunks = {
            name: await self._run(
                plans.to_chunk(rows, cursors[name], self._models, self._retry, columns, None, model)
            )
            for name, rows in observations.items()
        }
        return await self._run(
            bulk.advance(cursors, chunks, model, ChunkOptions(0, level, score, levels=levels), self._retry)
        )

    def sessions(
        self,
        model: str | None = None,
        after: str = "",
        *,
        detail: bool = False,
        labels: Mapping[str, str] | None = None,
        order: Order | None = None,
        descending: bool = False,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield every session, by id or in another order; see `Carryover.sessions`."""
        return self._emit(plans.sessions(model, self._retry, after, detail, labels, order, descending))

    async def count(self) -> int:
        """Return the number of sessions."""
        return await self._run(plans.count(self._retry))

    async def models(self) -> list[ModelInfo]:
        """Return every loaded model."""
        return await self._run(plans.models(self._retry))

    def events(self, last_event_id: str | None = None) -> AsyncGenerator[Event, None]:
        """Yield each alert of any session as it is raised or over; see `Carryover.events`."""
        return _in_pieces(self, events.events(last_event_id, self._retry))

    # Running plans.

    async def _run(self, plan: Plan[T]) -> T:
        try:
            effect = next(plan)
            while True:
                try:
                    result = await self._perform(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def _emit(self, plan: Plan[None], perform: Any = None) -> AsyncGenerator[Any, None]:
        perform = perform or self._perform
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

    async def _perform(self, effect: Any) -> Any:
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
        return session_text("AsyncSession", self._cursor, self.service.url)

    def _repr_html_(self) -> str:
        return session_html(self._cursor, self.service.url)

    @property
    def id(self) -> str:
        """The session's id on the server."""
        return self._cursor.session

    @property
    def position(self) -> int | None:
        """Observations consumed, as far as this client knows; None before the first answer."""
        return self._cursor.position

    async def advance(
        self,
        observations: Any,
        *,
        horizon: int = 0,
        level: float | None = None,
        levels: Sequence[float] = (),
        score: bool = False,
        columns: Mapping[str, str] | None = None,
        timestamps: Any = None,
        future: Any = None,
    ) -> Answer:
        """Send one chunk, and return the prediction that follows each of its observations."""
        service = self.service
        chunk = await service._run(
            plans.to_chunk(observations, self._cursor, service._models, service._retry, columns, timestamps)
        )
        known_ahead = await service._run(
            plans.to_future(future, self._cursor, service._models, service._retry, columns)
        )
        options = ChunkOptions(horizon, level, score, known_ahead, levels)
        return await service._run(plans.advance(self._cursor, chunk, options, service._retry))

    async def skip(self, count: int) -> Answer:
        """Advance the session over `count` missing observations."""
        return await self.service._run(
            plans.advance(self._cursor, missing_chunk(count), ChunkOptions(), self.service._retry)
        )

    def stream(
        self,
        observations: Iterable[Any] | AsyncIterable[Any],
        chunk: int = 1,
        *,
        horizon: int = 0,
        level: float | None = None,
        levels: Sequence[float] = (),
        score: bool = False,
        columns: Mapping[str, str] | None = None,
        timestamps: Iterable[Any] | None = None,
        max_in_flight: int | None = None,
        socket: bool | None = None,
        resume: bool = False,
        start: int = 0,
        after: int | None = None,
        progress: bool = False,
    ) -> AsyncStream:
        """Stream observations in chunks, also from an async iterable; see `Session.stream`."""
        service, size = self.service, check_positive(chunk)
        target = streaming.StreamTarget(service.url, service._key, service._retry, socket)
        options = ChunkOptions(horizon, level, score, levels=levels)
        limit = max_in_flight_for(observations, max_in_flight)
        in_memory = is_in_memory(observations)
        going_on = Resume(start, after) if resume else None
        plan = streaming.stream(self._cursor, options, limit, in_memory, target, going_on)
        chunks = _chunks(service, self._cursor, observations, size, columns, timestamps)
        answers = _stream(service, plan, chunks)
        total = length_of(observations) if in_memory else None
        return AsyncStream(_shown(answers, total) if progress else answers)

    def stream_audio(
        self,
        source: str | Path | Iterable[bytes] | AsyncIterable[bytes],
        rate: int | None = None,
        *,
        resume: bool = False,
        start: int = 0,
        after: int | None = None,
    ) -> audio.AsyncAudioStream:
        """Send audio, also from an async iterable; see `Session.stream_audio`."""
        if isinstance(source, str | Path):
            rate, pieces = audio.open_wav(source)
        else:
            rate, pieces = audio.check_rate(rate), None
        plan = audio.stream_audio(self._cursor, self.service._retry, start if resume else None)
        answers = _stream(self.service, plan, _pieces(source, pieces, rate))
        return audio.AsyncAudioStream(answers, rate, after if resume else None)

    async def forecast(
        self,
        steps: int,
        *,
        level: float | None = None,
        levels: Sequence[float] = (),
        future: Any = None,
        columns: Mapping[str, str] | None = None,
    ) -> Forecast:
        """Forecast `steps` steps by feeding predictions back in; see `Session.forecast`."""
        service = self.service
        rows = await service._run(
            plans.to_future(future, self._cursor, service._models, service._retry, columns)
        )
        return await service._run(plans.forecast(self._cursor, steps, level, levels, rows, service._retry))

    def generate(
        self,
        prompt: str | Sequence[int] = "",
        steps: int = 100,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str | int] = (),
        keep: bool = True,
    ) -> AsyncTextStream:
        """Let a model of text write, and iterate over its tokens as they come; see `Session.generate`."""
        service = self.service
        fields = texts.request_fields(
            prompt, steps, keep, stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed,
        )  # fmt: skip
        return AsyncTextStream(_in_pieces(service, texts.generate(self._cursor, fields, service._retry)))

    async def history(
        self, last: int | None = None, *, start: int | None = None, limit: int | None = None
    ) -> History:
        """Return what the session observed and predicted last; see `Session.history`."""
        return await self.service._run(plans.history(self._cursor, last, start, limit, self.service._retry))

    async def create(self) -> SessionInfo:
        """Create the session now, and not with its first chunk. It is an error if it exists."""
        return await self.service._run(plans.create(self._cursor, self.service._retry))

    async def info(self) -> SessionInfo:
        """Ask the server about the session. The position that this client expects does not change."""
        return await self.service._run(plans.describe(self._cursor, self.service._retry))

    async def refresh(self) -> SessionInfo:
        """Take over the session's position from the server, to continue after `OutOfStep`."""
        return await self.service._run(plans.inspect(self._cursor, self.service._retry))

    def rewind(self, position: int, epoch: str | None = None) -> None:
        """Continue at `position`, to get later answers again; see `Session.rewind`."""
        self._cursor.position = position
        if epoch is not None:
            self._cursor.epoch = epoch

    async def reset(self) -> SessionInfo:
        """Set the carry to zero. The position does not change."""
        return await self.service._run(plans.reset(self._cursor, self.service._retry))

    async def set_labels(self, labels: Mapping[str, str | None] | None) -> SessionInfo:
        """Set labels; a label that is None is removed, and others stay. None in place of all removes all."""
        return await self.service._run(plans.annotate(self._cursor, labels, self.service._retry))

    async def fork(self, id: str | None = None) -> AsyncSession:
        """Create a session with a copy of the carry. Without an `id`, it gets a random one."""
        service = self.service
        target = None if id is None else Cursor(id)
        copy = await service._run(plans.fork(self._cursor, target, service._retry))
        service._cursors[copy.session] = copy
        return AsyncSession(service, copy)

    async def delete(self) -> None:
        """Delete the session."""
        await self.service._run(plans.delete(self._cursor, self.service._retry))

    async def state(self) -> bytes:
        """Return the session's state, as the bytes of a safetensors file."""
        return await self.service._run(plans.export(self._cursor, self.service._retry))

    async def save(self, path: str | Path) -> None:
        """Write the session's state to a file. A file that was there stays until the new one is whole."""
        await anyio.to_thread.run_sync(replace_file, path, await self.state())

    async def load(self, source: str | Path | bytes) -> SessionInfo:
        """Give the session a saved state; it is created if it does not exist."""
        state = source if isinstance(source, bytes) else await anyio.Path(source).read_bytes()
        return await self.service._run(plans.load(self._cursor, state, self.service._retry))


class AsyncStream:
    """The predictions of a stream, as they arrive. Iterate over it once."""

    def __init__(self, answers: AsyncGenerator[Answer, None]) -> None:
        self._answers = answers

    async def __aiter__(self) -> AsyncIterator[Prediction]:
        async for answer in self._answers:
            for prediction in answer:
                yield prediction

    def answers(self) -> AsyncIterator[Answer]:
        """Yield one `Answer` per chunk, and not one `Prediction` per observation."""
        return self._answers

    async def collect(self) -> Answer:
        """Read the whole stream, and return it as the answer to one chunk."""
        return concatenate_answers([answer async for answer in self._answers])

    async def close(self) -> None:
        """Stop. The server may have applied chunks in flight: the session asks it for its position."""
        await self._answers.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _shown(answers: AsyncGenerator[Answer, None], total: int | None) -> AsyncGenerator[Answer, None]:
    """The same answers, counted by a progress bar."""
    bar = open_bar(total)
    try:
        async with aclosing(answers):
            async for answer in answers:
                yield answer
                bar.advance(len(answer))
    finally:
        bar.close()


async def _pieces(
    source: Any, of_file: Iterable[audio.Piece] | None, rate: int
) -> AsyncGenerator[audio.Piece, None]:
    """Yield the pieces of a file, or of raw samples from an iterable or an async iterable."""
    if of_file is not None or not isinstance(source, AsyncIterable):
        for piece in audio.pcm_pieces(source, rate) if of_file is None else of_file:
            yield piece
        return
    async for data in source:
        if data:
            yield audio.pcm_piece(data, rate)


async def _in_pieces(service: AsyncCarryover, plan: Plan[None]) -> AsyncGenerator[Any, None]:
    """Run a plan over an answer that comes in pieces."""
    answer = AsyncAnswerInPieces(service._http, service.url)

    async def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Begin:
            return await answer.begin(effect.request)
        if kind is effects.More:
            return await answer.more()
        if kind is effects.Close:
            return await answer.close()
        return await service._perform(effect)

    try:
        async with aclosing(service._emit(plan, perform)) as events:
            async for event in events:
                yield event
    finally:
        await answer.close()


class _Source:
    """The chunks of a stream. Where they fail they end, and the error waits for the answers in flight."""

    def __init__(self, chunks: AsyncGenerator[Any, None]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    async def pull(self) -> Any:
        """The next chunk; None at the end."""
        try:
            return await anext(self._chunks, None)
        except Exception as error:  # noqa: BLE001  (it is raised behind the answers)
            self.error = error
            return None


async def _stream(
    service: AsyncCarryover, plan: Plan[None], chunks: AsyncGenerator[Any, None]
) -> AsyncGenerator[Answer, None]:
    source = _Source(chunks)
    try:
        async with aclosing(_answers(service, plan, source)) as answers:
            async for answer in answers:
                yield answer
    except CannotResume:
        if source.error is None:
            raise
    if source.error is not None:
        raise source.error


async def _answers(
    service: AsyncCarryover, plan: Plan[None], source: _Source
) -> AsyncGenerator[Answer, None]:
    connection = AsyncConnection(service.url, service.timeout, service._verify)

    async def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Pull:
            return await source.pull()
        if kind is effects.Read:
            return await connection.read()
        if kind is effects.Write:
            return await connection.write(effect.data)
        if kind is effects.Open:
            return await connection.open()
        if kind is effects.Close:
            return await connection.close()
        return await service._perform(effect)

    try:
        async with aclosing(service._emit(plan, perform)) as answers:
            async for answer in answers:
                yield answer
    finally:
        await connection.close()


async def _chunks(
    service: AsyncCarryover, cursor: Cursor, observations: Any, size: int, columns: Any, timestamps: Any
) -> AsyncGenerator[Chunk, None]:
    """Yield chunks from observations in memory, an iterable or an async iterable."""
    if is_in_memory(observations):
        whole = await service._run(
            plans.to_chunk(observations, cursor, service._models, service._retry, columns, timestamps)
        )
        for chunk in chunks_of(whole, size):
            yield chunk
        return
    naming, first = None, 0
    times = None if timestamps is None else iter(timestamps)
    async for rows in _batched(observations, size):
        if not first:
            naming = await service._run(
                plans.naming_for(rows, cursor, service._models, service._retry, columns)
            )
        yield next_chunk(rows, naming, None if times is None else list(islice(times, len(rows))), first)
        first += len(rows)


async def _batched(observations: Any, size: int) -> AsyncGenerator[list[Any], None]:
    if not hasattr(observations, "__aiter__"):
        for rows in batched(observations, size):
            yield rows
        return
    rows = []
    async for row in observations:
        rows.append(row)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
