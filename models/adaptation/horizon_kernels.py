"""The compiled loops of `models/adaptation/horizons.py`, which says what they compute."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.lib.stride_tricks import as_strided

from models.arrays import Floats, Ints
from models.jit import contiguous, jit, jit_inline, jit_part, readonly, writable

FEATURES = 8
EXPERTS = 5
READOUT, PROFILE, SEASONAL, PERSISTENCE, NETWORK, MIXTURE, SIZE = range(7)
EXPECTED = 7  # numbers that are kept of each observation to come

PROFILE_RATE = 0.1
FORGETTING = 0.999  # of the readouts
REGRET_FADING = 0.999
PRECISION = 1.0  # of the prior that pulls the readouts to 0
LARGEST_VARIANCE = (
    10.0 / PRECISION
)  # a direction that the stream stops to show does not become more uncertain
SIZE_WINDOW = 200.0  # of the mean squared error that scales the intervals
PHASE_RATE = 0.02
LARGEST_RATIO = 4.0  # times the size of a phase, at most, an error changes it; one of usual size always does
SMALLEST_REGRET = 1e-4  # below it is rounding, where experts say the same
LARGEST_REGRET = 18.0  # of one observation: a sudden change does not decide the mixture for long
OUTLIER = 6.0  # times its usual size, at most, an error counts
MARGIN = 0.5  # of the observed range, on either side
SETTLED = 8  # observations, after which the range is taken to be known
SMALLEST_SIZE = 1e-4  # of a mean squared error, scaled, where it bounds what may be learned
LARGEST_COUNT = float(1 << 20)
TINY = 1e-9


class Setting(NamedTuple):
    """What is the same for all sessions of an artifact.

    horizons : [horizons]
    starts : [horizons], where the part of each begins in `State.pending`
    windows : [2], of the running means
    levels : [levels]
    parts : [parts, 4], where each part of `State` begins in a row, and its dimensions, 0 after the last
    rate : of the intervals
    """

    horizons: Ints
    starts: Ints
    windows: Any
    levels: Floats
    parts: Ints
    rate: float


class State(NamedTuple):
    """Views of the parts of many sessions' states; the first dimension is the session.

    clock      [2 + horizons]: observations so far, at most LARGEST_COUNT; the phase of the next one; then the
               place of the next one in `delayed`, and in the part of each horizon but the last in `pending`
    range      [2, outputs], lowest and highest observation
    profile, values, deviations   [season, outputs]: the profile, and the last season's observations and their
               distances from it
    previous, means   [outputs], [2, outputs]: the last distance, and the running means
    delayed    [longest, outputs, 2 * FEATURES], features and gains of the last observations
    readouts   [horizons, outputs, FEATURES]
    variances  [outputs, FEATURES, FEATURES], the covariance
    pending    [sum of the horizons, outputs, EXPECTED], what the experts and the mixture said, and the
               expected size of the error
    regrets, squares, mixture   [horizons, outputs, EXPERTS]: regrets, sums of their squares, weights
    sizes      [horizons, outputs], mean squared errors
    ratios     [horizons, levels, outputs], half-widths over their sizes
    phases     [2 * bins, outputs], mean absolute errors in a part of the season, over the root of `sizes`:
               first those of the next step, then those of all other horizons
    """

    clock: Floats
    range: Floats
    profile: Floats
    values: Floats
    deviations: Floats
    previous: Floats
    means: Floats
    delayed: Floats
    readouts: Floats
    variances: Floats
    pending: Floats
    regrets: Floats
    squares: Floats
    mixture: Floats
    sizes: Floats
    ratios: Floats
    phases: Floats


SETTING = types.NamedTuple(  # type: ignore[no-untyped-call]
    [
        contiguous("int64"),
        contiguous("int64"),
        contiguous("float64"),
        contiguous("float32"),
        contiguous("int64", 2),
        types.float64,
    ],
    Setting,
)


@jit_inline
def _matrix(rows: Floats, part: Ints) -> Floats:
    return as_strided(rows[:, part[0] :], (len(rows), part[1]), (rows.strides[0], 4))


@jit_inline
def _cube(rows: Floats, part: Ints) -> Floats:
    shape = len(rows), part[1], part[2]
    return as_strided(rows[:, part[0] :], shape, (rows.strides[0], 4 * part[2], 4))


@jit_inline
def _block(rows: Floats, part: Ints) -> Floats:
    shape = len(rows), part[1], part[2], part[3]
    strides = rows.strides[0], 4 * part[2] * part[3], 4 * part[3], 4
    return as_strided(rows[:, part[0] :], shape, strides)


@jit_inline
def _state(rows: Floats, parts: Ints) -> State:
    return State(
        _matrix(rows, parts[0]),
        _cube(rows, parts[1]),
        _cube(rows, parts[2]),
        _cube(rows, parts[3]),
        _cube(rows, parts[4]),
        _matrix(rows, parts[5]),
        _cube(rows, parts[6]),
        _block(rows, parts[7]),
        _block(rows, parts[8]),
        _block(rows, parts[9]),
        _block(rows, parts[10]),
        _block(rows, parts[11]),
        _block(rows, parts[12]),
        _block(rows, parts[13]),
        _cube(rows, parts[14]),
        _block(rows, parts[15]),
        _cube(rows, parts[16]),
    )


@jit_part
def _between(horizons: Ints, horizon: int) -> tuple[int, float]:
    """The last declared horizon that is not beyond this one, and how far it is on the way to the next."""
    i = 0
    while i + 1 < len(horizons) and horizons[i + 1] <= horizon:
        i += 1
    if i + 1 == len(horizons) or horizons[i] == horizon:
        return i, 0.0
    return i, (horizon - horizons[i]) / (horizons[i + 1] - horizons[i])


@jit_part
def _cursor(setting: Setting, state: State, b: int, i: int) -> int:
    """Where in a horizon's part of `pending` the next observation is, and is then overwritten."""
    if i == len(setting.horizons) - 1:
        return int(state.clock[b, 2])
    return int(state.clock[b, 3 + i])


