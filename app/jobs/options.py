"""What a chunk asks for, or brings along, beside its numbers. Most chunks have no options and pay nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np

from app.session.notes import Labels
from models.arrays import Ints, Numbers, Seconds


class ChunkOptions(msgspec.Struct, frozen=True, eq=False):
    """Options of one chunk.

    level : of the intervals that are answered beside the predictions
    levels : of the intervals whose ends are answered as quantiles
    score : whether residuals and surprise are answered
    gaps : whether numbers are missing (NaN); a chunk of width 0 is missing altogether
    timestamps : [steps], seconds since 1970; the columns made from them are not among the observations
    future : [horizon, inputs known ahead], own units, for the forecast behind the chunk
    inputs : [steps, ...] by name, in place of observations; of a bulk job, those of one chunk after the other
    labels : of the session, if the chunk creates it; no part of the digest
    rate : samples a second, of a model over samples; no part of the digest, because a session has one rate
    """

    level: float | None = None
    score: bool = False
    gaps: bool = False
    timestamps: Seconds | None = None
    future: Numbers | None = None
    inputs: Mapping[str, Numbers] | None = None
    labels: Labels = ()
    rate: int | None = None
    levels: tuple[float, ...] = ()

    @property
    def is_part_of_digest(self) -> bool:
        """Whether a retry without these options is another chunk."""
        return self.wants_extra_outputs or self.gaps or self.timestamps is not None or self.future is not None

    def of_rows(self, rows: Ints | slice) -> ChunkOptions:
        """The same options with these rows of the named inputs."""
        if self.inputs is None:
            return self
        return msgspec.structs.replace(
            self, inputs={name: values[rows] for name, values in self.inputs.items()}
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers of named inputs."""
        return sum(numbers.nbytes for numbers in (self.inputs or {}).values())

    @property
    def wants_extra_outputs(self) -> bool:
        """Whether the answer holds more than predictions and a forecast."""
        return self.level is not None or self.score or bool(self.levels)


def digest_with_options(digest: int, horizon: int, options: ChunkOptions) -> int:
    """The digest of a chunk with these options: a retry with other options is another chunk."""
    values = (options.level, options.score, horizon, *([options.levels] if options.levels else []))
    hashed = hashlib.blake2b(repr(values).encode(), digest_size=8)
    for numbers in (options.timestamps, options.future):
        hashed.update(b"|" if numbers is None else np.ascontiguousarray(numbers).tobytes())
    return digest ^ int.from_bytes(hashed.digest(), "little")
