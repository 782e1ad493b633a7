"""Graphs: batched and alone, chunked and whole are one arithmetic; every type is carried exactly."""

import time
from dataclasses import replace

import numpy as np
import pytest

from models.errors import BadArtifact
from models.forecaster import CannotForecast, Forecaster, RunTooLongError
from models.net import Execution
from models.nets.rows import Field
from tests.helpers import graphs

TOLERANCE = 1e-6
LENGTHS = ([1], [3, 3, 3], [1, 9, 2, 9, 30, 4, 1])


@pytest.fixture(scope="module")
def forecasters() -> dict[str, Forecaster]:
    return {name: Forecaster(make(), tail=2) for name, make in graphs.GRAPHS.items()}


def start(forecaster: Forecaster, sessions: int) -> np.ndarray:
    return np.repeat(forecaster.new_carry[None], sessions, axis=0)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", graphs.GRAPHS)
def test_chunks_of_mixed_lengths_in_one_pass_equal_each_alone(forecasters, name, lengths):
    forecaster = forecasters[name]
    before = start(forecaster, len(lengths))
    _, before = forecaster.advance(
        graphs.observations(name, len(lengths), 9), np.ones(len(lengths), int), before
    )
    kept = before.copy()
    chunks = [graphs.observations(name, length, i) for i, length in enumerate(lengths)]
    together, moved = forecaster.advance(np.concatenate(chunks), np.array(lengths), before)
    np.testing.assert_array_equal(before.view(np.uint32), kept.view(np.uint32))
    stop = 0
    for i, chunk in enumerate(chunks):
        alone, carry = forecaster.advance(chunk, np.array([len(chunk)]), before[i : i + 1])
        np.testing.assert_allclose(together[stop : stop + len(chunk)], alone, atol=TOLERANCE)
        for part in forecaster.layout.floats:
            np.testing.assert_allclose(moved[i, part], carry[0, part], atol=TOLERANCE)
        stop += len(chunk)


@pytest.mark.parametrize("name", graphs.GRAPHS)
def test_a_series_in_chunks_equals_it_in_one(forecasters, name):
    forecaster, series = forecasters[name], graphs.observations(name, 40)
    whole, at_once = forecaster.advance(series, np.array([40]), start(forecaster, 1))
    carry, parts = start(forecaster, 1), []
    for chunk in np.split(series, [1, 8, 9, 30]):
        predictions, carry = forecaster.advance(chunk, np.array([len(chunk)]), carry)
        parts.append(predictions)
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=TOLERANCE)
    stepped = forecaster.observe(series, np.array([40]), start(forecaster, 1))
    np.testing.assert_allclose(stepped.predictions, whole, atol=TOLERANCE)
    np.testing.assert_array_equal(forecaster.reset(at_once), start(forecaster, 1))


def test_whole_numbers_are_exact_up_to_two_to_the_53(forecasters):
    forecaster = forecasters["counter"]
    steps = np.array([[2**53 - 1.0], [-5.0], [2.0]])
    predictions, carry = forecaster.advance(steps, np.array([3]), start(forecaster, 1))
    assert predictions.dtype == np.float64
    assert predictions[:, 0].tolist() == [2**53 - 4, 2**53 - 9, 2**53 - 7]
    assert forecaster.last_predictions(carry).tolist() == [[2**53 - 7]]
    np.testing.assert_array_equal(forecaster.layout.tails(carry)[0, :, 0], [-5, 2])


def test_a_whole_number_beyond_two_to_the_53_is_no_answer(forecasters):
    forecaster = forecasters["counter"]
    steps = np.full((3, 1), 2.0**53 - 1)
    predictions, carry = forecaster.advance(steps, np.array([3]), start(forecaster, 1))
    assert np.isnan(predictions[:, 0]).tolist() == [False, True, True]
    assert not forecaster.all_finite(predictions, carry)


def test_a_negative_counter_is_finite_whatever_its_bits_look_like(forecasters):
    forecaster = forecasters["counter"]
    carry = start(forecaster, 1)
    assert np.isnan(carry).any()  # -3 has the bits of a NaN
    predictions, carry = forecaster.advance(np.array([[-1.0]]), np.array([1]), carry)
    assert predictions.tolist() == [[-4]]
    assert forecaster.all_finite(predictions, carry)
    assert forecaster.finite_carries(carry).all()
    forecaster.check(carry[0])


def test_nan_in_a_float_state_is_found(forecasters):
    for name in ("gru", "frames"):  # float32, and float16 kept as float32
        carry = start(forecasters[name], 2)
        carry[1, 0] = np.nan
        assert forecasters[name].finite_carries(carry).tolist() == [True, False]
        assert not forecasters[name].all_finite(np.zeros((2, 1), np.float32), carry)
        with pytest.raises(ValueError, match="NaN"):
            forecasters[name].check(carry[1])