@jit_part
def _phase(state: State, b: int, horizon: int) -> int:
    """The phase of the observation that is `horizon` steps after the last one."""
    return int((int(state.clock[b, 1]) - 1 + horizon) % state.profile.shape[1])


@jit_part
def _profile(state: State, b: int, o: int, horizon: int) -> float:
    """The profile there; the last observation where that phase was not seen yet."""
    phase = _phase(state, b, horizon)
    if phase >= state.clock[b, 0]:
        phase = _phase(state, b, 0)
        return float(state.values[b, phase, o])
    return float(state.profile[b, phase, o])


@jit_part
def _bin(state: State, b: int, ahead: int, horizon: int) -> int:
    """Where in `phases` a horizon has the observation that is `ahead` steps after the last one."""
    season, bins = state.profile.shape[1], state.phases.shape[1] // 2
    bin_ = _phase(state, b, ahead) * bins // season
    return int(bin_ if horizon == 1 else bins + bin_)


@jit_part
def _width(state: State, b: int, i: int, level: int, o: int) -> float:
    ratio = 0.0
    for lower in range(level + 1):  # as `intervals.in_order`
        ratio = max(ratio, float(state.ratios[b, i, lower, o]))
    return ratio * float(np.sqrt(state.sizes[b, i, o])) + TINY


@jit_part
def _deviation(state: State, b: int, i: int, o: int, place: int) -> float:
    """How far from the profile the readout of a horizon says that the stream will be."""
    total = 0.0
    for k in range(FEATURES):
        total += state.readouts[b, i, o, k] * state.delayed[b, place, o, k]
    return total


@jit_part
def _weight(setting: Setting, state: State, b: int, i: int, o: int, expert: int) -> float:
    """The weight of an expert at a horizon, for the steps around it.

    Whole seasons ahead, the last value is that of one season ago: there they are one expert, and beside that
    step only the seasonal one is right.
    """
    season = state.profile.shape[1]
    weight = float(state.mixture[b, i, o, expert])
    if season > 1 and setting.horizons[i] % season == 0:
        if expert == PERSISTENCE:
            return 0.0
        if expert == SEASONAL:
            return weight + float(state.mixture[b, i, o, PERSISTENCE])
    return weight


