"""Time features: the time of day, week and year of an observation, as sine and cosine.

An artifact with time features has their columns as its last inputs. It also has the seconds from row to row,
so that a forecast can compute its future time features and an irregular timestamp is refused.
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
TOLERANCE = 0.01  # of a step, by which a timestamp may be off: clocks and decimals are rounded


def columns(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the columns that these time features add to the inputs."""
    return tuple(f"{name}_{function}" for name in names for function in ("sin", "cos"))


def encode(names: Sequence[str], seconds: Seconds) -> Floats:
    """Sine and cosine of the phase of each time in each period.

    Parameters
    ----------
    names
        Of `PERIODS`.
    seconds
        [steps], since 1970, UTC.

    Returns
    -------
    [steps, 2 x names], in the order of `columns`
    """
    phases = [
        2 * np.pi * ((seconds - (MONDAY if name == "day_of_week" else 0.0)) / PERIODS[name] % 1.0)
        for name in names
    ]
    values = [function(phase) for phase in phases for function in (np.sin, np.cos)]
    return np.stack(values, axis=-1).astype(np.float32)


def first_irregular(seconds: Seconds, step: float, before: float | None = None) -> int | None:
    """The first row whose time is not one step after that of the row before it; None if there is none.

    Parameters
    ----------
    seconds
        [rows]
    step
        In seconds.
    before
        The time of the row before the first row, if known.
    """
    times = seconds if before is None else np.concatenate([[before], seconds])
    irregular = np.flatnonzero(~(np.abs(np.diff(times) - step) <= TOLERANCE * step))
    return None if not len(irregular) else int(irregular[0]) + (1 if before is None else 0)
