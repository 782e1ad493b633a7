"""The compiled loop of `models/adaptation/alarms.py`, which says what it computes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.arrays import Bytes, Doubles, Floats, Ints
from models.jit import contiguous, jit, jit_part, readonly

VALUE, SHIFT, TREND, LEVEL, KINDS = range(5)  # statistics; SHIFT and LEVEL are both of a level shift
DAY, COURSE = KINDS, KINDS + 1  # two more, which are only parts of the scores; COURSE has no tail
# A session's state: COUNT observations so far; LOG_RATE, how far the rate of alarms is corrected; CALM, the
# observations without a crossing since the last one, -1 where no alarm is raised; PHASE, the place in the day
# of the next observation; EVIDENCE, HELD and NOVELTY, what the scores so far leave behind. Then the tail of
# each statistic, then what is kept of each output.
COUNT, LOG_RATE, CALM, PHASE, EVIDENCE, HELD, NOVELTY, TAILS = range(8)
START, RATE, MEAN, SQUARE, PEAK, GAP, PEAKS, TAIL_SIZE = range(8)
CENTER, VARIANCE, BAND, RECENT, SUMS, SINCE = 0, 1, 2, 3, 4, 8
LAST, SHORT, LONG, SPREAD, FROM_DAY = range(12, 17)
# By the part of the day, the mean of the values, their variance, and how many there were.
PARTS = 24
MEANS, VARIANCES, COUNTS, SEEN = range(17, 18 + 3 * PARTS, PARTS)
# Of the course of the values: how many were SEEN, the USUAL distance, the last values as a ring, and means of
# blocks of earlier ones, of which each KEPT course is a row.
RING, BLOCK, BLOCKS, KEPT = 48, 12, 4, 16
USUAL, VALUES, COURSES = SEEN + 1, SEEN + 2, SEEN + 2 + RING
OUTPUT_SIZE = COURSES + KEPT * BLOCKS
OUTPUTS = TAILS + (KINDS + 1) * TAIL_SIZE
# What is reported of an alarm.
KIND, OUTPUT, SIGN, SIZE, BEYOND, STEPS, EXPECTED, DETAILS = range(8)
NOTHING, RAISED, CLEARED = range(3)

WARM_UP = 100  # observations before the first alarm
SCALED = 20  # observations, after which the size of the errors is taken to be known
CENTER_WINDOW, SCALE_WINDOW = 2000.0, 500.0
CAP = 4.0  # standard deviations, at most, that an error adds to its own scale
LARGEST = 1e6
RECENT_SHARE, RECENT_WEIGHT, RECENT_CAP = 0.1, 3.0, 10.0  # of the last errors in the value's statistic
FLOOR = 1e-4  # added to a standard deviation, scaled
TAIL_SHARE = 0.02  # of the observations that are in the tail
TAIL_STEP = 0.05
RATE_WINDOW, FIRST_RATE_WEIGHT = 5000.0, 500.0
PEAK_WINDOW, FIRST_PEAKS = 200.0, 15.0
LIGHTEST, HEAVIEST = -0.2, 0.4  # shapes of a tail
LEVEL_SHARE, LEVEL_WINDOW, LEVEL_CAP = 0.05, 1000.0, 4.0
RUN = 24  # observations below the start of the tail that end a cluster
BUDGET_GAIN = 0.25
LARGEST_CORRECTION = 2.0
SHIFT_CLIP, SHIFT_SLACK = 3.0, 0.5
TREND_CLIP, TREND_SLACK = 1.0, 0.15
DAY_WINDOW, DAY_SHARE, DAY_CAP, DAY_RATE = 20.0, 1 / 3, 10.0, 1e-3
DAY_BOUND, DAY_SLACK = 3.0, 0.6  # deviations of that part of the day, and of all, that a value counts for
EVIDENCE_SHARE, HOLD, HELD_WEIGHT = 0.1, 0.975, 0.5
EVIDENCE_BEND = 5.0  # beyond it the score grows with the logarithm of the evidence only
FEWEST_KEPT, FIRST_DISTANCES, DISTANCE_WINDOW, DISTANCE_CAP = 8, 50, 2000.0, 5.0
NOVELTY_SHARE, NOVELTY_CAP, NOVELTY_WEIGHT = 0.02, 20.0, 2.0
BOUND = 1.5  # times its threshold, at most, is a sum


class Found(NamedTuple):
    """The statistics of one observation, each [kinds and two more].

    outputs : which output has it; of errors below 0, -1 less that
    course : [BLOCKS], means of blocks of the last values of an output
    """

    sizes: Doubles
    outputs: Doubles
    thresholds: Doubles
    course: Doubles


@jit_part
def _threshold(state: Doubles, kind: int, rate: float) -> float:
    """What a statistic exceeds in so many clusters an observation."""
    tail = TAILS + kind * TAIL_SIZE
    ratio = state[tail + RATE] / rate
    if ratio <= 1.0:
        return float(state[tail + START])
    mean, square = state[tail + MEAN], state[tail + SQUARE]
    part = mean * mean / max(square - mean * mean, 1e-9)
    shape = min(max(0.5 * (1 - part), LIGHTEST), HEAVIEST)
    scale = mean * (1 - shape)
    if abs(shape) < 1e-3:
        return float(state[tail + START] + scale * np.log(ratio))
    return float(state[tail + START] + scale * (ratio**shape - 1) / shape)


@jit_part
def _expected(state: Doubles, kind: int, size: float) -> float:
    """Clusters an observation in which a statistic is at least as large; above their rate below the tail."""
    tail = TAILS + kind * TAIL_SIZE
    start, rate = state[tail + START], state[tail + RATE]
    if size <= start:
        return float(rate + (1 - rate) * (1 - size / start))
    mean, square = state[tail + MEAN], state[tail + SQUARE]
    part = mean * mean / max(square - mean * mean, 1e-9)
    shape = min(max(0.5 * (1 - part), LIGHTEST), HEAVIEST)
    distance = (size - start) / (mean * (1 - shape))
    if abs(shape) < 1e-3:
        return float(rate * np.exp(-distance))
    # A light tail ends; beyond its end the probability goes on falling, so that sizes can be compared.
    base = max(1 + shape * distance, 1e-3 / (1 + distance))
    return float(rate * base ** (-1 / shape))


@jit_part
def _learn_tail(state: Doubles, kind: int, size: float, threshold: float) -> None:
    """Add one observation to the tail of a kind."""
    tail = TAILS + kind * TAIL_SIZE
    count = state[COUNT]
    begins = 0.0
    inside = size > state[tail + START]
    if inside:
        if state[tail + GAP] >= RUN:
            begins, state[tail + PEAK] = 1.0, 0.0
        excess = min(size, threshold + state[tail + MEAN]) - state[tail + START]
        state[tail + PEAK] = max(state[tail + PEAK], excess)
        state[tail + GAP] = 0
    else:
        state[tail + GAP] += 1
        if state[tail + GAP] == RUN:
            state[tail + PEAKS] += 1
            weight = 1 / min(state[tail + PEAKS] + FIRST_PEAKS, PEAK_WINDOW)
            peak = state[tail + PEAK]
            state[tail + MEAN] += weight * (peak - state[tail + MEAN])
            state[tail + SQUARE] += weight * (peak * peak - state[tail + SQUARE])
    state[tail + RATE] += (begins - state[tail + RATE]) / min(count + FIRST_RATE_WEIGHT, RATE_WINDOW)
    step = max(TAIL_STEP, 10 / (count + 10))
    moved = state[tail + START] + step * state[tail + MEAN] * ((1.0 if inside else 0.0) - TAIL_SHARE)
    state[tail + START] = max(moved, 1e-3)


@jit_part
def _standardize(state: Doubles, output: int, error: float) -> float:
    """The error in standard deviations from its usual mean. Both then learn from it."""
    place = OUTPUTS + output * OUTPUT_SIZE
    count = state[place + SEEN]  # of this output: another one may have been observed for long
    deviation = np.sqrt(state[place + VARIANCE]) + FLOOR
    apart = error - state[place + CENTER]
    bounded = min(max(apart, -CAP * deviation), CAP * deviation)
    state[place + CENTER] += bounded / min(count + 50, CENTER_WINDOW)
    variance = state[place + VARIANCE]
    window = min(count + 2, SCALE_WINDOW)
    square = bounded * bounded if count >= SCALED else min(apart * apart, LARGEST)
    state[place + VARIANCE] = variance + (square - variance) / window
    return float(min(max(apart / deviation, -LARGEST), LARGEST))


@jit_part
def _recent(state: Doubles, output: int, z: float) -> float:
    """The root of the mean square of the last ten errors or so, with this one."""
    place = OUTPUTS + output * OUTPUT_SIZE + RECENT
    bounded = min(abs(z), RECENT_CAP)
    state[place] += RECENT_SHARE * (bounded * bounded - state[place])
    return float(np.sqrt(state[place]))


@jit_part
def _add(state: Doubles, place: int, step: float, bound: float) -> float:
    """Move a one-sided cumulative sum on."""
    total = min(max(state[place] + step, 0.0), bound)
    state[place + SINCE - SUMS] = state[place + SINCE - SUMS] + 1 if total > 0 else 0.0
    state[place] = total
    return float(total)


@jit_part
def _describe(
    state: Doubles, kind: int, signed: float, errors: Floats, expected: float, detail: Doubles
) -> None:
    """Write what is reported of an alarm."""
    output = int(signed) if signed >= 0 else int(-signed) - 1
    place = OUTPUTS + output * OUTPUT_SIZE
    deviation = np.sqrt(state[place + VARIANCE]) + FLOOR
    detail[KIND], detail[OUTPUT], detail[SIGN] = kind, output, 1.0 if signed >= 0 else -1.0
    detail[EXPECTED] = expected
    if kind == LEVEL:
        apart = abs(state[place + SHORT] - state[place + LONG])
        detail[SIZE], detail[STEPS] = apart / (np.sqrt(state[place + SPREAD]) + FLOOR), round(1 / LEVEL_SHARE)
        return
    if kind == VALUE:
        error, recent = abs(errors[output]), np.sqrt(state[place + RECENT])
        detail[SIZE], detail[STEPS] = error / deviation, 1
        detail[BEYOND] = (error - state[place + BAND]) / deviation
        if recent > detail[SIZE]:  # it is the errors before this one
            detail[SIZE], detail[STEPS], detail[BEYOND] = recent, round(1 / RECENT_SHARE), 0
        return
    i = 2 * (kind - SHIFT) + (0 if signed >= 0 else 1)
    slack = SHIFT_SLACK if kind == SHIFT else TREND_SLACK
    steps = max(state[place + SINCE + i], 1.0)
    detail[STEPS] = steps
    detail[SIZE] = state[place + SUMS + i] / steps + slack
    detail[BEYOND] = detail[SIZE] - state[place + BAND] / deviation


@jit_part
def _sums(state: Doubles, output: int, z: float, found: Found) -> None:
    """Move the cumulative sums of an output on, and keep the largest of each kind."""
    place = OUTPUTS + output * OUTPUT_SIZE
    for i in range(4):
        kind = SHIFT + i // 2
        clip = SHIFT_CLIP if kind == SHIFT else TREND_CLIP
        slack = SHIFT_SLACK if kind == SHIFT else TREND_SLACK
        step = min(max(z if i % 2 == 0 else -z, -clip), clip) - slack
        total = _add(state, place + SUMS + i, step, BOUND * found.thresholds[kind])
        if total > found.sizes[kind]:
            found.sizes[kind] = total
            found.outputs[kind] = output if i % 2 == 0 else -output - 1


@jit_part
def _level(state: Doubles, output: int, change: float) -> float:
    """How far the mean of the last twenty values or so is from that of the last thousand, in deviations."""
    place = OUTPUTS + output * OUTPUT_SIZE
    state[place + LAST] += change
    value, count = state[place + LAST], state[place + SEEN]
    state[place + SHORT] += (value - state[place + SHORT]) * max(LEVEL_SHARE, 1 / (count + 1))
    deviation = np.sqrt(state[place + SPREAD]) + FLOOR
    apart = value - state[place + LONG]
    bounded = min(max(apart, -LEVEL_CAP * deviation), LEVEL_CAP * deviation) if count >= SCALED else apart
    distance = (state[place + SHORT] - state[place + LONG]) / deviation
    window = min(count + 1, LEVEL_WINDOW)
    state[place + LONG] += bounded / window
    state[place + SPREAD] += (bounded * bounded - state[place + SPREAD]) / min(count + 2, LEVEL_WINDOW)
    return float(min(max(distance, -LARGEST), LARGEST))


@jit_part
def _day(state: Doubles, output: int, period: int) -> float:
    """How far the last three values or so are from those at the same time of other days, in deviations.

    `period`: observations in a day
    """
    place = OUTPUTS + output * OUTPUT_SIZE
    part = place + int(state[PHASE]) % period * PARTS // period
    value, usual = state[place + LAST], np.sqrt(state[place + SPREAD]) + FLOOR
    count, variance = state[part + COUNTS], state[part + VARIANCES]
    apart, deviation = value - state[part + MEANS], np.sqrt(variance)
    distance = apart / (0.5 * (deviation + usual)) if count > 0 else 0.0
    distance = min(max(distance, -DAY_CAP), DAY_CAP)
    state[place + FROM_DAY] += DAY_SHARE * (distance - state[place + FROM_DAY])
    if count >= 1 / DAY_SHARE:
        bound = DAY_BOUND * deviation + DAY_SLACK * usual
        apart = min(max(apart, -bound), bound)
    weight = 1 / min(count + 1, DAY_WINDOW)
    state[part + MEANS] += weight * apart
    state[part + VARIANCES] += weight * (apart * apart - variance) if count > 0 else usual * usual
    state[part + COUNTS] += 1
    return float(abs(state[place + FROM_DAY]))


@jit_part
def _course(state: Doubles, output: int, course: Doubles) -> float:
    """How far the course of the last values is from the second nearest one kept, in usual distances.

    A course is the last `RING` values as means of blocks. One in twelve is kept, in place of any other.
    """
    place = OUTPUTS + output * OUTPUT_SIZE
    ring, courses, seen = place + VALUES, place + COURSES, int(state[place + SEEN])
    state[ring + seen % RING] = state[place + LAST]
    state[place + SEEN] += 1
    if seen < RING:
        return 0.0
    for block in range(BLOCKS):
        course[block] = _block(state, ring, seen, block)
    kept = (seen - RING + BLOCK - 1) // BLOCK  # so far
    nearest = second = LARGEST * LARGEST
    for row in range(min(kept, KEPT)):
        square = 0.0
        for block in range(BLOCKS):
            apart = course[block] - state[courses + row * BLOCKS + block]
            square += apart * apart
        second = min(second, max(square, nearest))
        nearest = min(nearest, square)
    novelty = 0.0
    if kept >= FEWEST_KEPT:
        distance = np.sqrt(second / BLOCKS) / (np.sqrt(state[place + SPREAD]) + FLOOR)
        novelty = _relative(state, place + USUAL, distance, seen - RING - (FEWEST_KEPT - 1) * BLOCK)
    if (seen - RING) % BLOCK == 0:
        row = kept if kept < KEPT else _mixed(kept) % KEPT
        for block in range(BLOCKS):
            state[courses + row * BLOCKS + block] = course[block]
    return float(novelty)


@jit_part
def _block(state: Doubles, ring: int, seen: int, block: int) -> float:
    """The mean of a block of the last values, the latest block first."""
    total = 0.0
    for age in range(block * BLOCK, (block + 1) * BLOCK):
        total += state[ring + (seen - age) % RING]
    return total / BLOCK


@jit_part
def _relative(state: Doubles, usual: int, distance: float, count: int) -> float:
    """A distance in units of the usual one, which learns from it; 0 for the first ones."""
    found = min(distance / (state[usual] + FLOOR), NOVELTY_CAP) if count > FIRST_DISTANCES else 0.0
    bounded = min(distance, DISTANCE_CAP * state[usual]) if count > SCALED else distance
    state[usual] += (bounded - state[usual]) / min(count, DISTANCE_WINDOW)
    return float(found)


@jit_part
def _mixed(number: int) -> int:
    """A whole number from 0 that looks random, and is the same however a stream is cut."""
    mixed = (number * 2654435761) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 15)) * 73244475) & 0xFFFFFFFF
    return mixed ^ (mixed >> 16)


@jit_part
def _observe(state: Doubles, errors: Floats, moves: Floats, t: int, period: int, found: Found) -> bool:
    """Compute the statistics of an observation. Returns whether anything was observed."""
    seen = False
    for kind in range(KINDS + 2):
        found.sizes[kind], found.outputs[kind] = 0.0, 0.0
    for output in range(errors.shape[1]):
        error = float(errors[t, output])
        if np.isnan(error):
            continue
        seen = True
        z = _standardize(state, output, error)
        level = _level(state, output, moves[t, output])
        found.sizes[DAY] = max(found.sizes[DAY], _day(state, output, period))
        found.sizes[COURSE] = max(found.sizes[COURSE], _course(state, output, found.course))
        if state[OUTPUTS + output * OUTPUT_SIZE + SEEN] <= SCALED:  # this observation included
            continue
        size = abs(z) + RECENT_WEIGHT * _recent(state, output, z)
        if size > found.sizes[VALUE]:
            found.sizes[VALUE], found.outputs[VALUE] = size, output if z > 0 else -output - 1
        _sums(state, output, z, found)
        if abs(level) > found.sizes[LEVEL]:
            found.sizes[LEVEL], found.outputs[LEVEL] = abs(level), output if level > 0 else -output - 1
    return seen


@jit_part
def _judge(state: Doubles, rates: Doubles, b: int, found: Found) -> tuple[int, float, float]:
    """Compare the statistics with their thresholds, and learn their tails.

    Returns the rarest kind of those beyond their thresholds, -1 if none is, the rate of the rarest of all,
    and the evidence of all: minus log10 of their rates together.
    """
    raising, least, rarest = -1, 1.0, 1.0
    evidence, shift = 0.0, 0.0
    for kind in range(KINDS):
        size, threshold = found.sizes[kind], found.thresholds[kind]
        if rates[b, kind] > 0:
            expected = _expected(state, kind, size)
            rarest = min(rarest, expected)
            bits = -np.log10(max(expected, 1e-300))
            if kind in (SHIFT, LEVEL):  # two statistics of one thing count once
                shift = max(shift, bits)
            else:
                evidence += bits
            if size > threshold and (raising < 0 or expected < least):
                raising, least = kind, expected
        _learn_tail(state, kind, size, threshold)
    evidence += shift - np.log10(max(_expected(state, DAY, found.sizes[DAY]), 1e-300))
    _learn_tail(state, DAY, found.sizes[DAY], found.thresholds[DAY])
    return raising, rarest, evidence


@jit_part
def _score(state: Doubles, evidence: float, novelty: float) -> float:
    """The evidence of the last ten observations or so, and half of the largest one, which fades in forty.

    Much evidence counts little more than less: a tail of few peaks cannot say how rare it is. To it is added
    how new the course of the values is, over the last fifty or so.
    """
    state[EVIDENCE] += EVIDENCE_SHARE * (evidence - state[EVIDENCE])
    state[HELD] = max(HOLD * state[HELD], evidence)
    state[NOVELTY] += NOVELTY_SHARE * (novelty - state[NOVELTY])
    total = max(state[EVIDENCE] + HELD_WEIGHT * state[HELD], 0.0)
    return float(EVIDENCE_BEND * np.log1p(total / EVIDENCE_BEND) + NOVELTY_WEIGHT * state[NOVELTY])


@jit_part
def _change(state: Doubles, crossed: bool, refractory: int, rate: float) -> int:
    """Raise or clear the alarm, and correct the rate."""
    state[LOG_RATE] = min(state[LOG_RATE] + BUDGET_GAIN * rate, LARGEST_CORRECTION)
    if crossed:
        raised = state[CALM] < 0
        state[CALM] = 0
        if not raised:
            return NOTHING
        state[LOG_RATE] = max(state[LOG_RATE] - BUDGET_GAIN, -LARGEST_CORRECTION)
        return RAISED
    if state[CALM] < 0:
        return NOTHING
    state[CALM] += 1
    if state[CALM] < refractory:
        return NOTHING
    state[CALM] = -1
    return CLEARED


@jit(
    contiguous("float64", 2), readonly("int64"), readonly("float32", 2), readonly("float32", 2),
    readonly("float32", 2), readonly("float64", 2), readonly("int64"), readonly("int64"),
    contiguous("float64"), contiguous("uint8"), contiguous("float64", 2),
)  # fmt: skip
def follow(
    states: Doubles,
    lengths: Ints,
    errors: Floats,
    moves: Floats,
    bands: Floats,
    rates: Doubles,
    refractory: Ints,
    periods: Ints,
    scores: Doubles,
    changes: Bytes,
    details: Doubles,
) -> None:
    """Move the detectors of many sessions on; see `Alarms.follow`.

    Parameters
    ----------
    errors, moves : [total, outputs], scaled; observed minus predicted, and minus what was observed before
    bands : [total, outputs], scaled; half-widths of the intervals of what follows each observation
    details : [total, DETAILS], filled in where an alarm is raised
    """
    found = Found(np.zeros(KINDS + 2), np.zeros(KINDS + 2), np.zeros(KINDS + 2), np.zeros(BLOCKS))
    t = 0
    for b in range(len(lengths)):
        state = states[b]
        for _ in range(lengths[b]):
            for kind in range(KINDS):
                # A kind that is not in the rule keeps its tail as if it were.
                rate = rates[b, kind] if rates[b, kind] > 0 else rates[b].max()
                found.thresholds[kind] = _threshold(state, kind, rate * np.exp(state[LOG_RATE]))
            found.thresholds[DAY] = _threshold(state, DAY, DAY_RATE)
            seen = _observe(state, errors, moves, t, periods[b], found)
            if seen and state[COUNT] >= SCALED:
                kind, rarest, evidence = _judge(state, rates, b, found)
                scores[t] = _score(state, evidence, found.sizes[COURSE])
                if state[COUNT] >= WARM_UP:
                    changes[t] = _change(state, kind >= 0, refractory[b], rates[b].sum())
                    if changes[t] == RAISED:
                        _describe(state, kind, found.outputs[kind], errors[t], rarest, details[t])
            state[COUNT] += seen
            state[PHASE] = (state[PHASE] + 1) % periods[b]
            for output in range(errors.shape[1]):
                state[OUTPUTS + output * OUTPUT_SIZE + BAND] = bands[t, output]
            t += 1