@jit_part
def _within(state: State, b: int, o: int, value: float) -> float:
    low, high = float(state.range[b, 0, o]), float(state.range[b, 1, o])
    margin = MARGIN * (high - low)
    return min(max(value, low - margin), high + margin)


@jit_part
def _say(state: State, b: int, o: int, place: int, horizon: int, deviation: float, expert: int) -> float:
    """What an expert says of the observation at a horizon, given the readout's distance from the profile."""
    if expert == PERSISTENCE:
        return float(state.delayed[b, place, o, 3])
    if expert == SEASONAL:
        if state.clock[b, 0] < state.profile.shape[1]:
            return float(state.delayed[b, place, o, 3])
        return float(state.values[b, _phase(state, b, horizon), o])
    profile = _profile(state, b, o, horizon)
    if expert == PROFILE:
        return profile
    if expert == NETWORK:
        network = state.delayed[b, place, o, 6] + _profile(state, b, o, 1)
        return network if horizon == 1 else _within(state, b, o, network)
    return _within(state, b, o, profile + deviation)


@jit_part
def _ask(state: State, b: int, i: int, o: int, place: int, horizon: int, at: int) -> None:
    """Write what each expert and the mixture say of the observation at a horizon."""
    deviation = _deviation(state, b, i, o, place)
    total = 0.0
    for expert in range(EXPERTS):
        said = _say(state, b, o, place, horizon, deviation, expert)
        state.pending[b, at, o, expert] = said
        total += state.mixture[b, i, o, expert] * said
    state.pending[b, at, o, MIXTURE] = total
    phase = float(state.phases[b, _bin(state, b, horizon, horizon), o])
    state.pending[b, at, o, SIZE] = np.sqrt(state.sizes[b, i, o]) * phase + TINY


@jit_part
def _gain(state: State, b: int, o: int, place: int) -> None:
    """Write the gain of these features, and update their covariance."""
    features, variances = state.delayed[b, place, o], state.variances[b, o]
    scale = FORGETTING
    for j in range(FEATURES):
        product = 0.0
        for k in range(FEATURES):
            product += variances[j, k] * features[k]
        features[FEATURES + j] = product
        scale += product * features[j]
    if not scale > 0.5 * FORGETTING:  # rounding has made the covariance invalid
        for j in range(FEATURES):
            for k in range(FEATURES):
                variances[j, k] = 1 / PRECISION if j == k else 0.0
            features[FEATURES + j] = 0.0
        return
    largest = 0.0
    for j in range(FEATURES):
        largest = max(largest, variances[j, j])
    fade = 1 / FORGETTING if largest < LARGEST_VARIANCE else 1.0
    for j in range(FEATURES):
        for k in range(j + 1):
            product = features[FEATURES + j] * features[FEATURES + k] / scale
            variances[j, k] = variances[k, j] = (variances[j, k] - product) * fade
    for j in range(FEATURES):
        features[FEATURES + j] /= scale


@jit_part
def _features(state: State, b: int, o: int, place: int, network: float) -> None:
    """Write the features of the last observation."""
    season = state.profile.shape[1]
    phase = (int(state.clock[b, 1]) - 1) % season
    following = (phase + 1) % season
    features = state.delayed[b, place, o]
    features[0] = state.deviations[b, phase, o]
    features[1] = state.previous[b, o]
    features[2] = state.deviations[b, following, o] if season > 2 and state.clock[b, 0] >= season else 0.0
    features[3] = state.values[b, phase, o]
    features[4] = state.means[b, 0, o]
    features[5] = state.means[b, 1, o]
    features[6] = network - _profile(state, b, o, 1)
    features[7] = 1.0


@jit_part
def _tempered(state: State, b: int, o: int, value: float) -> float:
    """The observation, or how far beyond the range it counts: also where the range has had no width yet."""
    low, high = float(state.range[b, 0, o]), float(state.range[b, 1, o])
    usual = OUTLIER * float(np.sqrt(max(state.sizes[b, 0, o], SMALLEST_SIZE)))
    margin = max(MARGIN * (high - low), usual)
    return min(max(value, low - margin), high + margin)


