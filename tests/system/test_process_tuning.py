"""glibc keeps freed memory, and loaded objects are excluded from garbage collection."""

import asyncio
import contextlib
import ctypes
import gc
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from app import process_tuning, server
from tests.helpers.paths import ROOT


def test_glibc_takes_both_limits():
    assert process_tuning.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not process_tuning.keep_freed_memory()


def test_loaded_objects_are_excluded_from_garbage_collection():
    loaded = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    process_tuning.freeze_loaded_objects()
    assert gc.get_freeze_count() > before + len(loaded)


def test_nothing_is_collected_while_objects_are_loaded():
    with process_tuning.loading():
        assert not gc.isenabled()
        process_tuning.freeze_loaded_objects()
        assert gc.isenabled()
    with pytest.raises(RuntimeError), process_tuning.loading():
        raise RuntimeError("not loaded")
    assert gc.isenabled()


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["memory"])
async def test_a_listening_server_excludes_what_it_loaded_from_garbage_collection(start_hot, monkeypatch):
    excluded = []
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: excluded.append("all"))
    async with start_hot():
        assert excluded == ["all"]


def test_sighup_does_not_end_a_server_that_is_starting():
    program = """
import os, signal, sys
from types import SimpleNamespace
from app.cli import run

def start(*_, **__):  # in place of the service, which takes a while to load
    os.kill(os.getpid(), signal.SIGHUP)
    return 5

sys.modules["app.server"] = SimpleNamespace(run=start)
sys.exit(run(["serve"]))
"""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CARRYOVER_")}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False, timeout=60)
    assert done.returncode == 5


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["memory"])
async def test_sighup_that_came_during_the_start_reloads_the_models_behind_it(start_hot, monkeypatch):
    reloaded = asyncio.Event()

    async def reload(_: server.Server) -> None:
        reloaded.set()

    monkeypatch.setattr(server.Server, "_reload", reload)
    process_tuning.hold_reload_signal()
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # other threads of the tests do not hold it
        async with start_hot():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reloaded.wait(), 5)
            assert reloaded.is_set()
    finally:
        if signal.SIGHUP in signal.sigpending():
            signal.sigwait([signal.SIGHUP])
        process_tuning.take_reload_signal()
