"""What a session may learn of its own stream, as one value; part of an artifact, chosen again for a session.

Two things are learned, each by itself: a correction of the network's readout (`models.readout`), and how
wrong its predictions are (`models.intervals`, `models.surprise`). An artifact that says nothing learns
nothing, and pays nothing for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from models.errors import BadArtifact

Readout = Literal["off", "gain", "rls"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
INTERVALS = "+intervals"
MAX_LEVELS = 16
MOST_FORGETTING = 0.9999  # float32 loses its own rounding errors no sooner (benchmarks/steps.py)
MAX_FEATURES = 1025  # a covariance of 4 MiB a session


@dataclass(frozen=True)
class Learning:
    """How a session learns.

    Attributes
    ----------
    readout
        `off`; `gain`: each output is corrected by a gain and a bias of its own; `rls`: by a linear map of
        the network's hidden features.
    inputs
        Whether the observation itself is among the features of `rls`, beside the hidden ones.
    rank
        Leading directions of the hidden features that `rls` sees, of the artifact's own basis; 0 is all.
    forgetting
        Weight that an observation keeps at the next one, above 0.5 and at most 0.9999: half of what was known
        is forgotten in log(1/2) / log(forgetting) observations.
    prior
        Pull towards the trained readout, in squared units of a scaled feature; the larger, the slower.
    levels
        Of prediction intervals, ascending, between 0 and 1. None: neither intervals nor scores.
    spread
        [levels][outputs], the half-widths that a session begins with, in scaled units. None: those of
        normal errors as wide as the data.
    growth
        How much wider than for the next step the intervals of a forecast are at 1, 2, 4, 8, ... steps; the
        first is 1. None: as the square root, that of a random walk.

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
        _check(all(0 < _number(width) < 1e6 for width in widths), "spread must be above 0")
        _check(
            not self.spread or len(self.spread) == len(self.levels), "spread must have a row for each level"
        )
        _check(all(1 <= _number(ratio) < 1e6 for ratio in self.growth), "growth must be at least 1")

    @property
    def on(self) -> bool:
        """Whether anything is learned at all."""
        return self.corrects or self.judges

    @property
    def corrects(self) -> bool:
        """Whether a session has a readout of its own."""
        return self.readout != "off"

    @property
    def judges(self) -> bool:
        """Whether errors are kept: intervals, scores, running means."""
        return bool(self.levels)

    @property
    def kind(self) -> str:
        """What decides how a session's row is laid out; the rest may differ from session to session."""
        return self.readout + INTERVALS * self.judges

    def of_kind(self, kind: str) -> Learning:
        """This, of the kind that another session chose.

        Raises
        ------
        BadArtifact : there is no such kind
        """
        readout = kind.removesuffix(INTERVALS)
        return self.chosen(readout, intervals=kind.endswith(INTERVALS))  # type: ignore[arg-type]

    def chosen(
        self,
        readout: Readout | None = None,
        forgetting: float | None = None,
        prior: float | None = None,
        intervals: bool | None = None,
    ) -> Learning:
        """This, as a session wants it for itself.

        Raises
        ------
        BadArtifact : a value is out of its bounds
        """
        told = {"readout": readout, "forgetting": forgetting, "prior": prior}
        wanted: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
        if intervals is not None:
            wanted["levels"] = (self.levels or LEVELS) if intervals else ()
            if intervals != self.judges:
                wanted["spread"] = ()
        return replace(self, **wanted)

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def learning_from(told: Any) -> Learning:
    """What `told` wrote.

    Raises
    ------
    BadArtifact : it is none
    """
    if not isinstance(told, Mapping) or set(told) != set(Learning().told()):
        raise BadArtifact(f"learning must have the fields {', '.join(sorted(Learning().told()))}")
    if not all(_is_list(told[name]) for name in ("levels", "spread", "growth")):
        raise BadArtifact("levels, spread and growth of learning must be lists")
    if not all(_is_list(row) for row in told["spread"]):
        raise BadArtifact("spread of learning must be a list of lists")
    spread = tuple(tuple(row) for row in told["spread"])
    return Learning(
        **{**told, "levels": tuple(told["levels"]), "spread": spread, "growth": tuple(told["growth"])}
    )


def features(learning: Learning, hidden: int, inputs: int) -> int:
    """How many numbers a prediction is corrected by, the constant among them."""
    if learning.readout == "gain":
        return 2
    return (learning.rank or hidden) + (inputs if learning.inputs else 0) + 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise BadArtifact(f"learning holds {str(value)[:40]!r} where a number belongs")
    return float(value)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadArtifact(otherwise)
