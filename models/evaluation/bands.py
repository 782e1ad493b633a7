"""The coverage of prediction intervals along a series, compared with fixed ones; the most surprising rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import Bools, Doubles
from models.artifact.artifact import Artifact
from models.data.dataset import Split
from models.data.measures import json_fields
from models.training.simulation import SimulatedRun

WINDOW = 1000  # rows
SURPRISING = 0.01  # share of rows


@dataclass(frozen=True)
class Coverage:
    """Share of the observations within a band; NaN where nothing was observed.

    Attributes
    ----------
    mean
        Over all targets.
    least, most
        The lowest and the highest share of a target over all rows.
    window_least, window_most
        The lowest and the highest share of a target in a window of 1,000 rows; None with fewer rows.
    width
        Mean from edge to edge, in scaled units.
    """

    mean: float
    least: float
    most: float
    window_least: float | None
    window_most: float | None
    width: float


@dataclass(frozen=True)
class Band:
    """The intervals of one level.

    Attributes
    ----------
    given
        As the session gave them.
    fixed
        Constant half-widths, one for each target, that cover this share of the validation rows: split
        conformal prediction (Papadopoulos et al., ECML 2002); None without validation rows.
    """

    level: float
    given: Coverage
    fixed: Coverage | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values: None for what could not be measured."""
        fixed = None if self.fixed is None else json_fields(self.fixed)
        return {"level": self.level, "given": json_fields(self.given), "fixed": fixed}


def evaluate_bands(artifact: Artifact, run: SimulatedRun, values: Doubles, split: Split) -> tuple[Band, ...]:
    """Each level's intervals over the test part.

    Parameters
    ----------
    run
        Over the validation and the test part.
    values
        [rows, targets], the data's own units, of the whole series; NaN is a gap.
    """
    if run.widths is None:
        return ()
    spread = artifact.target_scaling.std
    truth = values[run.rows.start : run.rows.stop]
    sizes = np.abs(truth - run.predictions) / spread  # [rows, targets], scaled
    test = slice(-split.test, None)
    past = sizes[: -split.test]
    bands = []
    for i, level in enumerate(artifact.learning.levels):
        given = coverage(sizes[test], run.widths[test, i] / spread)
        measurable = len(past) and np.isfinite(past).any(axis=0).all()
        fixed = coverage(sizes[test], np.nanquantile(past, level, axis=0)[None]) if measurable else None
        bands.append(Band(level, given, fixed))
    return tuple(bands)


def coverage(sizes: Doubles, widths: Doubles) -> Coverage:
    """The coverage of a band.

    Parameters
    ----------
    sizes
        [rows, targets], absolute errors, scaled; NaN is a gap.
    widths
        [rows or 1, targets], half-widths, scaled.
    """
    inside, observed = sizes <= widths, ~np.isnan(sizes)
    count = observed.sum(axis=0)
    shares = inside.sum(axis=0)[count > 0] / count[count > 0]  # of the targets that were observed
    least, most = _in_windows(inside, observed)
    return Coverage(
        mean=float(inside.sum() / count.sum()) if len(shares) else math.nan,
        least=float(shares.min()) if len(shares) else math.nan,
        most=float(shares.max()) if len(shares) else math.nan,
        window_least=least,
        window_most=most,
        width=float(2 * np.broadcast_to(widths, sizes.shape).mean()),
    )


def surprising_ranges(scores: Doubles, rows: range, share: float = SURPRISING) -> list[range]:
    """The rows with the highest surprise of a series.

    Parameters
    ----------
    scores
        [rows], NaN where nothing was scored.
    share
        Share of the rows that count as surprising.

    Returns
    -------
    list[range]
        Rows at most a 400th of the series apart form one range; the range with the highest surprise is first.
    """
    known = np.where(np.isnan(scores), -1.0, scores)
    highest = np.flatnonzero(known >= surprise_threshold(scores, share))
    apart = np.flatnonzero(np.diff(highest) > max(1, len(known) // 400)) + 1
    groups = sorted(np.split(highest, apart), key=lambda group: -known[group].max())
    return [range(rows.start + int(group[0]), rows.start + int(group[-1]) + 1) for group in groups]


def surprise_threshold(scores: Doubles, share: float = SURPRISING) -> float:
    """The surprise that this share of the rows reaches."""
    known = np.where(np.isnan(scores), -1.0, scores)
    return float(np.sort(known)[-max(1, round(share * len(known)))])


def _in_windows(inside: Bools, observed: Bools) -> tuple[float | None, float | None]:
    """The lowest and the highest share of a target in a window in which it was observed."""
    if len(inside) < WINDOW:
        return None, None
    covered, total = _window_sums(inside), _window_sums(observed)
    if not total.any():
        return None, None
    shares = covered[total > 0] / total[total > 0]
    return float(shares.min()), float(shares.max())


def _window_sums(mask: Bools) -> Doubles:
    """[windows, targets], how many are True in each window."""
    count = np.concatenate([np.zeros((1, mask.shape[1])), mask.cumsum(axis=0)])
    sums: Doubles = count[WINDOW:] - count[:-WINDOW]
    return sums
