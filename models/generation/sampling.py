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
        weights = np.exp(logits / self._temperatures[:, None])  # against the likeliest, which has 1
        for text in np.flatnonzero((self._top_k > 0) & (self._top_k < weights.shape[1])).tolist():
            _keep_likeliest(weights[text], int(self._top_k[text]))
        for text in np.flatnonzero(self._top_p < 1).tolist():
            _keep_nucleus(weights[text], float(self._top_p[text]))
        weights[weights < self._min_p[:, None]] = 0
        sums = weights.cumsum(axis=1, dtype=np.float64)
        targets = uniforms(self._seeds, positions) * sums[:, -1]
        tokens: Ints = np.where(self._greedy, logits.argmax(axis=1), (sums > targets[:, None]).argmax(axis=1))
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


def _keep_likeliest(weights: Floats, count: int) -> None:
    """Set all weights of a text but the largest ones to 0; of equal ones the first are kept."""
    bound = np.partition(weights, -count)[-count]
    larger, equal = weights > bound, np.flatnonzero(weights == bound)
    larger[equal[: count - np.count_nonzero(larger)]] = True
    weights[~larger] = 0


def _keep_nucleus(weights: Floats, share: float) -> None:
    """Set to 0 all weights of a text but the largest ones that make up this share of their sum."""
    total = weights.sum(dtype=np.float64)
    # A smaller weight is not among the largest ones: all that are as small would not fill what is left out.
    bound = (1 - share) * total / len(weights)
    candidates = np.flatnonzero(weights >= bound)
    order = candidates[np.argsort(-weights[candidates], kind="stable")]
    largest = weights[order]
    before = largest.cumsum(dtype=np.float64) - largest
    largest[before >= share * total] = 0
    weights[:] = 0
    weights[order] = largest
