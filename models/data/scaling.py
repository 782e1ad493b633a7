"""Columns and their scaling: what a number in the data means."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import Doubles
from models.errors import BadArtifact


@dataclass(frozen=True)
class Column:
    """One feature of an observation, as the data names it."""

    name: str
    unit: str | None = None


@dataclass(frozen=True, eq=False)
class Scaling:
    """scaled = (value - mean) / std; both float64 [features], in the data's own units."""

    mean: Doubles
    std: Doubles

    def __post_init__(self) -> None:
        for which in ("mean", "std"):
            object.__setattr__(self, which, _frozen(getattr(self, which), which))
        if self.mean.shape != self.std.shape:
            raise BadArtifact(f"scaling has {len(self.mean)} means and {len(self.std)} stds")
        if not (self.std > 0).all():
            raise BadArtifact("scaling has a std that is not positive in float32")

    def scale(self, values: Doubles) -> Doubles:
        """Original units to scaled, [..., features]."""
        return (values - self.mean) / self.std

    def unscale(self, values: Doubles) -> Doubles:
        """Scaled to original units, [..., features]."""
        return values * self.std + self.mean

    def pick(self, columns: list[int]) -> "Scaling":
        """The scaling of some of the columns, in that order."""
        return Scaling(self.mean[columns], self.std[columns])


def _frozen(values: Any, what: str) -> Doubles:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadArtifact(f"scaling {what} is not a list of numbers") from error
    # The service works in float32: a number that overflows there, or a std that vanishes, is no number.
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    if numbers.ndim != 1 or not np.isfinite(single).all() or (what == "std" and not (single > 0).all()):
        raise BadArtifact(f"scaling {what} must be finite numbers" + (" above zero" if what == "std" else ""))
    numbers.setflags(write=False)
    return numbers
