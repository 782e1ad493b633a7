"""Columns and their scaling."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import Doubles
from models.errors import BadArtifact


@dataclass(frozen=True)
class Column:
    """One number of an observation: its name in the data, and its unit for people to read."""

    name: str
    unit: str | None = None


@dataclass(frozen=True, eq=False)
class Scaling:
    """scaled = (value - mean) / std.

    Attributes
    ----------
    mean, std
        float64 [features], in the data's own units; finite, and `std` above 0, in float32, too.

    Raises
    ------
    BadArtifact
        If they are not.
    """

    mean: Doubles
    std: Doubles

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, _read_only(getattr(self, name), name))
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
        """The scaling of these columns, in this order."""
        return Scaling(self.mean[columns], self.std[columns])


def _read_only(values: Any, what: str) -> Doubles:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadArtifact(f"scaling {what} is not a list of numbers") from error
    # The service computes in float32: a number must not overflow there, nor a std become 0.
    with np.errstate(over="ignore"):
        single = numbers.astype(np.float32)
    if numbers.ndim != 1 or not np.isfinite(single).all() or (what == "std" and not (single > 0).all()):
        raise BadArtifact(f"scaling {what} must be finite numbers" + (" above zero" if what == "std" else ""))
    numbers.setflags(write=False)
    return numbers
