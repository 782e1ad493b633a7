"""Tokens are drawn as the options say, and depend on nothing but the logits, the seed and the position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.arrays import Floats, Ints
from models.forecaster import CannotForecast, Forecaster
from models.generation.sampling import Sampling, TokenSampler
from models.generation.stopping import Stop, StopWatch
from models.generation.vocabulary import Vocabulary
from tests.helpers.text import text_model
from tests.helpers.zoo import artifacts

LOGITS = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.05], np.float32))
DRAWS = 10_000


def drawn(sampling: Sampling, logits: Floats = LOGITS, count: int = DRAWS) -> Ints:
    """The tokens at so many positions, all of these logits."""
    sampler = TokenSampler([sampling] * count, len(logits))
    return sampler.draw(np.repeat(logits[None], count, axis=0), np.arange(count))


def shares(tokens: Ints) -> Floats:
    return np.bincount(tokens, minlength=5) / len(tokens)


def test_tokens_are_as_frequent_as_they_are_likely() -> None:
    np.testing.assert_allclose(shares(drawn(Sampling(seed=1))), np.exp(LOGITS), atol=0.02)
    halved = np.exp(LOGITS / 2) / np.exp(LOGITS / 2).sum()
    np.testing.assert_allclose(shares(drawn(Sampling(seed=2, temperature=2))), halved, atol=0.02)


@pytest.mark.parametrize(
    ("sampling", "left"),
    [
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_k=99), [0, 1, 2, 3, 4]),
        (Sampling(top_p=0.69), [0, 1]),
        (Sampling(top_p=0.71), [0, 1, 2]),
        (Sampling(top_p=1e-9), [0]),
        (Sampling(min_p=0.3), [0, 1, 2]),
        (Sampling(top_k=3, top_p=0.8), [0, 1]),
        (Sampling(temperature=0), [0]),
    ],
)
def test_only_likely_tokens_are_left(sampling: Sampling, left: list[int]) -> None:
    found = shares(drawn(sampling))
    assert np.flatnonzero(found).tolist() == left
    likely = np.exp(LOGITS[left])
    np.testing.assert_allclose(found[left], likely / likely.sum(), atol=0.02)


def test_of_equal_tokens_top_k_keeps_the_first() -> None:
    logits = np.array([0, 3, 1, 1, 1], np.float32)
    assert np.unique(drawn(Sampling(top_k=3), logits)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("top_k", [0, 100, 5000])
def test_a_top_k_that_leaves_all_tokens_does_not_move_the_nucleus(top_k: int) -> None:
    logits = np.log(np.array([1, 0.9, 0.4] + 97 * [0.004], np.float32))
    assert np.unique(drawn(Sampling(top_k=top_k, top_p=0.8), logits)).tolist() == [0, 1, 2]


def test_a_nucleus_is_the_same_as_by_sorting_everything() -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        logits = rng.normal(0, 3, 50).astype(np.float32)
        share = rng.uniform(0.05, 0.999)
        order = np.argsort(-logits)
        likely = np.exp(logits[order].astype(float))
        before = np.cumsum(likely) - likely
        kept = order[before < share * likely.sum()]
        tokens = drawn(Sampling(seed=5, temperature=1, top_p=share), logits, 100)
        assert set(tokens.tolist()) <= set(kept.tolist())
        only = np.full(50, -np.inf, np.float32)
        only[kept] = logits[kept]
        assert tokens.tolist() == drawn(Sampling(seed=5), only, 100).tolist()


def test_repeated_tokens_become_less_likely() -> None:
    logits = np.array([[2.0, 1.5, -1.0, -1.5, 0]], np.float32)
    sampler = TokenSampler([Sampling(temperature=0, repetition_penalty=2.0)], 5)
    sampler.note(0, np.array([2]))
    tokens = [int(sampler.draw(logits, np.array([i]))[0]) for i in range(3)]
    assert tokens == [0, 1, 0], (
        "2 becomes 1, then 1.5 becomes 0.75; the 0 of a token that was never drawn stays"
    )


def test_the_unknown_piece_is_never_drawn() -> None:
    sampler = TokenSampler([Sampling(seed=3)] * 100, 5, never=0)
    tokens = sampler.draw(np.repeat(LOGITS[None], 100, axis=0), np.arange(100))
    assert 0 not in tokens
    greedy = TokenSampler([Sampling(temperature=0)], 5, never=0)
    assert greedy.draw(LOGITS[None], np.zeros(1, np.int64)).tolist() == [1]


def test_another_seed_and_another_position_are_another_draw() -> None:
    assert shares(drawn(Sampling(seed=1)) == drawn(Sampling(seed=2)))[1] < 0.4
    one = drawn(Sampling(seed=2**64 - 1))
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


def test_a_large_vocabulary_is_drawn_from_as_a_small_one() -> None:
    logits = np.full(1000, -np.inf, np.float32)
    places = np.array([3, 63, 64, 500, 999])
    logits[places] = LOGITS
    assert (
        drawn(Sampling(seed=1), logits, 2000).tolist() == places[drawn(Sampling(seed=1), count=2000)].tolist()
    )


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_that_are_no_numbers_do_no_harm(wrong: float) -> None:
    sampler = TokenSampler([Sampling(top_k=2, top_p=0.5, min_p=0.1)], 5)
    with np.errstate(invalid="ignore"):
        token = sampler.draw(np.full((1, 5), wrong, np.float32), np.zeros(1, np.int64))
    assert 0 <= token[0] < 5


def test_a_text_stops_at_a_token_and_across_tokens() -> None:
    vocabulary = Vocabulary(["a", "b", "ba", "\n"])
    watch = StopWatch(Stop(texts=("aba",)), vocabulary)
    assert [watch.add(token) for token in (1, 0, 1, 0)] == [False, False, False, True]
    assert StopWatch(Stop(texts=("aba",)), vocabulary, [0]).add(2)
    assert StopWatch(Stop(tokens=(3,)), vocabulary, [0, 3]).stopped
    assert not StopWatch(Stop(texts=("\n",)), vocabulary, [0, 1, 2]).stopped


# --- with a network


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(text_model(), tail=3)


def write(
    forecaster: Forecaster, texts: Sequence[int], steps: Sequence[int], seed: int = 4
) -> tuple[list[list[int]], Floats]:
    """Tokens behind the prompts of these numbers, each of which is two tokens long."""
    prompts = np.array([[text % 29, text // 29] for text in texts], np.float32)
    carries = np.repeat(forecaster.new_carry[None], len(texts), axis=0)
    _, carries = forecaster.advance(prompts.reshape(-1, 1), np.full(len(texts), 2), carries)
    return write_on(forecaster, carries, np.full(len(texts), 2), steps, seed)


def write_on(
    forecaster: Forecaster, carries: Floats, positions: Ints, steps: Sequence[int], seed: int = 4
) -> tuple[list[list[int]], Floats]:
    vocabulary = Vocabulary(forecaster.artifact.text.vocabulary.pieces)  # type: ignore[union-attr]
    sampler = TokenSampler([Sampling(seed + i, 0.8, top_k=20, top_p=0.95) for i in range(len(carries))], 29)
    watches = [StopWatch(Stop(), vocabulary) for _ in range(len(carries))]
    return forecaster.write_text(carries, positions, np.array(steps), sampler, watches)


def test_together_is_alone(forecaster: Forecaster) -> None:
    steps = [200, 1, 150, 200, 7] * 4
    together, carries = write(forecaster, range(20), steps)
    assert list(map(len, together)) == steps
    for i in range(20):
        alone, carry = write(forecaster, [i], [steps[i]], seed=4 + i)
        assert alone[0] == together[i]
        np.testing.assert_allclose(carry[0], carries[i], atol=1e-5)


def test_cut_is_whole(forecaster: Forecaster) -> None:
    whole, end = write(forecaster, range(6), [120] * 6)
    tokens, carries = write(forecaster, range(6), [1] * 6)
    position = 3
    for size in (1, 16, 40, 5, 57):
        parts, carries = write_on(forecaster, carries, np.full(6, position), [size] * 6)
        tokens = [text + part for text, part in zip(tokens, parts, strict=True)]
        position += size
    assert tokens == whole
    np.testing.assert_allclose(carries, end, atol=1e-5)


def test_what_is_drawn_is_observed(forecaster: Forecaster) -> None:
    tokens, carries = write(forecaster, [5], [30])
    observed = np.array([5, 0, *tokens[0]], np.float32)[:, None]
    _, expected = forecaster.advance(observed, np.array([32]), forecaster.new_carry[None])
    np.testing.assert_allclose(carries, expected, atol=1e-5)


def test_a_text_that_stops_does_not_go_on(forecaster: Forecaster) -> None:
    whole, _ = write(forecaster, [3, 4], [50, 50])
    end = whole[0][20]
    length = whole[0].index(end) + 1
    carries = np.repeat(forecaster.new_carry[None], 2, axis=0)
    _, carries = forecaster.advance(np.array([[3], [0], [4], [0]], np.float32), np.full(2, 2), carries)
    vocabulary = forecaster.artifact.text.vocabulary  # type: ignore[union-attr]
    sampler = TokenSampler([Sampling(4 + i, 0.8, top_k=20, top_p=0.95) for i in range(2)], 29)
    watches = [StopWatch(Stop((end,)), vocabulary), StopWatch(Stop(), vocabulary)]
    tokens, moved = forecaster.write_text(carries, np.full(2, 2), np.full(2, 50), sampler, watches)
    assert tokens == [whole[0][:length], whole[1]]
    _, short = write(forecaster, [3], [length])
    np.testing.assert_allclose(moved[0], short[0], atol=1e-5)


def test_when_the_time_is_over_each_text_has_a_token_at_least(forecaster: Forecaster) -> None:
    whole, _ = write(forecaster, [3, 4], [5, 5])
    carries = np.repeat(forecaster.new_carry[None], 2, axis=0)
    _, carries = forecaster.advance(np.array([[3], [0], [4], [0]], np.float32), np.full(2, 2), carries)
    vocabulary = forecaster.artifact.text.vocabulary  # type: ignore[union-attr]
    sampler = TokenSampler([Sampling(4 + i, 0.8, top_k=20, top_p=0.95) for i in range(2)], 29)
    watches = [StopWatch(Stop(), vocabulary) for _ in range(2)]
    tokens, _ = forecaster.write_text(carries, np.full(2, 2), np.full(2, 5), sampler, watches, seconds=0)
    assert tokens == [text[:1] for text in whole]


def test_a_model_of_numbers_writes_no_text() -> None:
    sine = Forecaster(artifacts()["sine"])
    with pytest.raises(CannotForecast):
        sine.write_text(
            sine.new_carry[None],
            np.ones(1, np.int64),
            np.ones(1, np.int64),
            TokenSampler([Sampling()], 2),
            [],
        )
