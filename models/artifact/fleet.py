"""What an artifact knows of the series that one network was trained on, as one value.

Each series is scaled by its own training part. A session of one of these series, which it names, has that
scale from its first observation. A session of another series takes its scale from what it observes
(models/adaptation/scales.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import Floats
from models.data.scaling import Scaling
from models.errors import BadArtifact

STAGES = (8, 32, 128)  # observations after which a session of an unknown series takes a scale
MAX_STAGES, MAX_STAGE = 8, 4096
MAX_SERIES = 100_000
MAX_NAME = 256
MAX_GROWTH = 1e3
SERIES = "series."  # begins the names of its arrays in a file


@dataclass(frozen=True, eq=False)
class Fleet:
    """The series of a network, and their scales.

    Attributes
    ----------
    names
        Of the series.
    mean, std
        float32 [series, inputs], in the data's own units.
    stages
        Numbers of observations, ascending: a session of an unknown series takes the mean and standard
        deviation of what it has observed by then; the last stands.
    growth
        [stages], how many times the standard deviation of so few rows that of a whole training part is.

    Raises
    ------
    BadArtifact
        If they do not fit together.
    """

    names: tuple[str, ...]
    mean: Floats
    std: Floats
    stages: tuple[int, ...] = STAGES
    growth: tuple[float, ...] = (1.0,) * len(STAGES)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_SERIES:
            raise BadArtifact(f"a fleet has 1 to {MAX_SERIES} series, not {len(self.names)}")
        if not all(1 <= len(name) <= MAX_NAME for name in self.names):
            raise BadArtifact(f"the name of a series has 1 to {MAX_NAME} characters")
        if len(set(self.names)) != len(self.names):
            raise BadArtifact("two series have one name")
        for what, array in (("mean", self.mean), ("std", self.std)):
            if array.dtype != np.float32 or array.ndim != 2 or len(array) != len(self.names):
                raise BadArtifact(f"{SERIES}{what} is not a row of float32 for each of the series")
        if self.mean.shape != self.std.shape or not np.isfinite(self.mean).all():
            raise BadArtifact(f"{SERIES}mean is not finite, or not of the shape of {SERIES}std")
        if not (np.isfinite(self.std).all() and (self.std > 0).all()):
            raise BadArtifact(f"{SERIES}std must be finite, and above 0")
        whole = all(type(stage) is int and 1 < stage <= MAX_STAGE for stage in self.stages)
        if not whole or list(self.stages) != sorted(set(self.stages)) or len(self.stages) > MAX_STAGES:
            raise BadArtifact(
                f"stages must be at most {MAX_STAGES} ascending whole numbers up to {MAX_STAGE}"
            )
        bounded = all(type(ratio) is float and 1 <= ratio <= MAX_GROWTH for ratio in self.growth)
        if not self.stages or len(self.growth) != len(self.stages) or not bounded:
            raise BadArtifact(f"growth must have a number from 1 to {MAX_GROWTH:g} for each of the stages")

    def scaling(self, name: str) -> Scaling | None:
        """The scale of the inputs of this series; None if there is no such series."""
        if name not in self.names:
            return None
        row = self.names.index(name)
        return Scaling(self.mean[row].astype(np.float64), self.std[row].astype(np.float64))

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, but for the arrays."""
        return {"names": list(self.names), "stages": list(self.stages), "growth": list(self.growth)}

    def arrays(self) -> dict[str, Floats]:
        """The arrays, by their names in a file."""
        return {SERIES + "mean": self.mean, SERIES + "std": self.std}


def parse_fleet(fields: Any, arrays: Mapping[str, Floats]) -> Fleet:
    """The inverse of `Fleet.as_dict` and `Fleet.arrays`.

    Raises
    ------
    BadArtifact
        They are not those of a `Fleet`.
    """
    count_series(fields)
    missing = [name for name in (SERIES + "mean", SERIES + "std") if name not in arrays]
    if missing:
        raise BadArtifact(f"weights lack {missing[0]}")
    return Fleet(
        tuple(fields["names"]),
        arrays[SERIES + "mean"],
        arrays[SERIES + "std"],
        tuple(fields["stages"]),
        tuple(fields["growth"]),
    )


def count_series(fields: Any) -> int:
    """How many series these fields name, before any array is read.

    Raises
    ------
    BadArtifact
        They are not those of a `Fleet`.
    """
    known = {"names", "stages", "growth"}
    if not isinstance(fields, dict) or set(fields) != known:
        raise BadArtifact(f"fleet must have the fields {', '.join(sorted(known))}")
    if not all(isinstance(fields[name], list) for name in known):
        raise BadArtifact("the fields of fleet must be lists")
    if not all(isinstance(name, str) for name in fields["names"]):
        raise BadArtifact("the name of a series is not text")
    if len(fields["names"]) > MAX_SERIES:
        raise BadArtifact(f"a fleet has 1 to {MAX_SERIES} series, not {len(fields['names'])}")
    return len(fields["names"])
