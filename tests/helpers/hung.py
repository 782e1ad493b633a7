"""A test that hangs fails by its name, with the stacks it waited in, and the run goes on.

pytest-timeout has two methods. Its thread ends the process, a worker with all the tests that it had left, and
under xdist what it prints is lost. Its signal fails the test alone, but uvloop lets no exception out of a
callback except an interrupt. Ours is the signal, with an interrupt. Where not even a signal gets through,
`faulthandler_timeout` tells the stacks and ends the process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from types import FrameType
from typing import Any

import pytest
from pytest_timeout import is_debugging

AGAIN_SECONDS = 20  # for what hangs once more while it is taken down


class Hung(KeyboardInterrupt):
    """The time of a test is up."""


@pytest.hookimpl
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """In place of pytest-timeout's own."""

    def ring(number: int, frame: FrameType | None) -> None:
        if is_debugging():
            return
        item.add_report_section("call", "where it waited", stacks(frame))
        raise Hung(f"after {settings.timeout:g} s")

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_SECONDS)
    return True


def failed_by_name(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Hung as hung:
        pytest.fail(f"it hung: {hung}", pytrace=False)


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(failed_by_name)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(failed_by_name)
pytest_runtest_teardown = pytest.hookimpl(wrapper=True)(failed_by_name)


def stacks(frame: FrameType | None) -> str:
    """Where every thread is, and what every task of the running loop awaits."""
    frames = sys._current_frames() | {threading.main_thread().ident: frame}  # this handler is no part of it
    threads = [
        f"{thread.name}\n{''.join(traceback.format_stack(frames.get(thread.ident)))}"
        for thread in threading.enumerate()
    ]
    return "\n".join([*threads, *map(awaits, tasks())])


def tasks() -> set[asyncio.Task[Any]]:
    try:
        return asyncio.all_tasks()
    except RuntimeError:  # no loop runs here
        return set()


def awaits(task: asyncio.Task[Any]) -> str:
    """`Task.get_stack` ends at the first frame that is suspended; this goes down to the last."""
    lines, waiting = [task.get_name()], task.get_coro()
    while waiting is not None:
        if at := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None):
            lines.append(f'  File "{at.f_code.co_filename}", line {at.f_lineno}, in {at.f_code.co_qualname}')
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "\n".join([*lines, ""])
