"""A model of text without a network: n-grams of characters, smoothed as Kneser and Ney do, interpolated.

    p(w | h) = max(c(h w) - d, 0) / c(h) + d t(h) / c(h) p'(w | h')

c counts how often a sequence occurs in the text, t(h) the different pieces that follow the context h, and h'
is h without its oldest piece. In p', which mixes the shorter contexts in the same way, the number of
different pieces before a sequence takes the place of its count. Below the single pieces stands the uniform
distribution, so that no probability is 0. The discount d of each order follows from the sequences that occur
once and twice (Ney, Essen and Kneser, 1994; Chen and Goodman, 1999, sections 2.7 and 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.arrays import Doubles, Ints

MOST_ORDER = 8


def cross_entropies(seen: Ints, kept: Ints, vocabulary: int, most: int = MOST_ORDER) -> list[float]:
    """Mean cross-entropy, in nats a piece, of the kept text under the n-grams of the text before it.

    The counts are those of `seen` alone. The contexts of the first pieces of `kept` reach back into it.

    Parameters
    ----------
    seen, kept : [pieces], numbers from 0 to `vocabulary` - 1; `kept` follows `seen` in the text
    most : the highest order

    Returns
    -------
    A value for each order: 1 is the frequency of the pieces alone, 2 has a context of a piece, and so on.
    """
    text = np.concatenate([seen, kept]).astype(np.int64)
    shorter = np.full(len(kept), 1 / vocabulary)
    means = []
    orders = list(_orders(text, len(seen), vocabulary, most + 1))
    for order, longer in pairwise(orders):
        means.append(float(-np.log(_mix(order, order.counts, shorter)).mean()))
        shorter = _mix(order, longer.different_before(order), shorter)
    return means


@dataclass(frozen=True)
class _Order:
    """The sequences of a length that occur in the text, numbered.

    Attributes
    ----------
    counts : [sequences], in the text that is counted
    contexts : [sequences], the number of each one's context: the sequence without its last piece
    suffixes : [sequences], the number of each one without its first piece, among the sequences one shorter
    kept : [kept pieces], the sequence that ends at each of them
    """

    counts: Ints
    contexts: Ints
    suffixes: Ints
    kept: Ints

    def different_before(self, shorter: _Order) -> Ints:
        """[shorter sequences]: how many different pieces occur before each of them."""
        return np.bincount(self.suffixes[self.counts > 0], minlength=len(shorter.counts))


def _orders(text: Ints, split: int, vocabulary: int, most: int) -> Iterator[_Order]:
    """The sequences of 1 to `most` pieces; those that end before `split` are counted."""
    context_of = np.zeros(len(text), np.int64)  # the number of the sequence before each piece
    before = np.zeros(len(text), np.int64)  # the number of the sequence one shorter that ends at each piece
    for length in range(1, most + 1):
        first = min(length - 1, split)  # the pieces before it have no sequence of this length
        keys, places, numbers = np.unique(
            context_of[first:] * vocabulary + text[first:], return_index=True, return_inverse=True
        )
        counts = np.bincount(numbers[: split - first], minlength=len(keys))
        yield _Order(counts, keys // vocabulary, before[first:][places], numbers[split - first :])
        before = np.concatenate([np.zeros(first, np.int64), numbers])
        context_of = np.concatenate([[0], before[:-1]])


def _mix(order: _Order, counts: Ints, shorter: Doubles) -> Doubles:
    """[kept pieces]: the probability of each one, of discounted counts and of the shorter contexts."""
    of_context = np.bincount(order.contexts, weights=counts)
    followers = np.bincount(order.contexts, weights=counts > 0)
    discount = _discount(counts)
    context = order.contexts[order.kept]
    total = of_context[context]
    seen = total > 0
    total = np.where(seen, total, 1)
    own = np.maximum(counts[order.kept] - discount, 0) / total
    left = np.where(seen, discount * followers[context] / total, 1)
    mixed: Doubles = own + left * shorter
    return mixed


def _discount(counts: Ints) -> float:
    """What every count gives up for the shorter contexts."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    # Where no sequence is rare, half a count is given up: enough for what has not been seen.
    return once / (once + 2 * twice) if once and twice else 0.5