@jit_part
def _remember(setting: Setting, state: State, b: int, o: int, value: float) -> None:
    """Add an observation to the profile, the range and the means.

    One that is far outside of the range counts as its edge, and widens it: one spike does not ruin a profile,
    and a new level is reached within some steps.
    """
    season = state.profile.shape[1]
    phase, count = int(state.clock[b, 1]), state.clock[b, 0]
    if count == 0:
        state.range[b, 0, o] = state.range[b, 1, o] = value
    elif count >= SETTLED:
        value = _tempered(state, b, o, value)
    state.range[b, 0, o] = min(state.range[b, 0, o], value)
    state.range[b, 1, o] = max(state.range[b, 1, o], value)
    state.previous[b, o] = state.deviations[b, (phase - 1) % season, o] if count > 0 else 0.0
    if count < season:
        state.profile[b, phase, o] = value
        state.deviations[b, phase, o] = 0.0
    else:
        deviation = value - state.profile[b, phase, o]
        state.deviations[b, phase, o] = deviation
        state.profile[b, phase, o] += max(PROFILE_RATE, 1 / (count // season + 1)) * deviation
    state.values[b, phase, o] = value
    for i in range(2):
        mean = state.means[b, i, o]
        state.means[b, i, o] = mean + (value - mean) / min(count + 1, setting.windows[i])


@jit_part
def _regret(state: State, b: int, i: int, o: int, expert: int) -> float:
    """ML-Poly's weight of an expert, before all are divided by their sum."""
    positive = max(float(state.regrets[b, i, o, expert]) - SMALLEST_REGRET, 0.0)
    return positive / (1 + float(state.squares[b, i, o, expert]))


@jit_part
def _learn(setting: Setting, state: State, b: int, i: int, o: int, observed: float) -> None:
    """Correct what one horizon says of one output, now that its target is there."""
    at = setting.starts[i] + _cursor(setting, state, b, i)
    place = (int(state.clock[b, 2]) - setting.horizons[i]) % state.delayed.shape[1]
    said = state.pending[b, at, o]
    mean = max(float(state.sizes[b, i, o]), SMALLEST_SIZE)
    bound = OUTLIER * np.sqrt(mean)
    error = observed - said[PROFILE] - _deviation(state, b, i, o, place)
    error = min(max(error, -bound), bound)
    for k in range(FEATURES):
        state.readouts[b, i, o, k] += error * state.delayed[b, place, o, FEATURES + k]
    distance = abs(said[MIXTURE] - observed)
    miss = min(max(said[MIXTURE] - observed, -bound), bound)
    total = 0.0
    for expert in range(EXPERTS):
        regret = 2 * miss * (said[MIXTURE] - said[expert]) / mean
        regret = min(max(regret, -LARGEST_REGRET), LARGEST_REGRET)
        state.regrets[b, i, o, expert] = REGRET_FADING * state.regrets[b, i, o, expert] + regret
        state.squares[b, i, o, expert] = REGRET_FADING * state.squares[b, i, o, expert] + regret * regret
        total += _regret(state, b, i, o, expert)
    if total > 0:  # else the mixture was no worse than any of them: its weights stay
        for expert in range(EXPERTS):
            state.mixture[b, i, o, expert] = _regret(state, b, i, o, expert) / total
    bin_ = _bin(state, b, 1, setting.horizons[i])
    phase = float(state.phases[b, bin_, o])
    size, ratio = float(said[SIZE]), 0.0
    for level in range(len(setting.levels)):
        ratio = max(ratio, float(state.ratios[b, i, level, o]))
        missed = 1.0 if distance > ratio * size else 0.0
        allowed = 1 - setting.levels[level]
        moved = state.ratios[b, i, level, o] + setting.rate * (missed - allowed)
        state.ratios[b, i, level, o] = max(moved, -setting.rate * allowed)  # as in `intervals.track`
    relative = min(abs(miss) / np.sqrt(mean), max(LARGEST_RATIO * phase, 1.0))
    state.phases[b, bin_, o] += PHASE_RATE * (relative - phase)
    seen = state.clock[b, 0] - setting.horizons[i] + 2
    state.sizes[b, i, o] += (miss * miss - state.sizes[b, i, o]) / min(seen, SIZE_WINDOW)


@jit(SETTING, writable("float32", 2), readonly("float32", 2), readonly("float32", 2))
def observe(setting: Setting, rows: Floats, observed: Floats, filled: Floats) -> None:
    """Learn from one observation of each session, in place.

    Parameters
    ----------
    rows : [batch, numbers], each in one piece
    observed : [batch, outputs], scaled; NaN where nothing was observed
    filled : the same with a prediction in the place of each NaN
    """
    state = _state(rows, setting.parts)
    for b in range(len(observed)):
        if state.clock[b, 0] > 0:
            for i in range(len(setting.horizons)):
                if state.clock[b, 0] >= setting.horizons[i]:
                    for o in range(observed.shape[1]):
                        if not np.isnan(observed[b, o]):
                            _learn(setting, state, b, i, o, observed[b, o])
        for o in range(observed.shape[1]):
            _remember(setting, state, b, o, filled[b, o])
        state.clock[b, 0] = min(state.clock[b, 0] + 1, LARGEST_COUNT)
        state.clock[b, 1] = (state.clock[b, 1] + 1) % state.profile.shape[1]


@jit(SETTING, writable("float32", 2), readonly("float32", 2), writable("float32", 2))
def predict(setting: Setting, rows: Floats, network: Floats, mixed: Floats) -> None:
    """Predict what the sessions will observe at every horizon, and keep it to learn from, in place.

    Parameters
    ----------
    network : [batch, outputs], the network's prediction of the next observation
    mixed : [batch, outputs], filled in: the mixture's
    """
    state = _state(rows, setting.parts)
    count = len(setting.horizons)
    longest = state.delayed.shape[1]
    for b in range(len(network)):
        place = int(state.clock[b, 2])
        for o in range(network.shape[1]):
            _features(state, b, o, place, network[b, o])
            _gain(state, b, o, place)
            for i in range(count):
                at = setting.starts[i] + _cursor(setting, state, b, i)
                _ask(state, b, i, o, place, setting.horizons[i], at)
                if i == 0:
                    mixed[b, o] = state.pending[b, at, o, MIXTURE]
        state.clock[b, 2] = (place + 1) % longest
        for i in range(count - 1):
            state.clock[b, 3 + i] = (state.clock[b, 3 + i] + 1) % setting.horizons[i]


@jit(SETTING, writable("float32", 2), readonly("int64"), writable("float32", 3))
def forecast(setting: Setting, rows: Floats, first: Ints, values: Floats) -> None:
    """Fill in forecasts [batch, steps, outputs] from the steps `first` [batch] on; 1 is the next step."""
    state = _state(rows, setting.parts)
    horizons = setting.horizons
    longest = state.delayed.shape[1]
    for b in range(len(values)):
        place = (int(state.clock[b, 2]) - 1) % longest
        for step in range(values.shape[1]):
            horizon = first[b] + step
            i, share = _between(horizons, horizon)
            for o in range(values.shape[2]):
                deviation = _deviation(state, b, i, o, place)
                if share > 0:
                    deviation += share * (_deviation(state, b, i + 1, o, place) - deviation)
                total = 0.0
                for expert in range(EXPERTS):
                    weight = _weight(setting, state, b, i, o, expert)
                    if share > 0:
                        weight += share * (_weight(setting, state, b, i + 1, o, expert) - weight)
                    total += weight * _say(state, b, o, place, horizon, deviation, expert)
                values[b, step, o] = total


@jit(SETTING, writable("float32", 2), writable("float32", 4))
def half_widths(setting: Setting, rows: Floats, widths: Floats) -> None:
    """Fill in half-widths of intervals [batch, steps, levels, outputs] of the next steps."""
    state = _state(rows, setting.parts)
    horizons = setting.horizons
    last = len(horizons) - 1
    for b in range(len(widths)):
        for step in range(widths.shape[1]):
            horizon = 1 + step
            i, share = _between(horizons, horizon)
            beyond = np.sqrt(max(horizon / horizons[last], 1.0))
            for o in range(widths.shape[3]):
                phase = float(state.phases[b, _bin(state, b, horizon, horizon), o])
                for level in range(widths.shape[2]):
                    width = _width(state, b, i, level, o)
                    if share > 0:
                        width += share * (_width(state, b, i + 1, level, o) - width)
                    widths[b, step, level, o] = width * phase * beyond
