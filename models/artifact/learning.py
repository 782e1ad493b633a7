"""What sessions learn of their own streams, as one value: part of an artifact, or an option of a session.

Sessions can learn two things, independently: a correction of the network's readout
(models/adaptation/readout.py), and how wrong the predictions are (models/adaptation/intervals.py and
surprise.py). By default they learn nothing, which costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from models.errors import BadArtifact

Readout = Literal["off", "gain", "rls"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
DEFAULT_LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
INTERVALS = "+intervals"
MAX_LEVELS = 16
FORECASTS = "+horizons"
MAX_HORIZONS, MAX_HORIZON, MAX_SEASON = 16, 1000, 2016  # a season: a week of five minutes
MOST_FORGETTING = 0.9999  # above it, rounding errors of float32 accumulate (benchmarks/steps.py)
HORIZON_FEATURES, HORIZON_EXPERTS = 8, 5  # of a direct forecast (models/adaptation/horizons.py)
LATER_FIELDS = {"horizons", "season"}  # which artifacts of earlier releases do not have
MAX_FEATURES = 1025  # a covariance of 4 MiB a session


@dataclass(frozen=True)
class Learning:
    """How a session learns.

    Attributes
    ----------
    readout
        `off`: nothing is corrected; `gain`: each output by a gain and a bias of its own; `rls`: by a linear
        map of the network's hidden features, learned by recursive least squares.
    inputs
        Whether the features of `rls` include the observation itself.
    rank
        How many leading directions of the hidden features `rls` uses, of the artifact's basis; 0: all
        features.
    forgetting
        Factor on the weight of the past at each observation, above 0.5 and at most 0.9999: the weight halves
        in log(1/2) / log(forgetting) observations.
    prior
        Strength of the pull towards the trained readout, in squared units of a scaled feature; larger is
        slower.
    levels
        Of prediction intervals, ascending, between 0 and 1. Empty: neither intervals nor surprise.
    spread
        [levels][outputs], half-widths of a new session, in scaled units. Empty: those of normal errors with
        the standard deviation of the data.
    growth
        How much wider than for the next step the intervals of a forecast are at 1, 2, 4, 8, ... steps; the
        first is 1. Empty: the square root of the steps, as for a random walk. Used without `horizons`.
    horizons
        Steps ahead that each session learns to forecast directly, ascending from 1; needs levels
        (models/adaptation/horizons.py). Empty: a forecast feeds predictions back.
    season
        Observations in a season, which `horizons` uses; 1: there is none.

    Raises
    ------
    BadArtifact
        If a value is out of its bounds.
    """

    readout: Readout = "off"
    inputs: bool = False
    rank: int = 0
    forgetting: float = 0.999
    prior: float = 1.0
    levels: tuple[float, ...] = ()
    spread: tuple[tuple[float, ...], ...] = ()
    growth: tuple[float, ...] = ()
    horizons: tuple[int, ...] = ()
    season: int = 1

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise BadArtifact(f"readout must be one of {', '.join(READOUTS)}, not {str(self.readout)[:40]!r}")
        if type(self.inputs) is not bool:
            raise BadArtifact("inputs must be true or false")
        if type(self.rank) is not int or self.rank < 0:
            raise BadArtifact(f"rank must be a whole number from 0, not {str(self.rank)[:40]}")
        bounded = 0.5 < _number(self.forgetting) <= MOST_FORGETTING
        _check(bounded, f"forgetting must be above 0.5 and at most {MOST_FORGETTING}")
        _check(1e-6 <= _number(self.prior) <= 1e6, "prior must be 1e-6 to 1e6")
        _check(len(self.levels) <= MAX_LEVELS, f"at most {MAX_LEVELS} levels")
        ascending = all(low < high for low, high in zip(self.levels, self.levels[1:], strict=False))
        _check(ascending and all(0 < _number(level) < 1 for level in self.levels),
               "levels must ascend, each between 0 and 1")  # fmt: skip
        widths = [width for row in self.spread for width in row]
        _check(all(0 < _number(width) < 1e6 for width in widths), "spread must be above 0 and below 1e6")
        _check(
            not self.spread or len(self.spread) == len(self.levels), "spread must have a row for each level"
        )
        _check(
            all(1 <= _number(ratio) < 1e6 for ratio in self.growth), "growth must be at least 1 and below 1e6"
        )
        _check(_is_count(self.season, MAX_SEASON), f"season must be a whole number from 1 to {MAX_SEASON}")
        _check(len(self.horizons) <= MAX_HORIZONS, f"at most {MAX_HORIZONS} horizons")
        counts = all(_is_count(horizon, MAX_HORIZON) for horizon in self.horizons)
        _check(counts, f"horizons must be whole numbers from 1 to {MAX_HORIZON}")
        steps = (*self.horizons[:1], *(b - a for a, b in zip(self.horizons, self.horizons[1:], strict=False)))
        _check(all(step > 0 for step in steps) and tuple(self.horizons[:1]) in ((), (1,)),
               "horizons must ascend from 1")  # fmt: skip
        _check(not self.horizons or bool(self.levels), "horizons need levels of intervals")

    @property
    def enabled(self) -> bool:
        """Whether anything is learned at all."""
        return self.adapts_readout or self.tracks_errors

    @property
    def adapts_readout(self) -> bool:
        """Whether a session has a readout of its own."""
        return self.readout != "off"

    @property
    def tracks_errors(self) -> bool:
        """Whether there are intervals, surprise and running means of the errors."""
        return bool(self.levels)

    @property
    def forecasts_directly(self) -> bool:
        """Whether each session learns its forecasts, instead of feeding predictions back."""
        return bool(self.horizons)

    @property
    def kind(self) -> str:
        """What decides the layout of a carry; everything else may differ between sessions of one layout."""
        return self.readout + INTERVALS * self.tracks_errors + FORECASTS * self.forecasts_directly

    def with_kind(self, kind: str) -> Learning:
        """The same, of another kind.

        Parameters
        ----------
        kind : as in the property of that name

        Raises
        ------
        BadArtifact : there is no such kind
        """
        rest = kind.removesuffix(FORECASTS)
        readout = rest.removesuffix(INTERVALS)
        learning = self if rest != kind else replace(self, horizons=())
        return learning.with_options(readout, intervals=rest.endswith(INTERVALS))  # type: ignore[arg-type]

    def with_options(
        self,
        readout: Readout | None = None,
        forgetting: float | None = None,
        prior: float | None = None,
        intervals: bool | None = None,
    ) -> Learning:
        """The same, with the options of a session; None leaves the present value.

        Raises
        ------
        BadArtifact : a value is out of its bounds
        """
        options = {"readout": readout, "forgetting": forgetting, "prior": prior}
        changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if intervals is not None:
            changes["levels"] = (self.levels or DEFAULT_LEVELS) if intervals else ()
            if intervals != self.tracks_errors:
                changes["spread"] = ()
            if not intervals:
                changes["horizons"] = ()
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def parse_learning(fields: Any) -> Learning:
    """The inverse of `Learning.as_dict`.

    Raises
    ------
    BadArtifact : the values are not those of a `Learning`
    """
    known = Learning().as_dict()
    if not isinstance(fields, Mapping) or set(known) - set(fields) - LATER_FIELDS or set(fields) - set(known):
        raise BadArtifact(f"learning must have the fields {', '.join(sorted(known))}")
    fields = {name: fields.get(name, default) for name, default in known.items()}
    lists = ("levels", "spread", "growth", "horizons")
    if not all(_is_list(fields[name]) for name in lists):
        raise BadArtifact(f"{', '.join(lists)} of learning must be lists")
    if not all(_is_list(row) for row in fields["spread"]):
        raise BadArtifact("spread of learning must be a list of lists")
    spread = tuple(tuple(row) for row in fields["spread"])
    return Learning(**fields | {name: tuple(fields[name]) for name in lists} | {"spread": spread})


def horizon_prior_shapes(learning: Learning, outputs: int) -> dict[str, tuple[int, ...]]:
    """What a session that forecasts directly may begin with, by its name: parts of its state."""
    if not learning.forecasts_directly:
        return {}
    by_horizon = (len(learning.horizons), outputs)
    return {
        "readouts": (*by_horizon, HORIZON_FEATURES),
        "variances": (outputs, HORIZON_FEATURES, HORIZON_FEATURES),
        "mixture": (*by_horizon, HORIZON_EXPERTS),
        "sizes": by_horizon,
        "horizon_ratios": (len(learning.horizons), len(learning.levels), outputs),
    }


def feature_count(learning: Learning, hidden: int, inputs: int) -> int:
    """How many features a correction has, the constant included."""
    if learning.readout == "gain":
        return 2
    return (learning.rank or hidden) + (inputs if learning.inputs else 0) + 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadArtifact(f"learning has {str(value)[:40]!r} where a number is expected")
    return float(value)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise BadArtifact(message)
