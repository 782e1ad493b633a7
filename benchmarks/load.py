"""The result of one run of a load generator, and the conditions under which it must not be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GENERATOR_LIMIT = 0.95
"""Above this share of its core the generator, and not the server, is what was measured."""


class BadRun(RuntimeError):
    """A run whose figures must not be used: errors among the answers, or answers that are wrong."""


@dataclass(frozen=True)
class Load:
    """A closed loop over some connections.

    Parameters
    ----------
    requests
        Answers that came, each with the status of success.
    seconds
        Length of the run.
    p50_us, p99_us
        Time from request to answer, in microseconds.
    generator_share
        The part of its core's time that the generator used.
    """

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    generator_share: float = 0.0

    @property
    def generator_bound(self) -> bool:
        """Whether the server could have done more than it was asked."""
        return self.generator_share > GENERATOR_LIMIT


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile, ``share`` in (0, 1], of values in any order.

    Raises
    ------
    BadRun
        When there are no values: a run without an answer has no latency.
    """
    if not values:
        raise BadRun("no answer came at all")
    ordered = sorted(values)
    rank = -(-len(ordered) * share // 1)
    return ordered[max(int(rank), 1) - 1]
