"""What the C library does with the memory that every wave takes and gives back, and what the collector walks.

glibc returns the top of its heap to the kernel as soon as 128 KiB of it are free, and maps large arrays
afresh each time. A wave of a thousand sessions needs two megabytes for some hundred microseconds: having
the kernel take and clear those pages for every wave cost nearly as much as all the rest of it (2.2 ms in
place of 1.2, measured on two cores of an EPYC). With both limits raised the pages stay.
"""

from __future__ import annotations

import ctypes
import gc

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
YOUNG = 20_000  # objects between two collections; a wave of a thousand makes more than Python's own 700
KEPT_BYTES = 32 * 2**20  # the most that glibc takes for the second


def keep_wave_memory() -> bool:
    """Keep up to 32 MiB of freed memory for the next wave. Returns whether this C library can be told."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT_BYTES) and mallopt(MMAP_THRESHOLD, KEPT_BYTES))


def spare_the_loaded() -> None:
    """Never again walk what there is now: walking all that was loaded at each collection is most of p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
