"""The forecaster: batched and alone, chunked and whole, short and long chunks are one arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.forecaster import CannotForecast, Forecaster
from models.generation.sampling import Sampling, TokenSampler
from models.generation.stopping import Stop, StopWatch
from tests.helpers.text import text_model
from tests.helpers.zoo import TOLERANCE, one_pass, rolled_out, series

MODELS = ["sine", "pair", "partial", "gru", "tokens"]


@pytest.fixture(scope="module")
def forecasters(artifacts) -> dict[str, Forecaster]:
    return {name: Forecaster(artifact) for name, artifact in artifacts.items()}


def new_carry(forecaster: Forecaster, batch: int = 1) -> np.ndarray:
    return np.zeros((batch, forecaster.carry_size), np.float32)


@settings(max_examples=60, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    warm=st.integers(0, 3),
)
def test_chunks_of_mixed_lengths_in_one_pass_equal_each_alone(forecasters, model, lengths, warm):
    forecaster = forecasters[model]
    carries = new_carry(forecaster, len(lengths))
    if warm:
        before = series(model, warm * len(lengths), seed=5)
        _, carries = forecaster.advance(before, np.full(len(lengths), warm), carries)
    chunks = [series(model, length, seed) for seed, length in enumerate(lengths)]
    given_carries = carries.copy()
    predictions, moved = forecaster.advance(np.concatenate(chunks), np.array(lengths), carries)
    np.testing.assert_array_equal(carries, given_carries)
    ends = np.cumsum(lengths)
    for i, chunk in enumerate(chunks):
        alone, carry = forecaster.advance(chunk, np.array([len(chunk)]), carries[i : i + 1])
        np.testing.assert_allclose(predictions[ends[i] - lengths[i] : ends[i]], alone, atol=TOLERANCE)
        np.testing.assert_allclose(moved[i], carry[0], atol=TOLERANCE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("size", [1, 2, 7, 24, 60])
def test_a_series_in_chunks_equals_the_network_in_one_pass(forecasters, artifacts, model, size):
    whole, carry, got = series(model, 120), new_carry(forecasters[model]), []
    for at in range(0, 120, size):
        part = whole[at : at + size]
        predictions, carry = forecasters[model].advance(part, np.array([len(part)]), carry)
        got.append(predictions)
    np.testing.assert_allclose(np.concatenate(got), one_pass(artifacts[model], whole), atol=TOLERANCE)


@pytest.mark.parametrize("model", ["sine", "pair"])
def test_a_forecast_continues_where_it_stopped_and_begins_with_the_last_prediction(
    forecasters, artifacts, model
):
    forecaster, whole = forecasters[model], series(model, 30)
    predictions, carry = forecaster.advance(whole, np.array([30]), new_carry(forecaster))
    kept = carry.copy()
    all_at_once, _ = forecaster.roll_out(carry, 12)
    first, halfway = forecaster.roll_out(carry, 5)
    second, _ = forecaster.roll_out(halfway, 7)
    np.testing.assert_array_equal(carry, kept)
    np.testing.assert_allclose(all_at_once[0], rolled_out(artifacts[model], whole, 12), atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), all_at_once)
    np.testing.assert_allclose(all_at_once[0, 0], predictions[-1], atol=TOLERANCE)
    np.testing.assert_allclose(forecaster.last_predictions(carry)[0], predictions[-1], atol=TOLERANCE)


def test_a_forecast_that_needs_an_unpredicted_input_names_it(forecasters):
    with pytest.raises(CannotForecast, match="input a") as refused:
        forecasters["partial"].roll_out(new_carry(forecasters["partial"]), 1)
    assert refused.value.missing == ("a",)


def test_a_text_has_the_same_bits_alone_and_beside_others():
    forecaster = Forecaster(text_model(hidden=64))
    vocabulary = forecaster.artifact.text.vocabulary

    def write(seeds: list[int]) -> tuple[list[list[int]], np.ndarray]:
        count = len(seeds)
        first = np.tile(np.float32([[1], [2]]), (count, 1))
        _, carries = forecaster.advance(first, np.full(count, 2), forecaster.new_carry[None].repeat(count, 0))
        sampler = TokenSampler([Sampling(seed) for seed in seeds], len(vocabulary))
        watches = [StopWatch(Stop(), vocabulary) for _ in seeds]
        return forecaster.write_text(carries, np.full(count, 2), np.full(count, 30), sampler, watches)

    together, carries = write([0, 1, 2])
    for seed in range(3):
        alone, carry = write([seed])
        assert alone == together[seed : seed + 1]
        np.testing.assert_array_equal(carry[0], carries[seed])