def test_context_controls_constants_and_small_types(forecasters):
    forecaster = forecasters["frames"]
    rows = np.array([[1, 2, 3, 4, 1], [0.5, 0, 0, 0, 10], [-1, -1, -1, -1, 1]], np.float32)
    predictions, carry = forecaster.advance(rows, np.array([3]), start(forecaster, 1))
    energy, peak, loud = predictions.T
    # Of 3 samples of context and the frame; 0 before the first.
    assert energy.tolist() == [2 * 30, 2 * 10 * (4 + 9 + 16 + 0.25), 2 * 4]
    assert peak.tolist() == [4, 4, 4]
    assert loud.tolist() == [1, 1, 1]
    below = rows[:1] * np.array([-1, -1, -1, -1, 1], np.float32)
    after_reset, _ = forecaster.advance(below, np.array([1]), forecaster.reset(carry))
    assert after_reset[0].tolist() == [60, 0, 0]  # the largest of a context of zeros and negative samples


def test_a_negative_peak_shows_that_the_start_is_told(forecasters):
    forecaster = forecasters["frames"]
    carry = start(forecaster, 1)
    carry[0, forecaster.net.floats[-1]] = -9  # a context that is below every sample
    rows = np.array([[-3, -2, -4, -5, 1], [-3, -4, -4, -5, 1]], np.float32)
    predictions, _ = forecaster.advance(rows, np.array([2]), carry)
    assert predictions[:, 1].tolist() == [-2, -2]


def test_a_learnt_initial_state_is_where_a_session_starts(forecasters):
    artifact = graphs.gru()
    carry = forecasters["gru"].new_carry
    np.testing.assert_array_equal(carry[:8], artifact.signature.states[0].initial[0])
    assert carry[:8].any()


def test_a_forecast_feeds_back_what_the_artifact_says(forecasters):
    forecaster, series = forecasters["gru"], graphs.observations("gru", 5)
    predictions, carry = forecaster.advance(series, np.array([5]), start(forecaster, 1))
    forecast, _ = forecaster.roll_out(carry, 3)
    fed, _ = forecaster.advance(np.concatenate([predictions[-1:], forecast[0, 1:2]]), np.array([2]), carry)
    np.testing.assert_allclose(forecast[0], np.concatenate([predictions[-1:], fed]), atol=TOLERANCE)
    tokens, _ = forecasters["characters"].roll_out(start(forecasters["characters"], 2), 3)
    assert tokens.shape == (2, 3, 32)
    assert tokens.dtype == np.float64
    with pytest.raises(CannotForecast, match="audio, gain"):
        forecasters["frames"].roll_out(start(forecasters["frames"], 1), 1)


@pytest.mark.parametrize(
    ("name", "row", "complaint"),
    [
        ("characters", [30.0], "token is 30, which is not from 0 to 29"),
        ("characters", [1.5], "token is 1.5, which is not a whole number"),
        ("counter", [2.0**53], "step is 9007199254740992, which is not from -9007199254740991 to"),
    ],
)
def test_a_number_that_the_input_cannot_hold_is_named(forecasters, name, row, complaint):
    forecaster = forecasters[name]
    rows = np.array([[0.0], row])
    assert forecaster.broken_rules(rows).tolist() == [False, True]
    assert complaint in forecaster.complaint(rows[1])
    assert forecaster.broken_rules(rows[:1]) is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_every_type_lies_in_a_row_of_words(dtype, shape):
    random = np.random.default_rng(1)
    values = (100 * random.standard_normal((4, *shape))).astype(dtype)
    field = Field(np.dtype(dtype), shape, 2)
    rows = np.full((4, field.words.stop + 1), 7, np.float32)
    field.write(rows, values)
    np.testing.assert_array_equal(field.read(rows), values)
    assert (rows[:, :2] == 7).all()
    assert (rows[:, -1] == 7).all()


def test_a_run_that_does_not_end_is_stopped_and_the_next_one_runs():
    forecaster = Forecaster(graphs.endless(), Execution(run_seconds=0.1))
    carry, one = start(forecaster, 1), np.array([1])
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(RunTooLongError, match=r"more than 0\.1 seconds"):
            forecaster.advance(np.ones((1, 1), np.float32), one, carry)
        assert time.monotonic() - began < 20
        forecaster.advance(-np.ones((1, 1), np.float32), one, carry)


def test_what_onnxruntime_cannot_load_is_refused():
    with pytest.raises(BadArtifact, match="onnxruntime cannot load the graph"):
        Forecaster(replace(graphs.gru(), graph=b"no graph"))
    with pytest.raises(BadArtifact, match="CUDAExecutionProvider"):
        Forecaster(graphs.gru(), Execution("cuda"))


def test_a_graph_that_answers_in_another_shape_is_an_error():
    artifact = graphs.gru()
    wide = replace(artifact.signature, outputs=(replace(artifact.outputs[0], shape=(3,)),))
    forecaster = Forecaster(replace(artifact, signature=wide, feedback=None))
    with pytest.raises(ValueError, match=r"'y' has shape \[1, 1, 2\], expected \[1, 1, 3\]"):
        forecaster.advance(np.zeros((1, 2), np.float32), np.array([1]), start(forecaster, 1))


def test_sessions_of_a_graph_learn_nothing(forecasters):
    with pytest.raises(BadArtifact, match="cannot learn"):
        forecasters["gru"].with_kind("off+intervals")
