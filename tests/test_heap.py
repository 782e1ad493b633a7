"""The heap keeps what a wave gives back."""

import ctypes
import platform

from app import heap


def test_glibc_takes_both_limits():
    assert heap.keep_wave_memory() == (platform.libc_ver()[0] == "glibc")


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not heap.keep_wave_memory()
