"""Tuning of the process: memory that glibc keeps, objects that the garbage collector skips, and SIGHUP.

By default, glibc returns freed memory to the kernel as soon as 128 KiB at the top of its heap are free, and
maps large arrays anew each time. A batch of a thousand sessions needs 2 MB for a few hundred microseconds.
Returning and clearing these pages for every batch took nearly as long as the rest of the batch (2.2 ms
instead of 1.2, measured on two cores of an EPYC). With both limits raised, glibc keeps the pages.
"""

from __future__ import annotations

import ctypes
import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
YOUNG_OBJECTS = 20_000  # between two collections; a batch of a thousand makes more than Python's default 700
KEPT_BYTES = 32 * 2**20  # the largest MMAP_THRESHOLD that glibc accepts


def keep_freed_memory() -> bool:
    """Keep up to 32 MiB of freed memory for the next batch. Returns whether the C library supports this."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, KEPT_BYTES))


@contextmanager
def loading() -> Iterator[None]:
    """Collect no garbage until `freeze_loaded_objects`, or the end of the context.

    While modules and models are loaded, hardly any object becomes garbage, and each collection visits all of
    them: a start took 1.8 s of CPU with collections, and 1.5 s without.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def hold_reload_signal() -> None:
    """Have SIGHUP wait: by default it would end a process that is still starting.

    Threads and processes that are started meanwhile inherit this. Call it before any thread is started: one
    that does not hold the signal would get it.
    """
    if hasattr(signal, "SIGHUP"):  # Windows has none
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def take_reload_signal() -> None:
    """Take a SIGHUP that waits, and the next ones, now that there is a handler."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])


def freeze_loaded_objects() -> None:
    """Exclude all present objects from garbage collection: walking them each time dominated the p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()
