"""The blocking client: `Carryover`, its sessions and their streams."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from carryover import audio, bulk, effects, events, plans, streaming, texts
from carryover.connection import (
    BROKEN,
    AnswerInPieces,
    Connection,
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
    missing_chunk,
    next_chunk,
)
from carryover.progress import open_bar
from carryover.resuming import Resume
from carryover.retry import RetryPolicy
from carryover.tables import facts_html
from carryover.texts import TextStream
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


class Carryover:
    """A Carryover server.

    Parameters
    ----------
    url : the server's address, http:// or https://; by default `CARRYOVER_URL`, else http://127.0.0.1:8000
    key : the API key, sent as `Authorization: Bearer`; by default the one in the file `CARRYOVER_KEY_FILE`,
        "" for none
    retry : how long failures are retried: a policy, or a number of seconds; 0 raises the first error
    timeout : seconds that one request, or one answer of a socket, may take
    verify : the TLS context for https; by default the system's

    Threads that use it at the same time must use different sessions.
    """

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
        self._http = httpx.Client(**http_options(self.url, key, timeout, verify))
        self._cursors: dict[str, Cursor] = {}
        self._models: dict[str, ModelInfo] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The sessions stay on the server."""
        self._http.close()

    def session(self, id: str, model: str | None = None, **options: Any) -> Session:
        """Return a session by its id, without a request. Its first chunk creates it if it does not exist.

        Parameters
        ----------
        model : by default the server's; if the session runs another model, its first chunk is refused
        options : used when the session is created: `ttl_seconds`, `level`, `learning`, `labels`, `series`
        """
        return Session(self, cursor_for(self._cursors, id, model, options))

    def forget(self, id: str) -> None:
        """Free the memory that this client uses for a session. The session stays on the server."""
        self._cursors.pop(id, None)

    def advance(
        self,
        observations: Mapping[str, Any],
        model: str | None = None,
        *,
        level: float | None = None,
        levels: Sequence[float] = (),
        score: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> bulk.BulkAnswer:
        """Send one chunk for each of many sessions, in one request.

        Parameters
        ----------
        observations : by session id, each as for `Session.advance`; without times
        levels, columns : as for `Session.advance`

        Raises
        ------
        CarryoverError : if the whole request fails; the error of a single session is raised when its answer
            is read
        """
        cursors = {name: cursor_for(self._cursors, name, None, {}) for name in observations}
        chunks = {
            name: self._run(
                plans.to_chunk(rows, cursors[name], self._models, self._retry, columns, None, model)
            )
            for name, rows in observations.items()
        }
        return self._run(
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
    ) -> Iterator[dict[str, Any]]:
        """Yield every session, by id or in another order: the entries of `GET /sessions`.

        Parameters
        ----------
        after : by id, only sessions behind this id, in the direction of the list
        detail : each with what `GET /sessions/{id}` says of it, such as its position
        labels : only sessions that have all of these, such as `{"site": "north"}`
        order : in the order of this value; sessions that the server does not have in memory come last, by id
        descending : the greatest value, or id, first
        """
        return self._emit(plans.sessions(model, self._retry, after, detail, labels, order, descending))

    def count(self) -> int:
        """Return the number of sessions."""
        return self._run(plans.count(self._retry))

    def models(self) -> list[ModelInfo]:
        """Return every loaded model."""
        return self._run(plans.models(self._retry))

    def events(self, last_event_id: str | None = None) -> Generator[Event, None, None]:
        """Yield each alert of any session as it is raised or over; without an end, so `close` it or leave it.

        It goes on behind a lost connection, and neither repeats nor loses an event that the server remembers:
        the last 1,000. Events come from the first `next` on.

        Parameters
        ----------
        last_event_id : go on behind this event; "0": begin with all that the server remembers

        Raises
        ------
        CarryoverError : a refusal; or `Unreachable` when the server is away for longer than is retried
        """
        return _in_pieces(self, events.events(last_event_id, self._retry))

    # Running plans.

    def _run(self, plan: Plan[T]) -> T:
        try:
            effect = next(plan)
            while True:
                try:
                    result = self._perform(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    def _emit(self, plan: Plan[None], perform: Any = None) -> Generator[Any, None, None]:
        perform = perform or self._perform
        try:
            effect = next(plan)
            while True:
                if effect.__class__ is effects.Emit:
                    yield effect.value
                    effect = next(plan)
                    continue
                try:
                    result = perform(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration:
            return
        finally:
            plan.close()

    def _perform(self, effect: Any) -> Any:
        if effect.__class__ is effects.Sleep:
            time.sleep(effect.seconds)
            return None
        try:
            return reply_of(self._http.request(**request_options(effect)))
        except BROKEN as error:
            raise unreachable(self.url, error) from error


class Session:
    """One session of a server. It tracks its position, so that every chunk is applied exactly once."""

    def __init__(self, service: Carryover, cursor: Cursor) -> None:
        self.service = service
        self._cursor = cursor

    def __repr__(self) -> str:
        return session_text("Session", self._cursor, self.service.url)

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

    def advance(
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
        """Send one chunk, and return the prediction that follows each of its observations.

        Parameters
        ----------
        observations : a number, a list of numbers or rows, an array [steps] or [steps, inputs], a Series; or
            a table, whose columns go to the model's inputs by name: a pandas or polars DataFrame, a table of
            Arrow, a dict of columns, a structured array, a list of dicts. None and NaN mean that an
            observation is missing
        horizon : steps of forecast to add
        level : coverage of an interval around each prediction, such as 0.9
        levels : coverages of several, whose ends are in `quantiles`
        score : add the residual and the surprise of each observation
        columns : the model's name of a column by its name in the table: `columns={"temperature": "temp"}`
        timestamps : times of the observations, for a model with time features: datetimes, RFC 3339 or seconds
            since 1970. By default the column `time` of a table, or the DatetimeIndex of a DataFrame
        future : [horizon, known inputs] or a table, the inputs that are known ahead, for a horizon

        Raises
        ------
        ValueError : columns have other names than the model's inputs
        CarryoverError
        """
        service = self.service
        chunk = self._chunk(observations, columns, timestamps)
        known_ahead = service._run(
            plans.to_future(future, self._cursor, service._models, service._retry, columns)
        )
        options = ChunkOptions(horizon, level, score, known_ahead, levels)
        return service._run(plans.advance(self._cursor, chunk, options, service._retry))

    def skip(self, count: int) -> Answer:
        """Advance the session over `count` missing observations."""
        return self.service._run(
            plans.advance(self._cursor, missing_chunk(count), ChunkOptions(), self.service._retry)
        )

    def stream(
        self,
        observations: Iterable[Any],
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
    ) -> Stream:
        """Stream observations in chunks. The result yields one `Prediction` per observation.

        The stream continues after broken connections, and after restarts of a server that stores its
        sessions. An error of the iterable is raised behind the predictions of the chunks that were sent.

        Parameters
        ----------
        observations : as for `advance`, of any length; or any iterable of numbers, rows or dicts
        chunk : observations per chunk
        horizon, level, levels, score, columns : as for `advance`
        timestamps : as for `advance`; an iterable of times for an iterable of observations
        max_in_flight : chunks sent before the first of them is answered. The default is 8 for observations in
            memory, and 1 for an iterator: it is read only after the caller has the predictions so far
        socket : False: only requests; True: a socket or an error; by default a socket if the server offers it
        resume : some of these observations may have been streamed before: skip those that were applied.
            The server compares its last chunk with them, so `chunk` and `horizon` must be as before
        start : with `resume`, the session's position when the first of these observations was sent
        after : with `resume`, the position of the last prediction that the caller has; later ones are
            repeated
        progress : show a progress bar on stderr, if that is a terminal or a notebook

        Raises
        ------
        CannotResume : `resume`, and the session has not applied the first of these observations last
        ValueError : columns have other names than the model's inputs
        CarryoverError : a refusal names the row, counted from 0, of the first of these observations on
        """
        service, size = self.service, check_positive(chunk)
        whole = self._chunk(observations, columns, timestamps) if is_in_memory(observations) else None
        if whole is not None:
            source = chunks_of(whole, size)
        else:
            source = self._chunks(observations, size, columns, timestamps)
        target = streaming.StreamTarget(service.url, service._key, service._retry, socket)
        options = ChunkOptions(horizon, level, score, levels=levels)
        limit = max_in_flight_for(observations, max_in_flight)
        going_on = Resume(start, after) if resume else None
        plan = streaming.stream(self._cursor, options, limit, whole is not None, target, going_on)
        answers = _stream(service, plan, source)
        return Stream(_shown(answers, None if whole is None else len(whole)) if progress else answers)

    def stream_audio(
        self,
        source: str | Path | Iterable[bytes],
        rate: int | None = None,
        *,
        resume: bool = False,
        start: int = 0,
        after: int | None = None,
    ) -> audio.AudioStream:
        """Send audio to a session of a model over samples. The result yields each `Segment` as it ends.

        Parameters
        ----------
        source : path of a WAV file; or pieces of samples of 16 bits, little-endian, as of a microphone
        rate : samples a second of such pieces
        resume : this audio may have been sent before, in the same pieces: skip those that were applied. The
            server compares the last of them. The answers to the last eight come again
        start : with `resume`, the session's position when the first sample was sent
        after : with `resume`, the end of the last segment that the caller has; later ones are yielded

        Raises
        ------
        CannotResume : `resume`, and the session has not applied this audio last
        ValueError : the file is not a WAV file, or `rate` is missing
        CarryoverError
        """
        if isinstance(source, str | Path):
            rate, pieces = audio.open_wav(source)
        else:
            rate = audio.check_rate(rate)
            pieces = audio.pcm_pieces(source, rate)
        plan = audio.stream_audio(self._cursor, self.service._retry, start if resume else None)
        return audio.AudioStream(_stream(self.service, plan, pieces), rate, after if resume else None)

    def _chunks(self, observations: Any, size: int, columns: Any, timestamps: Any) -> Iterator[Chunk]:
        times = None if timestamps is None else iter(timestamps)
        naming, service = None, self.service
        for i, rows in enumerate(batched(observations, size)):
            if i == 0:
                naming = service._run(
                    plans.naming_for(rows, self._cursor, service._models, service._retry, columns)
                )
            taken = None if times is None else list(islice(times, len(rows)))
            yield next_chunk(rows, naming, taken, i * size)

    def _chunk(self, observations: Any, columns: Any, timestamps: Any) -> Chunk:
        service = self.service
        return service._run(
            plans.to_chunk(observations, self._cursor, service._models, service._retry, columns, timestamps)
        )

    def forecast(
        self,
        steps: int,
        *,
        level: float | None = None,
        levels: Sequence[float] = (),
        future: Any = None,
        columns: Mapping[str, str] | None = None,
    ) -> Forecast:
        """Forecast `steps` steps by feeding predictions back in. The session does not change.

        Parameters
        ----------
        level : coverage of an interval around the forecast
        levels : coverages of several, whose ends are in `quantiles`
        future : [steps, known inputs] or a table, the values of inputs that are known in advance
        columns : as for `advance`, of the table
        """
        service = self.service
        rows = service._run(plans.to_future(future, self._cursor, service._models, service._retry, columns))
        return service._run(plans.forecast(self._cursor, steps, level, levels, rows, service._retry))

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
    ) -> TextStream:
        """Let a model of text write, and iterate over its tokens as they come.

        It goes on behind a lost connection and a restarted server, with every token once.

        Parameters
        ----------
        prompt : observed first: a text, or tokens
        steps : most tokens
        temperature : divides the logits; 0 takes the likeliest token
        top_k : draw from so many of the likeliest tokens
        top_p : draw from the likeliest tokens that are as likely as this together
        min_p : draw from tokens that are at least this share as likely as the likeliest
        repetition_penalty : makes tokens less likely that the prompt or the text has
        seed : with the position of a token it decides the draw; without it, the session's epoch
        stop : texts and tokens that end the text; the one that does is its last
        keep : whether the session consumes the text; otherwise a copy of it does
        """
        service = self.service
        fields = texts.request_fields(
            prompt, steps, keep, stop, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            repetition_penalty=repetition_penalty, seed=seed,
        )  # fmt: skip
        return TextStream(_in_pieces(service, texts.generate(self._cursor, fields, service._retry)))

    def history(
        self, last: int | None = None, *, start: int | None = None, limit: int | None = None
    ) -> History:
        """Return what the session observed and predicted last, as far as the server has kept it in memory.

        Parameters
        ----------
        last : only so many of the newest observations
        start, limit : only what was observed from this position on, and so many of them
        """
        return self.service._run(plans.history(self._cursor, last, start, limit, self.service._retry))

    def create(self) -> SessionInfo:
        """Create the session now, instead of with its first chunk. Fails if the session exists."""
        return self.service._run(plans.create(self._cursor, self.service._retry))

    def info(self) -> SessionInfo:
        """Return the server's description of the session. This client's own position does not change."""
        return self.service._run(plans.describe(self._cursor, self.service._retry))

    def refresh(self) -> SessionInfo:
        """Set this client's position to the server's, to continue after `OutOfStep`."""
        return self.service._run(plans.inspect(self._cursor, self.service._retry))

    def rewind(self, position: int, epoch: str | None = None) -> None:
        """Continue at `position`, the end of a recent chunk, to get later answers again.

        Send the same observations in the same chunks. The server answers those that it has applied from its
        stored answers, and applies the rest. So a program that was killed and restarted gets every answer.
        """
        self._cursor.position = position
        if epoch is not None:
            self._cursor.epoch = epoch

    def reset(self) -> SessionInfo:
        """Set the carry to zero. The position does not change."""
        return self.service._run(plans.reset(self._cursor, self.service._retry))

    def set_labels(self, labels: Mapping[str, str | None] | None) -> SessionInfo:
        """Set labels; a label that is None is removed, and others stay. None in place of all removes all."""
        return self.service._run(plans.annotate(self._cursor, labels, self.service._retry))

    def fork(self, id: str | None = None) -> Session:
        """Create a session with a copy of the carry. Without an `id`, it gets a random one."""
        service = self.service
        target = None if id is None else Cursor(id)
        copy = service._run(plans.fork(self._cursor, target, service._retry))
        service._cursors[copy.session] = copy
        return Session(service, copy)

    def delete(self) -> None:
        """Delete the session."""
        self.service._run(plans.delete(self._cursor, self.service._retry))

    def state(self) -> bytes:
        """Return the session's state, as the bytes of a safetensors file."""
        return self.service._run(plans.export(self._cursor, self.service._retry))

    def save(self, path: str | Path) -> None:
        """Write the session's state to a file. A file that was there stays until the new one is whole."""
        replace_file(path, self.state())

    def load(self, source: str | Path | bytes) -> SessionInfo:
        """Give the session a saved state; it is created if it does not exist."""
        state = source if isinstance(source, bytes) else Path(source).read_bytes()
        return self.service._run(plans.load(self._cursor, state, self.service._retry))


def session_text(kind: str, cursor: Cursor, url: str) -> str:
    """A session in a line, as far as this client knows it."""
    model = f" of model {cursor.model!r}" if cursor.model else ""
    position = "" if cursor.position is None else f" at {cursor.position}"
    return f"<{kind} {cursor.session!r}{model}{position}, {url}>"


def session_html(cursor: Cursor, url: str) -> str:
    """A session as a table for notebooks; nothing is asked of the server."""
    facts = {"server": url, "model": cursor.model, "position": cursor.position, "epoch": cursor.epoch}
    return facts_html(f"Session {cursor.session}", facts)


class Stream:
    """The predictions of a stream, as they arrive. Iterate over it once."""

    def __init__(self, answers: Generator[Answer, None, None]) -> None:
        self._answers = answers

    def __iter__(self) -> Iterator[Prediction]:
        for answer in self._answers:
            yield from answer

    def answers(self) -> Iterator[Answer]:
        """Yield one `Answer` per chunk, instead of one `Prediction` per observation."""
        return self._answers

    def collect(self) -> Answer:
        """Read the whole stream, and return it as the answer to one chunk."""
        return concatenate_answers(list(self._answers))

    def close(self) -> None:
        """Stop. The server may have applied chunks in flight, so the session then asks for its position."""
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shown(answers: Generator[Answer, None, None], total: int | None) -> Generator[Answer, None, None]:
    """The same answers, counted by a progress bar."""
    bar = open_bar(total)
    try:
        with closing(answers):
            for answer in answers:
                yield answer
                bar.advance(len(answer))
    finally:
        bar.close()


def _in_pieces(service: Carryover, plan: Plan[None]) -> Generator[Any, None, None]:
    """Run a plan over an answer that comes in pieces."""
    answer = AnswerInPieces(service._http, service.url)

    def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Begin:
            return answer.begin(effect.request)
        if kind is effects.More:
            return answer.more()
        if kind is effects.Close:
            return answer.close()
        return service._perform(effect)

    try:
        yield from service._emit(plan, perform)
    finally:
        answer.close()


class _Source:
    """The chunks of a stream. Where they fail they end, and the error waits for the answers in flight."""

    def __init__(self, chunks: Iterator[Any]) -> None:
        self._chunks = chunks
        self.error: Exception | None = None

    def pull(self) -> Any:
        """The next chunk; None at the end."""
        try:
            return next(self._chunks, None)
        except Exception as error:  # noqa: BLE001  (it is raised behind the answers)
            self.error = error
            return None


def _stream(service: Carryover, plan: Plan[None], chunks: Iterator[Any]) -> Generator[Answer, None, None]:
    source = _Source(chunks)
    try:
        yield from _answers(service, plan, source)
    except CannotResume:
        if source.error is None:
            raise
    if source.error is not None:
        raise source.error


def _answers(service: Carryover, plan: Plan[None], source: _Source) -> Generator[Answer, None, None]:
    connection = Connection(service.url, service.timeout, service._verify)

    def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Pull:
            return source.pull()
        if kind is effects.Read:
            return connection.read()
        if kind is effects.Write:
            return connection.write(effect.data)
        if kind is effects.Open:
            return connection.open()
        if kind is effects.Close:
            return connection.close()
        return service._perform(effect)

    try:
        yield from service._emit(plan, perform)
    finally:
        connection.close()
