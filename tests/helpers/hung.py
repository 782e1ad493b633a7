"""Fail a test that hangs, show the stacks where it waits, and continue with the next test.

pytest-timeout has two methods. Its thread method ends the process, with all tests that a worker has left, and
its output is lost under xdist. Its signal method fails only the test, but uvloop suppresses every exception
in a callback except KeyboardInterrupt. So this plugin uses the signal and raises KeyboardInterrupt. If the
process does not even handle signals, `faulthandler_timeout` prints the stacks and ends it.
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

AGAIN_SECONDS = 20  # until the next signal, for a test that also hangs in its teardown


class Hung(KeyboardInterrupt):
    """A test has exceeded its time limit."""


@pytest.hookimpl
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    """Replace pytest-timeout's timer."""

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
    """Return the stack of every thread, and of every task of the running loop."""
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
    """Return a task's stack down to its innermost coroutine; `Task.get_stack` gives only the outermost."""
    lines, waiting = [task.get_name()], task.get_coro()
    while waiting is not None:
        if at := getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None):
            lines.append(f'  File "{at.f_code.co_filename}", line {at.f_lineno}, in {at.f_code.co_qualname}')
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "\n".join([*lines, ""])
