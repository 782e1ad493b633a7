"""The heap keeps what a wave gives back, and what was loaded is not walked again."""

import ctypes
import gc
import platform

import pytest

from app import main, process_tuning


def test_glibc_takes_both_limits():
    assert process_tuning.keep_wave_memory() == (platform.libc_ver()[0] == "glibc")


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not process_tuning.keep_wave_memory()


def test_what_was_loaded_is_never_walked_again():
    loaded = [[] for _ in range(1000)]
    before = gc.get_freeze_count()
    process_tuning.spare_the_loaded()
    assert gc.get_freeze_count() > before + len(loaded)


@pytest.mark.anyio
@pytest.mark.parametrize("store", ["memory"])
async def test_a_server_spares_what_it_loaded_once_it_listens(start_hot, monkeypatch):
    spared = []
    monkeypatch.setattr(main, "spare_the_loaded", lambda: spared.append("all"))
    async with start_hot():
        assert spared == ["all"]
