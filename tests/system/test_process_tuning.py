"""glibc keeps freed memory, and loaded objects are excluded from garbage collection."""

import ctypes
import gc
import platform

import pytest

from app import process_tuning, server


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
