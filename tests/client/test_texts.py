"""A text is read token by token, blocking and awaited, also behind lost connections and a killed server."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import carryover
import pytest
from carryover import AsyncCarryover, Carryover, CarryoverError, RetryPolicy, connection

from app.cli import run
from app.engine import texts
from models.artifact.files import save
from tests.helpers.text import text_model

pytestmark = pytest.mark.anyio
RETRY = RetryPolicy(30.0, first_pause=0.01, max_pause=0.05)
ASK: dict[str, Any] = {"steps": 100, "temperature": 0.9, "top_k": 20, "seed": 7}
PROMPT = "the sea "

Call = Callable[[Callable[[Any], Any]], Awaitable[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    save(text_model(), folder / "letters")
    return folder


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(params=["blocking", "awaited"])
def connected(request, start_hot, folder, monkeypatch):
    """`async with connected() as call`: `await call(lambda client: ...)`, by either client."""
    monkeypatch.setattr(texts, "MAX_SLICE", 16)  # so that a text has several slices

    @asynccontextmanager
    async def connect() -> AsyncIterator[Call]:
        async with start_hot(models=(folder,), default_model="letters") as service:
            url = f"http://127.0.0.1:{service.port}"
            if request.param == "blocking":
                with Carryover(url, retry=RETRY) as client:
                    yield lambda work: asyncio.to_thread(work, client)
            else:
                async with AsyncCarryover(url, retry=RETRY) as client:

                    async def awaited(work: Callable[[Any], Any]) -> Any:
                        found = work(client)
                        return await found if inspect.isawaitable(found) else found

                    yield awaited

    return connect


@pytest.fixture
def lossy(monkeypatch) -> None:
    """Lose every third piece of an answer, and the connection with it."""
    count = 0

    def lose() -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise carryover.Unreachable("lost on purpose")

    more, awaiting = connection.AnswerInPieces.more, connection.AsyncAnswerInPieces.more

    def more_lossy(self: Any) -> bytes:
        data = more(self)
        lose()
        return data

    async def awaiting_lossy(self: Any) -> bytes:
        data = await awaiting(self)
        lose()
        return data

    monkeypatch.setattr(connection.AnswerInPieces, "more", more_lossy)
    monkeypatch.setattr(connection.AsyncAnswerInPieces, "more", awaiting_lossy)


async def test_a_text_is_iterated_over_and_read(connected) -> None:
    async with connected() as call:
        whole = await call(lambda client: client.session("a").generate(PROMPT, **ASK).read())
        assert len(whole) == 100

        def positions(client: Any) -> Any:
            text = client.session("b").generate(PROMPT, **ASK)
            if isinstance(client, Carryover):
                return [(token.position, str(token)) for token in text], text.finish

            async def gathered() -> Any:
                return [(token.position, str(token)) async for token in text], text.finish

            return gathered()

        found, finish = await call(positions)
        assert found == list(enumerate(whole, 9))
        assert finish == "length"
        # The client's session is where the text ended, and goes on there.
        copy = {**ASK, "keep": False}
        branch = await call(lambda client: client.session("a").generate(**copy).read())
        assert await call(lambda client: client.session("a").generate(**ASK).read()) == branch
        stopped = await call(
            lambda client: client.session("c").generate(PROMPT, **ASK, stop=whole[40]).read()
        )
        assert stopped == whole[: whole.index(whole[40]) + 1]


@pytest.mark.usefixtures("lossy")
async def test_every_token_comes_once_although_answers_are_lost(connected) -> None:
    async with connected() as call:
        first = await call(lambda client: client.session("a").generate(PROMPT, **ASK).read())
        again = await call(lambda client: client.session("b").generate(PROMPT, **ASK).read())
        assert len(first) == 100
        assert again == first
        info = await call(lambda client: client.session("b").info())
        assert info.position == 108


async def test_a_text_that_is_left_early_goes_on_at_the_server_s_position(connected) -> None:
    def first(client: Any) -> Any:
        text = client.session("a").generate(PROMPT, **ASK)
        if isinstance(client, Carryover):
            with text:
                return next(iter(text))

        async def gathered() -> Any:
            async with text:
                return await anext(aiter(text))

        return gathered()

    async with connected() as call:
        token = await call(first)
        assert token.position == 9
        rest = await call(lambda client: client.session("a").generate(**ASK | {"steps": 20}).read())
        assert len(rest) == 20


async def test_a_refusal_is_raised(connected) -> None:
    async with connected() as call:
        with pytest.raises(carryover.Unprocessable, match="prompt"):
            await call(lambda client: client.session("a").generate("é").read())
        with pytest.raises(carryover.UnknownSession):
            await call(lambda client: client.session("a").generate(PROMPT, keep=False).read())
        with pytest.raises(CarryoverError, match="at most"):
            await call(lambda client: client.session("a").generate(PROMPT, 10**6).read())


async def test_the_command_prints_the_text_as_it_comes(start_hot, folder, capsys) -> None:
    async with start_hot(models=(folder,), default_model="letters") as service:
        url = f"http://127.0.0.1:{service.port}"
        async with AsyncCarryover(url) as client:
            whole = await client.session("a").generate(PROMPT, **ASK).read()
        command = ["generate", "c", "--prompt", PROMPT, "-n", "50", "--top-k", "20", "--seed", "7"]
        command += ["--temperature", "0.9", "--url", url]
        capsys.readouterr()  # what the server has printed
        assert await asyncio.to_thread(run, command) == 0
        assert capsys.readouterr().out == f"{whole[:50]}\n"
        assert await asyncio.to_thread(run, [*command, "--copy", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["position"] for line in lines] == list(range(67, 117))
