"""Sessions of one network of many series: each has its own scale, given or found, whatever the chunks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.arrays import Floats
from models.artifact.artifact import Artifact
from models.artifact.fleet import Fleet
from models.data.scaling import Scaling
from models.errors import BadArtifact
from models.forecaster import Forecaster
from tests.helpers.zoo import TOLERANCE, series

STAGES = (4, 9)
LOUD = Scaling(np.array([1000.0, -50.0]), np.array([200.0, 5.0]))


def fleet_of(artifact: Artifact) -> Artifact:
    mean, std = (np.array([[0.0, 0.0], values], np.float32) for values in (LOUD.mean, LOUD.std))
    std[0] = 1
    return replace(artifact, fleet=Fleet(("quiet", "loud"), mean, std, STAGES, (3.0, 1.5)))


@pytest.fixture(scope="module", params=["seasonal", "adaptive", "gru"])
def artifact(request, artifacts) -> Artifact:
    return fleet_of(artifacts[request.param])


@pytest.fixture(scope="module")
def forecaster(artifact) -> Forecaster:
    return Forecaster(artifact)


def loud(steps: int, seed: int = 0) -> Floats:
    return LOUD.unscale(series("seasonal", steps, seed)).astype(np.float32)


def begun(forecaster: Forecaster, name: str) -> Floats:
    carry = forecaster.new_carry
    assert forecaster.begin_series(carry, name)
    return carry[None]


def observed(forecaster: Forecaster, carry: Floats, chunks: list[Floats]) -> tuple[Floats, Floats]:
    """Predictions of all chunks, and the carry after them."""
    predictions = []
    for chunk in chunks:
        result = forecaster.observe(chunk, np.array([len(chunk)]), carry)
        predictions.append(result.predictions)
        carry = result.carries
    return np.concatenate(predictions), carry


def test_a_session_of_a_known_series_is_that_of_a_network_of_its_scale(artifact, forecaster):
    alone, rows = Forecaster(artifact.of_series(LOUD)), loud(40)
    rows[7, 0] = np.nan
    ours = forecaster.observe(rows, np.array([40]), begun(forecaster, "loud"))
    theirs = alone.observe(rows, np.array([40]), alone.new_carry[None])
    np.testing.assert_array_equal(ours.predictions, theirs.predictions)
    np.testing.assert_array_equal(
        forecaster.roll_out(ours.carries, 8)[0], alone.roll_out(theirs.carries, 8)[0]
    )
    np.testing.assert_array_equal(forecaster.last_predictions(ours.carries), theirs.predictions[-1:])
    if theirs.scores is not None:
        np.testing.assert_array_equal(ours.scores.widths, theirs.scores.widths)
        np.testing.assert_array_equal(ours.scores.errors, theirs.scores.errors)
        np.testing.assert_array_equal(forecaster.errors(ours.carries).mse, alone.errors(theirs.carries).mse)
        np.testing.assert_array_equal(
            forecaster.forecast_widths(ours.carries, 8), alone.forecast_widths(theirs.carries, 8)
        )


def test_after_the_last_stage_a_session_is_as_if_it_had_found_its_scale_at_first(artifact, forecaster):
    rows = loud(30)
    first = rows[: STAGES[-1]].astype(np.float64)
    found = Scaling(first.mean(axis=0), 1.5 * first.std(axis=0))
    alone = Forecaster(artifact.of_series(found))
    ours, carry = observed(forecaster, forecaster.new_carry[None], [rows])
    theirs, other = observed(alone, alone.new_carry[None], [rows])
    np.testing.assert_allclose(
        ours[STAGES[-1] - 1 :], theirs[STAGES[-1] - 1 :], rtol=0, atol=1e-4 * LOUD.std.max()
    )
    np.testing.assert_allclose(forecaster.roll_out(carry, 5)[0], alone.roll_out(other, 5)[0], rtol=1e-4)


@settings(max_examples=6, deadline=None)
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=6), gap=st.integers(0, 11))
def test_the_scale_that_a_session_finds_does_not_depend_on_chunks(forecaster, lengths, gap):
    rows = loud(sum(lengths))
    if gap < len(rows):
        rows[gap] = np.nan
    whole, carry = observed(forecaster, forecaster.new_carry[None], [rows])
    chunks = np.split(rows, np.cumsum(lengths)[:-1])
    in_chunks, moved = observed(forecaster, forecaster.new_carry[None], chunks)
    scale = LOUD.std.max()
    np.testing.assert_allclose(in_chunks, whole, rtol=0, atol=50 * TOLERANCE * scale)
    for part in forecaster.layout.scale_part, forecaster.layout.observed_part:
        np.testing.assert_array_equal(moved[:, part], carry[:, part])


def test_sessions_in_one_pass_find_each_its_own_scale(forecaster):
    chunks = [loud(20, 1), loud(3, 2) / 100, loud(12, 3) * 7]
    batch = np.repeat(forecaster.new_carry[None], 3, axis=0)
    lengths = np.array([len(chunk) for chunk in chunks])
    kept = batch.copy()
    together = forecaster.observe(np.concatenate(chunks), lengths, batch)
    np.testing.assert_array_equal(batch, kept)
    stops = lengths.cumsum()
    for i, chunk in enumerate(chunks):
        alone = forecaster.observe(chunk, lengths[i : i + 1], batch[i : i + 1])
        ours = together.pick(slice(stops[i] - lengths[i], stops[i]), slice(i, i + 1))
        size = np.abs(chunk).max()
        np.testing.assert_allclose(ours.predictions, alone.predictions, rtol=0, atol=50 * TOLERANCE * size)
        np.testing.assert_array_equal(
            ours.carries[:, forecaster.layout.scale_part], alone.carries[:, forecaster.layout.scale_part]
        )


def test_what_was_never_observed_or_is_constant_keeps_the_scale_of_the_fleet(artifact, forecaster):
    rows = np.full((STAGES[0], 2), np.nan, np.float32)
    rows[:, 1] = 7
    _, carry = observed(forecaster, forecaster.new_carry[None], [rows])
    mean, std = forecaster.scales.of_sessions(carry)
    np.testing.assert_allclose(mean[0], [artifact.scaling.mean[0], 7], rtol=1e-6)
    np.testing.assert_allclose(std[0], artifact.scaling.std, rtol=1e-6)


def test_a_reset_keeps_the_scale_that_was_given_and_forgets_one_that_was_found(forecaster):
    given_carry = observed(forecaster, begun(forecaster, "loud"), [loud(20)])[1]
    found = observed(forecaster, forecaster.new_carry[None], [loud(20)])[1]
    after = forecaster.reset(np.concatenate([given_carry, found]))
    np.testing.assert_array_equal(after[:1], begun(forecaster, "loud"))
    np.testing.assert_array_equal(after[1], forecaster.new_carry)


def test_a_newer_network_takes_over_a_scale_that_is_settled(artifact, forecaster):
    newer = Forecaster(replace(artifact, weights={k: 0.9 * v for k, v in artifact.weights.items()}))
    settled = observed(forecaster, forecaster.new_carry[None], [loud(20)])[1]
    begins = observed(forecaster, forecaster.new_carry[None], [loud(3)])[1]
    started = newer.initial_carries_from(forecaster, np.concatenate([settled, begins]))
    ours = [values[0] for values in newer.scales.of_sessions(started)]
    np.testing.assert_array_equal(ours, [values[0] for values in forecaster.scales.of_sessions(settled)])
    np.testing.assert_array_equal(started[1], newer.new_carry)
    assert (newer.scales.until_next(started) > 1000).tolist() == [True, False]


def test_only_a_series_of_the_training_can_be_named(forecaster, artifacts):
    carry = forecaster.new_carry
    assert not forecaster.begin_series(carry, "unheard-of")
    np.testing.assert_array_equal(carry, forecaster.new_carry)
    alone = Forecaster(artifacts["pair"])
    assert not alone.begin_series(alone.new_carry, "quiet")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [(0, 3.5, "count"), (0, 99, "count"), (1, np.inf, "scale|NaN"), (3, 0, "not above 0")],
)
def test_a_carry_with_an_impossible_scale_is_refused(forecaster, place, value, message):
    carry = forecaster.new_carry
    carry[forecaster.layout.scale_part.start + place] = value
    with pytest.raises(ValueError, match=message):
        forecaster.check(carry)


def test_what_is_huge_is_huge_in_the_scale_of_the_session(forecaster):
    row = np.array([[2e11, 0]], np.float32)
    assert forecaster.huge_number(row, forecaster.new_carry) == (0, 0)
    assert forecaster.huge_number(row, begun(forecaster, "loud")[0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("a", "a")}, "one name"),
        ({"names": ("a",)}, "for each of the series"),
        ({"names": ("a", "")}, "1 to 256"),
        ({"std": np.zeros((2, 2), np.float32)}, "above 0"),
        ({"mean": np.full((2, 2), np.nan, np.float32)}, "not finite"),
        ({"stages": (9, 4)}, "ascending"),
        ({"growth": (1.0,)}, "for each of the stages"),
    ],
)
def test_a_fleet_that_does_not_fit_together_is_refused(artifact, change, message):
    with pytest.raises(BadArtifact, match=message):
        replace(artifact.fleet, **change)


def test_a_network_of_many_series_needs_its_targets_as_inputs(artifacts):
    hidden = replace(artifacts["gru"], predicts="level", targets=("b", "z"))
    with pytest.raises(BadArtifact, match="'z' is not an input"):
        fleet_of(hidden)
