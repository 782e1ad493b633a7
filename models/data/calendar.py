"""Inputs made from timestamps: where in the day, the week, the year an observation lies, as sine and cosine.

An artifact that names time features has their columns last among its inputs, and the step of its stream in
seconds, so that a forecast knows its own future and an irregular timestamp is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import Floats, Seconds

PERIODS = {
    "hour_of_day": 86_400.0,
    "half_day": 43_200.0,
    "day_of_week": 604_800.0,
    "day_of_year": 365.2425 * 86_400.0,
}
MONDAY = 4 * 86_400.0  # 1970-01-01 was a Thursday: weeks are counted from the first Monday
TOLERANCE = 0.01  # of a step, by which a timestamp may be off: clocks and decimals round


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that these time features add to the inputs."""
    return tuple(f"{name}_{wave}" for name in names for wave in ("sin", "cos"))


def encode(names: Sequence[str], seconds: Seconds) -> Floats:
    """[steps, 2 x names] of times in seconds since 1970, UTC: sine and cosine of each one's phase."""
    phases = [
        2 * np.pi * ((seconds - (MONDAY if name == "day_of_week" else 0.0)) / PERIODS[name] % 1.0)
        for name in names
    ]
    waves = [wave(phase) for phase in phases for wave in (np.sin, np.cos)]
    return np.stack(waves, axis=-1).astype(np.float32)


def first_irregular(seconds: Seconds, step: float, before: float | None = None) -> int | None:
    """The first row that is not one step behind the one before it; `before` is the time ahead of row 0."""
    times = seconds if before is None else np.concatenate([[before], seconds])
    odd = np.flatnonzero(~(np.abs(np.diff(times) - step) <= TOLERANCE * step))
    return None if not len(odd) else int(odd[0]) + (1 if before is None else 0)
