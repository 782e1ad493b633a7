"""The progress bar of a stream: it counts what was answered, in a terminal only, and ends with the stream."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing, redirect_stderr
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
from carryover import aio, progress, service

SIZES = [3, 3, 2]
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answer(size: int | Exception) -> Any:
    if isinstance(size, Exception):
        raise size
    return range(size)


def blocking(sizes: list[Any], total: int | None, most: int) -> None:
    def answers() -> Generator[Any, None, None]:
        yield from map(answer, sizes)

    with closing(service._shown(answers(), total)) as stream:
        for _ in islice(stream, most):
            pass


def awaited(sizes: list[Any], total: int | None, most: int) -> None:
    async def answers() -> AsyncGenerator[Any, None]:
        for size in sizes:
            yield answer(size)

    async def read() -> None:
        async with aclosing(aio._shown(answers(), total)) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count == most:
                    break

    asyncio.run(read())


@pytest.fixture(params=[blocking, awaited])
def shown(request, monkeypatch) -> Callable[..., str]:
    """Streams answers below a bar, by either client; returns what is on stderr.

    In place of a size an exception is raised.
    """
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")

    def show(sizes: list[Any], stderr: io.StringIO, total: int | None = 8, most: int = 99) -> str:
        with redirect_stderr(stderr):
            request.param(sizes, total, most)
        return stderr.getvalue()

    return show


@pytest.fixture(params=["rich", "tqdm", "neither"])
def library(request, monkeypatch) -> str:
    """The library that draws the bar; the others are not there."""
    for name in {"rich", "tqdm"} - {request.param}:
        monkeypatch.setattr(progress, f"_{name}", missing)
    if request.param == "tqdm":
        pytest.importorskip("tqdm")
    return request.param


def missing(total: int | None) -> Any:
    raise ImportError


def check_end(text: str, count: str) -> None:
    """Check the last count of a bar, and that it leaves the cursor visible at the begin of a line."""
    counts = re.findall(r"(\d+)(?:/| of )8", text)
    assert counts[-1] == count
    assert text.removesuffix(SHOW_CURSOR).endswith("\n")
    assert text.count(HIDE_CURSOR) == text.count(SHOW_CURSOR)


def test_the_bar_counts_all_observations(shown, library):
    check_end(shown(SIZES, Terminal()), "8")


def test_the_bar_ends_where_the_stream_does_by_an_error(shown, library):
    terminal = Terminal()
    with pytest.raises(ValueError, match="lost"):
        shown([3, 3, ValueError("lost")], terminal)
    check_end(terminal.getvalue(), "6")


def test_the_bar_ends_where_the_caller_stops(shown, library):
    check_end(shown(SIZES, Terminal(), most=2), "3")  # the second was not asked beyond


def test_a_pipe_gets_nothing(shown, library):
    assert shown(SIZES, io.StringIO()) == ""


def test_a_notebook_gets_a_bar(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    for name in ("_rich", "_tqdm"):
        monkeypatch.setattr(progress, name, missing)
    assert shown(SIZES, io.StringIO(), total=None) == "8 observations\n"


def test_a_plain_line_is_written_at_most_twice_a_second():
    now = iter([0.0, 0.4, 0.5, 0.5, 0.9])
    bar = progress.PlainBar(None, clock=lambda: next(now))
    with redirect_stderr(io.StringIO()) as stderr:
        for _ in range(3):
            bar.advance(1000)
        bar.close()
    assert stderr.getvalue() == "2,000 observations\r3,000 observations\n"
