"""Texts of many sessions, written together: a token of each is drawn and fed back in, until its text ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from models.arrays import Floats, Ints, Numbers
from models.carry import CarryLayout
from models.generation.sampling import TokenSampler
from models.generation.stopping import StopWatch

Predict = Callable[[Floats, Numbers], Numbers]
"""Moves carries, [batch, carry_size], on by one observation each, in place, and returns the predictions."""


def write(
    predict: Predict,
    layout: CarryLayout,
    vocabulary: slice,
    input_type: np.dtype[np.floating],
    carries: Floats,
    positions: Ints,
    steps: Ints,
    sampler: TokenSampler,
    watches: Sequence[StopWatch],
    seconds: float = math.inf,
) -> tuple[list[list[int]], Floats]:
    """Draw tokens of many texts, one of each at a time, and feed each back in.

    Parameters
    ----------
    predict, layout : of the network and its carries
    vocabulary : the logits of the tokens among the outputs
    input_type : of the tokens that are fed back
    carries, positions, steps, sampler, watches, seconds : as in `Forecaster.write_text`

    Returns
    -------
    tokens : of each text
    carries : [batch, carry_size], each behind the last token of its text
    """
    tokens: list[list[int]] = [[] for _ in watches]
    rows, moved = carries.copy(), np.empty_like(carries)
    texts, steps = np.arange(len(rows)), steps.copy()
    positions = positions.copy()
    until = perf_counter() + seconds
    while len(texts):
        latest = layout.predictions(rows)
        drawn = sampler.draw(latest[:, vocabulary], positions)
        latest[:] = predict(rows, drawn[:, None].astype(input_type))
        positions += 1
        steps -= 1
        going = (steps > 0) & (perf_counter() < until)
        for place, (i, token) in enumerate(zip(texts.tolist(), drawn.tolist(), strict=True)):
            tokens[i].append(token)
            if watches[i].add(token):
                going[place] = False
        if not going.all():
            moved[texts[~going]] = rows[~going]
            texts, rows, positions, steps = texts[going], rows[going], positions[going], steps[going]
            sampler.keep(going)
    return tokens, moved
