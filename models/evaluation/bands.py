"""How prediction intervals did along a series, beside fixed ones; and where a series was most surprising."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from models.arrays import Bools, Doubles
from models.artifact.artifact import Artifact
from models.data.dataset import Split
from models.training.simulation import SimulatedRun

WINDOW = 1000  # rows
SURPRISING = 0.01  # share of rows


@dataclass(frozen=True)
class Coverage:
    """Share of rows within a band.

    `least` and `most` are those of any target over all rows; `window_least` and `window_most` those of any
    target in any window of 1,000 rows, None where there are fewer. `width` is the mean from edge to edge, in
    scaled units.
    """

    mean: float
    least: float
    most: float
    window_least: float | None
    window_most: float | None
    width: float


@dataclass(frozen=True)
class Band:
    """The intervals of one level as a session gave them, beside a fixed band.

    `fixed` has the half-widths, one a target, that cover this share of the validation rows: split conformal
    prediction (Papadopoulos et al., ECML 2002); None without validation rows.
    """

    level: float
    given: Coverage
    fixed: Coverage | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def evaluate_bands(artifact: Artifact, run: SimulatedRun, values: Doubles, split: Split) -> tuple[Band, ...]:
    """Each level's intervals over the test part.

    Parameters
    ----------
    followed
        Over the validation and the test part.
    values
        [rows, targets], own units, of the whole series.
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
        fixed = coverage(sizes[test], np.nanquantile(past, level, axis=0)[None]) if len(past) else None
        bands.append(Band(level, given, fixed))
    return tuple(bands)


def coverage(sizes: Doubles, widths: Doubles) -> Coverage:
    """Of errors of these sizes by bands of these half-widths, [rows or 1, targets], scaled; NaN is a gap."""
    inside, seen = sizes <= widths, ~np.isnan(sizes)
    by_target = inside.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    least, most = _in_windows(inside, seen)
    return Coverage(
        mean=float(inside.sum() / max(1, seen.sum())),
        least=float(by_target.min()),
        most=float(by_target.max()),
        window_least=least,
        window_most=most,
        width=float(2 * np.broadcast_to(widths, sizes.shape).mean()),
    )


def surprising_ranges(scores: Doubles, rows: range, share: float = SURPRISING) -> list[range]:
    """Where the highest scores of a series lie.

    Parameters
    ----------
    scores
        [rows], NaN where nothing was judged.
    share
        Of the rows that count as surprising.

    Returns
    -------
    list[range]
        Stretches of rows, those not farther from each other than a 400th of all taken together; the one with
        the highest score first.
    """
    known = np.where(np.isnan(scores), -1.0, scores)
    highest = np.flatnonzero(known >= surprise_threshold(scores, share))
    apart = np.flatnonzero(np.diff(highest) > max(1, len(known) // 400)) + 1
    groups = sorted(np.split(highest, apart), key=lambda group: -known[group].max())
    return [range(rows.start + int(group[0]), rows.start + int(group[-1]) + 1) for group in groups]


def surprise_threshold(scores: Doubles, share: float = SURPRISING) -> float:
    """The score that this share of the rows reaches."""
    known = np.where(np.isnan(scores), -1.0, scores)
    return float(np.sort(known)[-max(1, round(share * len(known)))])


def _in_windows(inside: Bools, seen: Bools) -> tuple[float | None, float | None]:
    """The least and the most share of any target in any window in which it was observed."""
    if len(inside) < WINDOW:
        return None, None
    within, of = (_sums(counted) for counted in (inside, seen))
    if not of.any():
        return None, None
    shares = within[of > 0] / of[of > 0]
    return float(shares.min()), float(shares.max())


def _sums(counted: Bools) -> Doubles:
    """[windows, targets], how many in each."""
    count = np.concatenate([np.zeros((1, counted.shape[1])), counted.cumsum(axis=0)])
    sums: Doubles = count[WINDOW:] - count[:-WINDOW]
    return sums
