"""Means over values with gaps, and measures that may be missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from models.arrays import Doubles


def mean_observed(values: Doubles, axis: int | None = None) -> Any:
    """The mean over all that is not NaN; NaN, without a warning, where there is only NaN."""
    observed = ~np.isnan(values)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(observed, values, 0).sum(axis) / observed.sum(axis)


def measured(value: float | None) -> float | None:
    """The value as JSON can hold it: None where it is NaN or infinite, because nothing could be measured."""
    return float(value) if value is not None and math.isfinite(value) else None


def skill(mse: float | None, reference: float | None) -> float | None:
    """1 - MSE / MSE of a reference; None where one of them is missing, or the reference makes no error."""
    return measured(1 - mse / reference) if mse is not None and reference else None


def json_fields(record: Any) -> dict[str, float | None]:
    """The fields of a dataclass of numbers, None where one could not be measured."""
    return {name: measured(value) for name, value in vars(record).items()}
