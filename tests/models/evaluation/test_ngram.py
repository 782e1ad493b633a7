"""The n-grams are those of the formula, computed here piece by piece, and no text is impossible."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from models.evaluation.ngram import cross_entropies


def by_the_formula(seen: list[int], context: list[int], piece: int, vocabulary: int, order: int) -> float:
    """Interpolated Kneser-Ney, with dictionaries."""

    def counts(length: int) -> Counter:
        if length == order:
            return Counter(tuple(seen[i : i + length]) for i in range(len(seen) - length + 1))
        longer = {tuple(seen[i : i + length + 1]) for i in range(len(seen) - length)}
        return Counter(sequence[1:] for sequence in longer)

    probability = 1 / vocabulary
    for length in range(1, order + 1):
        of = counts(length)
        once, twice = (sum(count == rare for count in of.values()) for rare in (1, 2))
        discount = once / (once + 2 * twice) if once and twice else 0.5
        follow: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for sequence, count in of.items():
            follow[sequence[:-1]][sequence[-1]] = count
        history = tuple(context[len(context) - length + 1 :])
        after = follow.get(history, {})
        if total := sum(after.values()):
            own = max(after.get(piece, 0) - discount, 0)
            probability = (own + discount * len(after) * probability) / total
    return probability


@pytest.fixture(scope="module")
def text() -> list[int]:
    rng = np.random.default_rng(0)
    pieces = [0, 1]
    for _ in range(400):  # what follows depends on the last two
        pieces.append(int((pieces[-1] + 2 * pieces[-2] + (rng.random() < 0.3) * rng.integers(5)) % 5))
    return pieces


def test_every_order_is_what_the_formula_says(text):
    seen, kept = text[:360], text[360:]
    expected = []
    for order in range(1, 5):
        logs = [
            np.log(by_the_formula(seen, text[: 360 + at], piece, 6, order)) for at, piece in enumerate(kept)
        ]
        expected.append(-np.mean(logs))
    got = cross_entropies(np.array(seen), np.array(kept), 6, most=4)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_probabilities_of_all_pieces_sum_to_1_also_of_one_that_never_occurred(text, order):
    seen = np.array(text)
    each = [np.exp(-cross_entropies(seen, np.array([piece]), 7, order)[-1]) for piece in range(7)]
    assert min(each) > 0
    assert sum(each) == pytest.approx(1)


def test_contexts_help_where_the_text_has_them(text):
    orders = cross_entropies(np.array(text[:360]), np.array(text[360:]), 5, most=3)
    assert orders[2] < orders[1] < orders[0]


def test_a_text_of_one_piece_and_one_shorter_than_the_order_have_finite_values():
    same = np.zeros(50, np.int64)
    assert np.isfinite(cross_entropies(same, same[:5], 3)).all()
    assert np.isfinite(cross_entropies(np.array([0, 1]), np.array([1, 0, 2]), 3)).all()
