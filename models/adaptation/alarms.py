"""Alarms at a rate that the user sets: an unusual value, a shift of the level, or a trend.

The errors of the next step's prediction, each less its slow mean and divided by its own recent size, give
three statistics of an observation:

value         the absolute error of an output and, with three times the weight, the root of the mean square of
              its last ten or so: the largest sum of an output. Most faults last
level shift   the largest one-sided cumulative sum of the errors (CUSUM: Page, Continuous inspection schemes,
              Biometrika 1954), which grows where predictions are wrong in one direction by half a standard
              deviation or more
trend         the same with errors cut to one standard deviation and less slack: only errors of one sign that
              go on for long raise it

A predictor that adapts follows a new level, and its errors are soon small again. So a fourth statistic, which
is of a level shift, too, compares the mean of the last twenty values or so with that of the last thousand.

Each statistic has a tail, which is estimated online by peaks over a threshold, as in SPOT (Siffer et al.,
Anomaly detection in streams with extreme value theory, KDD 2017). The threshold is a tracked quantile. Peaks
that follow each other closely are one cluster, of which the largest counts (runs declustering: Coles, An
introduction to statistical modeling of extreme values, 2001, section 5.3.2). So errors that depend on each
other count once. A generalized Pareto distribution is fitted to the excesses by moments (Hosking and Wallis,
Technometrics 1987). The alarm is raised where a statistic is so large that the tail has as many larger
clusters in a week as the rule asks for, divided by the number of statistics.

Peaks count up to the alarm's own threshold, so an anomaly does not make the next one look usual. A stream
that stays different is followed at that pace.

What is wrong with the fitted tail is corrected by feedback, as in adaptive conformal inference (Gibbs and
Candes, NeurIPS 2021): the rate goes down with each alarm, and up with the time. While the correction is
within its bounds (a factor of seven), the number of alarms in a long time is that of the rule, whatever the
stream is.

The score of an observation adds up what all statistics say (minus log10 of their rates, as Fisher combines
tests: Statistical methods for research workers, 1925, section 21.1), and that of one more, which raises no
alarm: how far the last values are from those at the same time of other days. It is smoothed, and half of the
largest one fades slowly: labels and faults last longer than the moment at which they are found. To its
logarithm is added how new the course of the last values is: its distance from the second nearest of some
earlier ones (discords: Keogh, Lin and Fu, HOT SAX, ICDM 2005; here of a sample). Which of them a new one
replaces depends on the number of observations only, so it is the same however a stream is cut.

An alarm is raised once. It is cleared when no statistic has crossed its threshold for the refractory time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.adaptation import alarm_kernels as kernels
from models.adaptation.learner import Scores
from models.arrays import Bytes, Doubles, Ints

KIND_NAMES = ("value", "level shift", "trend")
KIND_OF_STATISTIC = [kernels.VALUE, kernels.SHIFT, kernels.TREND, kernels.SHIFT]
ANY = "any"
DAY, WEEK = 24 * 3600.0, 7 * 24 * 3600.0  # seconds
BAND = 0.9  # level of the interval that a cause is compared with, where the session has it
LARGEST_RATE = 0.05  # of an observation
# Of normal errors: the start of the tail, clusters an observation, and the mean excess.
FIRST_TAILS = (
    (5.8, 0.008, 0.6), (5.0, 0.004, 1.5), (8.0, 0.002, 2.5), (1.8, 0.003, 0.3), (3.0, 0.005, 0.5),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cause:
    """Why an alarm was raised.

    kind : one of KIND_NAMES
    output : index of the output
    above : whether the stream is above its prediction, else below
    size : of a value, its error in standard deviations; else the mean error over `steps`. A value that lasts
        for more than one step was raised by the root of their mean square
    beyond : the same, beyond the end of the interval of level `Alarms.band`
    steps : observations that it has lasted
    of_values : whether `size` compares values with those of the last weeks, and not errors
    expected : as large ones in so many clusters an observation
    """

    kind: str
    output: int
    above: bool
    size: float
    beyond: float
    steps: int
    of_values: bool
    expected: float


@dataclass(frozen=True, slots=True)
class Followed:
    """What `Alarms.follow` found.

    scores : [total], at least 0, larger where more is unusual, now and lately; NaN where nothing is known
    changes : [total], kernels.NOTHING, RAISED or CLEARED
    """

    scores: Doubles
    changes: Bytes
    _details: Doubles

    def cause(self, i: int) -> Cause:
        """Why observation `i` raised an alarm."""
        detail = self._details[i].tolist()
        kind = int(detail[kernels.KIND])
        return Cause(
            KIND_NAMES[KIND_OF_STATISTIC[kind]],
            int(detail[kernels.OUTPUT]),
            detail[kernels.SIGN] > 0,
            detail[kernels.SIZE],
            detail[kernels.BEYOND],
            int(detail[kernels.STEPS]),
            kind == kernels.LEVEL,
            detail[kernels.EXPECTED],
        )


class Alarms:
    """The detectors of the sessions of one artifact. Their states are passed in.

    Parameters
    ----------
    outputs : of a session
    levels : of the intervals that the sessions keep

    Attributes
    ----------
    size : numbers in a state
    band : level of the interval that causes are compared with
    """

    def __init__(self, outputs: int, levels: tuple[float, ...]) -> None:
        self.size = kernels.OUTPUTS + outputs * kernels.OUTPUT_SIZE
        self._level = int(np.abs(np.array(levels) - BAND).argmin())
        self.band = levels[self._level]

    @property
    def new_state(self) -> Doubles:
        """[size], a session without observations."""
        state = np.zeros(self.size)
        state[kernels.CALM] = -1
        tails = state[kernels.TAILS : kernels.OUTPUTS].reshape(-1, kernels.TAIL_SIZE)
        for tail, (start, rate, mean) in zip(tails, FIRST_TAILS, strict=True):
            tail[kernels.START], tail[kernels.RATE] = start, rate
            tail[kernels.MEAN], tail[kernels.SQUARE] = mean, 2 * mean * mean  # those of an exponential tail
            tail[kernels.GAP] = kernels.RUN
        state[kernels.OUTPUTS :].reshape(-1, kernels.OUTPUT_SIZE)[:, [kernels.VARIANCE, kernels.RECENT]] = 1
        return state

    def follow(
        self,
        states: Doubles,
        lengths: Ints,
        scores: Scores,
        rates: Doubles,
        refractory: Ints,
        periods: Ints,
    ) -> Followed:
        """Move detectors on by a chunk of each session, in place.

        Parameters
        ----------
        states : [batch, size]
        lengths : [batch], observations of each chunk, `total` together
        scores : of these observations; where their units are NaN, nothing is seen
        rates : [batch, statistics], alarms an observation; 0 where it raises none; at least one is not 0
        refractory : [batch], observations without a crossing that clear an alarm
        periods : [batch], observations in a day, of `period`
        """
        total = len(scores.scores)
        followed = Followed(
            np.full(total, np.nan), np.zeros(total, np.uint8), np.zeros((total, kernels.DETAILS))
        )
        kernels.follow(
            states,
            lengths,
            np.ascontiguousarray(scores.errors / scores.units, np.float32),
            np.ascontiguousarray(scores.changes / scores.units, np.float32),
            np.ascontiguousarray(scores.widths[:, self._level] / scores.units, np.float32),
            rates,
            refractory,
            periods,
            followed.scores,
            followed.changes,
            followed._details,
        )
        return followed


def period(step_seconds: float) -> int:
    """Observations in a day; 1 where they are further apart."""
    return max(1, round(DAY / step_seconds))


def rates(kind: str, alarms_per_week: float, step_seconds: float) -> Doubles:
    """[statistics], alarms an observation of each: the rule's, shared by those of its kind."""
    chosen = np.array([kind in (ANY, name) for name in KIND_NAMES], np.float64)[KIND_OF_STATISTIC]
    rate = min(alarms_per_week * step_seconds / WEEK, LARGEST_RATE)
    return np.asarray(chosen * (rate / chosen.sum()))
