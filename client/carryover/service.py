"""The client that blocks: `Carryover`, its `Session`s and their `Stream`s."""

from __future__ import annotations

import ssl
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from carryover import bulk, effects, plans, streaming
from carryover.connection import BROKEN, Connection, http_options, reply_of, request_options, unreachable
from carryover.effects import Plan
from carryover.errors import Unreachable
from carryover.numbers import checked_size, chunk_of, chunks_of, gap, is_whole
from carryover.retry import Patience
from carryover.values import Answer, Forecast, ModelInfo, Prediction, SessionInfo, gathered
from carryover.window import ahead_of
from carryover.wire import Cursor, Wanted, adopted

T = TypeVar("T")


class Carryover:
    """A Carryover server.

    Parameters
    ----------
    url : where it is
    key : sent as `Authorization: Bearer`
    patience : how long to go on trying; a number is its seconds, 0 gives up at the first failure
    timeout : seconds that one request, or one answer of a socket, may take
    verify : the TLS context for https; the system's when absent

    Not to be used by two threads at once, except for different sessions.
    """

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
        self._http = httpx.Client(**http_options(url, key, timeout, verify))
        self._cursors: dict[str, Cursor] = {}
        self._models: dict[str, ModelInfo] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; sessions stay where they are."""
        self._http.close()

    def session(self, id: str, model: str | None = None, **options: Any) -> Session:
        """A session by its id. Nothing is asked yet: its first chunk creates it where it is not there.

        Parameters
        ----------
        model : the server's default when absent; a session of another model is refused
        options : of a session that is created: `ttl_seconds`, `level`, `learning`
        """
        return Session(self, adopted(self._cursors, id, model, options))

    def forget(self, id: str) -> None:
        """Drop what this client knows of a session: that of a million of them is memory."""
        self._cursors.pop(id, None)

    def advance(
        self,
        observations: Mapping[str, Any],
        model: str | None = None,
        *,
        level: float | None = None,
        score: bool = False,
    ) -> bulk.Answers:
        """Move many sessions on by a chunk each, in one request.

        Raises
        ------
        CarryoverError : for all of them; what befalls one alone is raised where its answer is looked up
        """
        cursors = {name: adopted(self._cursors, name, None, {}) for name in observations}
        chunks = {name: chunk_of(rows) for name, rows in observations.items()}
        return self._run(bulk.advance(cursors, chunks, model, Wanted(0, level, score), self._patience))

    def sessions(self, model: str | None = None, after: str = "") -> Iterator[dict[str, Any]]:
        """Every session behind `after`, in the order of their ids: `session`, `model`, ..."""
        return self._emitted(plans.sessions(model, self._patience, after))

    def count(self) -> int:
        """How many sessions there are."""
        return self._run(plans.count(self._patience))

    def models(self) -> list[ModelInfo]:
        """Every model that is loaded."""
        return self._run(plans.models(self._patience))

    # Plans are run here.

    def _run(self, plan: Plan[T]) -> T:
        try:
            effect = next(plan)
            while True:
                try:
                    result = self._performed(effect)
                except Unreachable as error:
                    effect = plan.throw(error)
                else:
                    effect = plan.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    def _emitted(self, plan: Plan[None], perform: Any = None) -> Generator[Any, None, None]:
        perform = perform or self._performed
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

    def _performed(self, effect: Any) -> Any:
        if effect.__class__ is effects.Sleep:
            time.sleep(effect.seconds)
            return None
        try:
            return reply_of(self._http.request(**request_options(effect)))
        except BROKEN as error:
            raise unreachable(self.url, error) from error


class Session:
    """One session of a server. It knows where it is: every chunk is numbered, and applied exactly once."""

    def __init__(self, service: Carryover, cursor: Cursor) -> None:
        self.service = service
        self._cursor = cursor

    def __repr__(self) -> str:
        return f"<Session {self.id!r} of {self.service.url}>"

    @property
    def id(self) -> str:
        """Its name on the server."""
        return self._cursor.session

    @property
    def position(self) -> int | None:
        """Observations consumed, as far as this client knows; None before the server was asked."""
        return self._cursor.position

    def advance(
        self, observations: Any, *, horizon: int = 0, level: float | None = None, score: bool = False
    ) -> Answer:
        """Move on by one chunk, and predict what follows each of its observations.

        Parameters
        ----------
        observations : a number, a list of numbers or rows, an array [steps] or [steps, inputs], a Series, a
            DataFrame; None and NaN are observations that are missing
        horizon : steps of forecast to add
        level : of an interval around each prediction, such as 0.9
        score : add the residuals of the predictions before, and how surprising the observations are

        Raises
        ------
        CarryoverError
        """
        service = self.service
        chunk = service._run(plans.chunked(observations, self._cursor, service._models, service._patience))
        wanted = Wanted(horizon, level, score)
        return service._run(plans.advance(self._cursor, chunk, wanted, service._patience))

    def skip(self, count: int) -> Answer:
        """Move on over observations that are wholly missing."""
        return self.service._run(plans.advance(self._cursor, gap(count), Wanted(), self.service._patience))

    def stream(
        self,
        observations: Iterable[Any],
        chunk: int = 1,
        *,
        horizon: int = 0,
        level: float | None = None,
        score: bool = False,
        ahead: int | None = None,
        socket: bool | None = None,
    ) -> Stream:
        """Stream observations in chunks; iterating gives a `Prediction` an observation.

        The stream goes on through broken connections and restarts of a server that stores its sessions.

        Parameters
        ----------
        observations : as for `advance`, of any length; or any iterable of numbers or rows
        chunk : observations to a chunk
        horizon, level, score : as for `advance`
        ahead : chunks sent before the answer to the first is in. By default one where the observations come
            from an iterator, which is not asked for more before the caller has its predictions; else 8
        socket : False: requests only; True: a socket or an error; by default a socket where there is one
        """
        service = self.service
        inputs, targets = service._run(
            plans.columns_for(observations, self._cursor, service._models, service._patience)
        )
        source = chunks_of(observations, checked_size(chunk), inputs, targets)
        way = streaming.Way(service.url, service._key, service._patience, socket)
        wanted = Wanted(horizon, level, score)
        whole, most = is_whole(observations), ahead_of(observations, ahead)
        plan = streaming.stream(self._cursor, wanted, most, whole, way)
        return Stream(_streamed(service, plan, source))

    def forecast(self, steps: int, *, level: float | None = None, future: Any = None) -> Forecast:
        """Roll out for so many steps, feeding predictions back in; the session does not move.

        Parameters
        ----------
        level : of an interval around them
        future : [steps, ...], inputs that are known ahead
        """
        return self.service._run(plans.forecast(self._cursor, steps, level, future, self.service._patience))

    def create(self) -> SessionInfo:
        """Make it now, rather than by its first chunk; one that is there is an error."""
        return self.service._run(plans.create(self._cursor, self.service._patience))

    def info(self) -> SessionInfo:
        """What the server knows of it. Where this client believes it to be stays as it is."""
        return self.service._run(plans.peek(self._cursor, self.service._patience))

    def refresh(self) -> SessionInfo:
        """Take over where the server has it: after `OutOfStep`, to go on from there."""
        return self.service._run(plans.inspect(self._cursor, self.service._patience))

    def rewind(self, position: int) -> None:
        """Go on behind `position`, the end of one of the last few chunks, as if later answers had not come.

        The same observations have to follow in the same chunks: they are answered from what the server
        remembers, and applied only from where it is. So a program that was killed loses no answer.
        """
        self._cursor.position = position

    def reset(self) -> SessionInfo:
        """Zero the carry; the position stays."""
        return self.service._run(plans.reset(self._cursor, self.service._patience))

    def fork(self, id: str | None = None) -> Session:
        """A new session with a copy of the carry; its id is drawn when none is given."""
        service = self.service
        into = None if id is None else Cursor(id)
        made = service._run(plans.fork(self._cursor, into, service._patience))
        service._cursors[made.session] = made
        return Session(service, made)

    def delete(self) -> None:
        """Forget it."""
        self.service._run(plans.delete(self._cursor, self.service._patience))

    def state(self) -> bytes:
        """All that it remembers, as a safetensors file."""
        return self.service._run(plans.export(self._cursor, self.service._patience))

    def save(self, path: str | Path) -> None:
        """Write its state to a file."""
        Path(path).write_bytes(self.state())

    def load(self, source: str | Path | bytes) -> SessionInfo:
        """Put it in a saved state, whether it is there or not."""
        state = source if isinstance(source, bytes) else Path(source).read_bytes()
        return self.service._run(plans.load(self._cursor, state, self.service._patience))


class Stream:
    """Predictions as they come in; iterate over it once."""

    def __init__(self, answers: Generator[Answer, None, None]) -> None:
        self._answers = answers

    def __iter__(self) -> Iterator[Prediction]:
        for answer in self._answers:
            yield from answer

    def answers(self) -> Iterator[Answer]:
        """An answer a chunk, in place of a prediction an observation."""
        return self._answers

    def collect(self) -> Answer:
        """All of it, as the answer to one chunk; pandas on the index that came in."""
        return gathered(list(self._answers))

    def close(self) -> None:
        """Stop. Chunks in flight may have been applied: the session asks the server before it goes on."""
        self._answers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _streamed(service: Carryover, plan: Plan[None], source: Iterator[Any]) -> Generator[Answer, None, None]:
    connection = Connection(service.url, service.timeout, service._verify)

    def perform(effect: Any) -> Any:
        kind = effect.__class__
        if kind is effects.Pull:
            return next(source, None)
        if kind is effects.Read:
            return connection.read()
        if kind is effects.Write:
            return connection.write(effect.data)
        if kind is effects.Open:
            return connection.open()
        if kind is effects.Close:
            return connection.close()
        return service._performed(effect)

    try:
        yield from service._emitted(plan, perform)
    finally:
        connection.close()
