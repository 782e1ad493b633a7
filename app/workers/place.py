"""A worker's place among the workers of its server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

SPREAD = 0x9E3779B1  # 2**32 over the golden ratio: names that differ in few bits get distant numbers


def owner_of(name: str, workers: int) -> int:
    """The worker, from 0 to `workers` - 1, that owns the session of this name in the engine.

    It is the same in every process and at every start: the store's files are divided by it.
    """
    return (crc32(name.encode()) * SPREAD & 0xFFFFFFFF) * workers >> 32


@dataclass(frozen=True, slots=True)
class Place:
    """Which of the workers this process is.

    Parameters
    ----------
    index : from 0
    count : of all workers
    folder : of the sockets between the workers; only their user can enter it
    """

    index: int
    count: int
    folder: Path

    @property
    def others(self) -> list[int]:
        """The indexes of the other workers."""
        return [index for index in range(self.count) if index != self.index]

    def socket(self, index: int) -> Path:
        """Where a worker takes jobs from the others."""
        return self.folder / f"{index}.jobs"

    def connections(self, index: int) -> Path:
        """Where a worker takes connections from the others."""
        return self.folder / f"{index}.connections"

    def owns(self, name: str) -> bool:
        """Whether this worker owns a session."""
        return owner_of(name, self.count) == self.index
