"""Draws the next token of many texts at once from the logits of each.

The token at position p of a text is drawn with a number that is a hash of (seed, p), and with nothing else:
no generator has a state. So a text is the same however it is cut into pieces, whatever other texts are drawn
beside it, and wherever it is gone on with.

penalty -> temperature -> top-k -> top-p -> min-p -> draw, each of what the one before has left

Sources: Fan et al. (2018) for top-k; Holtzman et al. (2020) for top-p; Nguyen et al. (2024) for min-p;
Keskar et al. (2019) for the repetition penalty; Steele, Lea and Flood (2014) for the hash, SplitMix64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.arrays import Bools, Doubles, Floats, Ints, Seeds

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)
S11, S27, S30, S31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)
UNIT = 2.0**-53
BLOCK = 64  # weights
COLDEST = 1e-3  # below it the temperature is taken for 0: a logit divided by it may overflow


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the tokens of one text are drawn.

    Attributes
    ----------
    seed : 0 to 2**64 - 1
    temperature : divides the logits; 0 takes the likeliest token
    top_k : only so many of the likeliest tokens; 0 for all
    top_p : only the likeliest tokens that are as likely as this together; 1 for all
    min_p : only tokens that are at least this share as likely as the likeliest; 0 for all
    repetition_penalty : divides the positive logits of tokens that are in the text already, and multiplies
        the negative ones; 1 for none
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class TokenSampler:
    """Draws the tokens of a batch of texts, one of each at a time.

    Parameters
    ----------
    sampling : of each text
    vocabulary : how many tokens there are
    never : a token that is never drawn
    """

    def __init__(self, sampling: Sequence[Sampling], vocabulary: int, never: int | None = None) -> None:
        self._seeds = np.array([each.seed for each in sampling], np.uint64)
        self._temperatures = np.array([each.temperature for each in sampling], np.float32)
        self._top_k = np.array([each.top_k for each in sampling], np.int64)
        self._top_p = np.array([each.top_p for each in sampling], np.float64)
        self._min_p = np.array([each.min_p for each in sampling], np.float64)
        self._penalties = np.array([each.repetition_penalty for each in sampling], np.float32)
        self._never = never
        self._greedy = self._temperatures < COLDEST
        self._temperatures[self._greedy] = 1
        penalised = bool((self._penalties != 1).any())
        self._seen: Bools | None = np.zeros((len(sampling), vocabulary), np.bool_) if penalised else None

    def note(self, text: int, tokens: Ints) -> None:
        """Note tokens that this text of the batch has already, for its repetition penalty."""
        if self._seen is not None:
            self._seen[text, tokens] = True

    def draw(self, logits: Floats, positions: Ints) -> Ints:
        """The next token of each text.

        Parameters
        ----------
        logits : [batch, vocabulary]
        positions : [batch], of the tokens that are drawn

        Returns
        -------
        [batch]
        """
        logits = logits.astype(np.float32)
        if self._never is not None:
            logits[:, self._never] = -np.inf
        if self._seen is not None:
            penalty = self._penalties[:, None]
            harder = np.where(logits > 0, logits / penalty, logits * penalty)
            logits = np.where(self._seen, harder, logits)
        logits -= logits.max(axis=1, keepdims=True)
        logits /= self._temperatures[:, None]
        weights = np.exp(logits)  # against the likeliest, which has 1
        texts = np.flatnonzero((self._top_k > 0) | (self._top_p < 1))
        if len(texts):
            weights[texts] *= _likeliest(logits[texts], self._top_k[texts], self._top_p[texts])
        weights[weights < self._min_p[:, None]] = 0
        drawn = _choose(weights, uniforms(self._seeds, positions))
        tokens: Ints = np.where(self._greedy, logits.argmax(axis=1), drawn)
        if self._seen is not None:
            self._seen[np.arange(len(tokens)), tokens] = True
        return tokens

    def keep(self, texts: Bools) -> None:
        """Go on with these texts of the batch only."""
        for name in ("_seeds", "_temperatures", "_top_k", "_top_p", "_min_p", "_penalties", "_greedy"):
            setattr(self, name, getattr(self, name)[texts])
        if self._seen is not None:
            self._seen = self._seen[texts]


def uniforms(seeds: Seeds, positions: Ints) -> Doubles:
    """A number from 0 to 1, without 1, for every seed and position: the same whenever it is made."""
    count = (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN
    return (_mixed(_mixed(seeds + GOLDEN) + count) >> S11).astype(np.float64) * UNIT


def _mixed(bits: Seeds) -> Seeds:
    bits = (bits ^ (bits >> S30)) * FIRST
    bits = (bits ^ (bits >> S27)) * SECOND
    return bits ^ (bits >> S31)


def _choose(weights: Floats, numbers: Doubles) -> Ints:
    """[texts], the token at this share of the sum of each text's weights.

    The sum is added up block by block, and only in the block that has the token weight by weight.
    """
    texts, size = np.arange(len(weights)), weights.shape[1]
    padded = np.zeros((len(weights), size + -size % BLOCK), np.float32)
    padded[:, :size] = weights
    blocks = padded.reshape(len(weights), -1, BLOCK)
    sums = blocks.sum(axis=2, dtype=np.float64)
    ends = sums.cumsum(axis=1)
    targets = numbers * ends[:, -1]
    block = (ends > targets[:, None]).argmax(axis=1)
    weights = blocks[texts, block]
    within = (targets - ends[texts, block] + sums[texts, block])[:, None]
    passed = weights.cumsum(axis=1, dtype=np.float64) > within
    # Rounded otherwise than the sum of the block, the sum of its weights may stay below: it is the last then.
    passed[texts, BLOCK - 1 - (weights > 0)[:, ::-1].argmax(axis=1)] = True
    tokens: Ints = np.minimum(block * BLOCK + passed.argmax(axis=1), size - 1)  # of NaN, too
    return tokens


def _likeliest(logits: Floats, top_k: Ints, top_p: Doubles) -> Bools:
    """[texts, vocabulary], which tokens top-k and top-p leave; of equally likely ones the first are left.

    Parameters
    ----------
    logits : [texts, vocabulary], divided by the temperature; the largest of each text is 0
    top_k, top_p : [texts]
    """
    size = logits.shape[1]
    weights = np.exp(logits)
    totals = weights.sum(axis=1, dtype=np.float64)
    # A smaller weight is not in the nucleus: all that are as small would not fill what it leaves out.
    bounds = (1 - top_p) * totals / size
    in_reach = np.maximum(np.count_nonzero(weights >= bounds[:, None], axis=1), 1)
    limited = (top_k > 0) & (top_k < size)
    counts = np.where(limited, top_k, in_reach)
    start = size - int(counts.max())
    # Of logits and not of weights, many of which may be 0: among equal numbers this is slow.
    largest = np.partition(logits, start, axis=1)[:, start:]
    largest.sort(axis=1)
    largest = largest[:, ::-1]
    sorted_ = np.exp(largest) * (np.arange(largest.shape[1]) < counts[:, None])
    totals = np.where(limited, sorted_.sum(axis=1, dtype=np.float64), totals)
    before = sorted_.cumsum(axis=1, dtype=np.float64) - sorted_
    nucleus = np.maximum(np.count_nonzero(before < (top_p * totals)[:, None], axis=1), 1)
    counts = np.where(top_p < 1, np.minimum(nucleus, counts), counts)
    last = np.take_along_axis(largest, counts[:, None] - 1, axis=1)
    kept: Bools = logits > last
    equal = logits == last
    missing = (counts - np.count_nonzero(kept, axis=1))[:, None]
    if (np.count_nonzero(equal, axis=1) > missing[:, 0]).any():
        equal &= equal.cumsum(axis=1) <= missing
    kept |= equal
    return kept
