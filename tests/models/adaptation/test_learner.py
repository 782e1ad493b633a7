"""A session that learns: chunked equals whole, batched equals alone, gaps are stood in for."""

from dataclasses import replace

import numpy as np
import pytest

from app.observability.metrics import ScoreTally
from models.adaptation.learner import Learner
from models.artifact.learning import Learning
from models.data.scaling import Scaling
from models.forecaster import CannotForecast, Forecaster
from tests.helpers.plain import predicted
from tests.helpers.zoo import series

KINDS = {
    "rls": Learning("rls", forgetting=0.98, levels=(0.5, 0.9)),
    "rls on inputs": Learning("rls", inputs=True, forgetting=0.98, levels=(0.9,)),
    "rls of rank 3": Learning("rls", rank=3, levels=(0.9,)),
    "rls alone": Learning("rls"),
    "gain": Learning("gain", forgetting=0.95, levels=(0.8,)),
    "intervals alone": Learning(levels=(0.5, 0.8, 0.9)),
    "horizons": Learning("rls", forgetting=0.98, levels=(0.5, 0.9), horizons=(1, 3, 8), season=6),
    "horizons alone": Learning(levels=(0.5, 0.8, 0.9), horizons=(1, 4)),
}
ONE = Scaling(np.zeros(2), np.ones(2))
CLOSE = 1e-5  # relative, of what is typically of size one


def learning(artifacts, kind, model="pair"):
    artifact = artifacts[model]
    weights = dict(artifact.weights)
    if KINDS[kind].rank:
        basis = np.random.default_rng(0).normal(size=(artifact.hidden_size, 3))
        weights["readout.basis"] = (basis / 4).astype(np.float32)
    return Forecaster(replace(artifact, learning=KINDS[kind], weights=weights))


def new_carry(forecaster, batch=1):
    return np.repeat(forecaster.new_carry[None], batch, axis=0)


def streamed(forecaster, whole, pieces, carry=None):
    carry = new_carry(forecaster) if carry is None else carry
    passes, at = [], 0
    for piece in pieces:
        passed = forecaster.observe(whole[at : at + piece], np.array([piece]), carry)
        passes.append(passed)
        carry, at = passed.carries, at + piece
    scored = [passed.scores for passed in passes]
    parts = (
        [passed.predictions for passed in passes],
        *([getattr(scores, name) for scores in scored] for name in ("errors", "scores", "widths")),
    )
    return [np.concatenate(part) for part in parts], carry


@pytest.fixture(params=KINDS)
def forecaster(request, artifacts):
    return learning(artifacts, request.param)


def test_chunked_equals_whole(forecaster):
    whole = series("pair", 90)
    at_once, carry = streamed(forecaster, whole, [90])
    in_pieces, other = streamed(forecaster, whole, [1, 2, 30, 1, 7, 49])
    for whole_run, pieces in zip([*at_once, carry], [*in_pieces, other], strict=True):
        np.testing.assert_allclose(whole_run, pieces, rtol=CLOSE, atol=CLOSE)


def test_chunks_of_mixed_lengths_in_one_pass_equal_each_alone(forecaster):
    lengths = np.array([3, 20, 1, 20, 8])
    chunks = [series("pair", length, seed) for seed, length in enumerate(lengths.tolist())]
    _, before = streamed(forecaster, series("pair", 40), [40])
    carries = np.concatenate([new_carry(forecaster, 4), before])
    given = carries.copy()
    together = forecaster.observe(np.concatenate(chunks), lengths, carries)
    np.testing.assert_array_equal(carries, given)
    ends = lengths.cumsum()
    for i, chunk in enumerate(chunks):
        alone = forecaster.observe(chunk, lengths[i : i + 1], carries[i : i + 1])
        own = slice(ends[i] - lengths[i], ends[i])
        np.testing.assert_allclose(together.predictions[own], alone.predictions, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(together.scores.errors[own], alone.scores.errors, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(together.scores.scores[own], alone.scores.scores, rtol=CLOSE, atol=CLOSE)
        np.testing.assert_allclose(together.carries[i], alone.carries[0], rtol=CLOSE, atol=CLOSE)


def test_the_reported_error_is_that_of_the_earlier_prediction(forecaster):
    whole = series("pair", 30)
    (predictions, errors, _, _), _ = streamed(forecaster, whole, [10, 20])
    order = forecaster.learner.target_columns
    assert np.isnan(errors[0]).all()
    np.testing.assert_allclose(errors[1:], whole[1:, order] - predictions[:-1], atol=CLOSE)


def test_a_session_that_learns_nothing_predicts_as_the_network_does(artifacts):
    plain = Forecaster(artifacts["pair"])
    whole, lengths = series("pair", 40), np.array([25, 15])
    passed = plain.observe(whole, lengths, new_carry(plain, 2))
    predictions, carries = plain.advance(whole, lengths, new_carry(plain, 2))
    np.testing.assert_allclose(passed.predictions, predictions, atol=1e-6)
    np.testing.assert_allclose(passed.carries, carries, atol=1e-6)
    assert passed.scores is None
    judging = learning(artifacts, "intervals alone")
    scored = judging.observe(whole, lengths, new_carry(judging, 2))
    np.testing.assert_allclose(scored.predictions, predictions, atol=1e-6)


def test_an_adapted_readout_halves_the_error_on_an_unknown_stream(artifacts):
    whole = 3 + 0.5 * series("pair", 600)
    errors = {}
    for kind in ("intervals alone", "rls", "gain"):
        (_, of_kind, _, _), _ = streamed(learning(artifacts, kind), whole, [600])
        errors[kind] = np.nanmean(np.square(of_kind[300:]))
    assert errors["rls"] < 0.5 * errors["intervals alone"]
    assert errors["gain"] < 0.8 * errors["intervals alone"]


def test_a_missing_value_is_replaced_by_its_prediction_and_teaches_nothing(forecaster):
    whole = series("pair", 60)
    _, carry = streamed(forecaster, whole[:40], [40])
    predicted = forecaster.last_predictions(carry)[0]
    gap = np.full((1, 3), np.nan, np.float32)
    after_gap = forecaster.observe(gap, np.array([1]), carry)
    stand_in = np.empty((1, 3), np.float32)
    stand_in[0, forecaster.learner.target_columns] = predicted
    state = forecaster.net.state_size
    with_it = forecaster.observe(stand_in, np.array([1]), carry)
    np.testing.assert_allclose(after_gap.carries[0, :state], with_it.carries[0, :state], atol=CLOSE)
    assert np.isnan(after_gap.scores.errors).all()
    assert np.isfinite(after_gap.predictions).all()
    assert np.isfinite(after_gap.carries).all()
    if forecaster.learning.tracks_errors and not forecaster.learning.horizons:
        np.testing.assert_array_equal(after_gap.scores.widths, forecaster.forecast_widths(carry, 1)[0])


def test_a_missing_value_leaves_the_errors_of_other_outputs(forecaster):
    whole = series("pair", 50)
    holed = whole.copy()
    holed[np.random.default_rng(0).uniform(size=whole.shape) < 0.2] = np.nan
    (predictions, errors, _, _), carry = streamed(forecaster, holed, [20, 30])
    order = forecaster.learner.target_columns
    np.testing.assert_array_equal(np.isnan(errors[1:]), np.isnan(holed[1:, order]))
    assert np.isfinite(predictions).all()
    assert np.isfinite(carry).all()


def test_a_forecast_moves_nothing_and_begins_with_the_last_prediction(forecaster):
    (predictions, _, _, _), carry = streamed(forecaster, series("pair", 40), [40])
    given = carry.copy()
    forecast, rolled = forecaster.roll_out(carry, 5)
    np.testing.assert_array_equal(carry, given)
    np.testing.assert_allclose(forecast[0, 0], predictions[-1], rtol=CLOSE)
    further, _ = forecaster.roll_out(rolled, 3, done=np.array([5]))
    whole, _ = forecaster.roll_out(carry, 8)
    np.testing.assert_allclose(np.concatenate([forecast[0], further[0]]), whole[0], rtol=CLOSE, atol=CLOSE)


def test_a_forecast_uses_the_readout_that_the_session_learned(artifacts):
    adaptive = learning(artifacts, "rls")
    _, carry = streamed(adaptive, 3 + series("pair", 300), [300])
    forecast, _ = adaptive.roll_out(carry, 3)
    frozen = learning(artifacts, "intervals alone")
    _, other = streamed(frozen, 3 + series("pair", 300), [300])
    assert np.abs(forecast - frozen.roll_out(other, 3)[0]).max() > 0.1


def test_a_reset_forgets_what_was_learned_and_keeps_the_options(artifacts):
    forecaster = learning(artifacts, "rls")
    chosen = replace(KINDS["rls"], forgetting=0.9, prior=5.0)
    carry = forecaster.initial_state(chosen)[None]
    _, moved = streamed(forecaster, series("pair", 30), [30], carry)
    assert np.abs(moved - carry).max() > 0.1
    np.testing.assert_array_equal(forecaster.reset(moved), carry)
    result = forecaster.learning_of(moved[0])
    assert (result.forgetting, result.prior) == (0.9, 5.0)


def test_every_part_of_a_row_is_a_view(artifacts):
    for kind in KINDS:
        learner = learning(artifacts, kind).learner
        rows = np.zeros((3, learner.size + 5), np.float32)[:, 2:-3]
        for name in learner.layout.names:
            assert np.shares_memory(learner._view(rows, name), rows)


def test_the_running_errors_are_those_of_the_stream(artifacts):
    forecaster = learning(artifacts, "rls")
    whole = series("pair", 400)
    (_, errors, _, widths), carry = streamed(forecaster, whole, [400])
    result = forecaster.errors(carry)
    order = forecaster.learner.target_columns
    np.testing.assert_array_equal(result.observed[0], 399)
    np.testing.assert_allclose(result.mse[0], np.nanmean(errors**2, axis=0), rtol=1e-4)
    np.testing.assert_allclose(result.mae[0], np.nanmean(np.abs(errors), axis=0), rtol=1e-4)
    naive = np.square(np.diff(whole[:, order], axis=0)).mean(axis=0)
    np.testing.assert_allclose(result.persistence[0], naive, rtol=1e-4)
    within = (np.abs(errors[1:, None]) <= widths[:-1]).mean(axis=0)
    np.testing.assert_allclose(result.coverage[0], within, atol=1e-3)
    assert np.abs(within[1] - 0.9).max() < 0.05


@pytest.mark.parametrize("unit", [1e25, 1e-25])
def test_the_running_errors_and_those_of_a_model_are_finite_in_any_unit(artifacts, unit):
    artifact = artifacts["adaptive"]
    scaling = Scaling(np.zeros(2), np.full(2, unit))
    whole = np.random.default_rng(0).normal(size=(100, 2))
    found = []
    for each, rows in (
        (Forecaster(replace(artifact, scaling=scaling, target_scaling=scaling)), whole * unit),
        (Forecaster(replace(artifact, scaling=ONE, target_scaling=ONE)), whole),
    ):
        passed = each.observe(rows.astype(np.float32), np.array([100]), each.new_carry[None])
        result, tally = each.errors(passed.carries), ScoreTally(2, each.learning.levels)
        tally.add(passed.scores, each.learning.levels)
        found.append([result.mse[0], result.persistence[0], tally.squares, tally.changes])
    np.testing.assert_allclose(np.array(found[0]) / unit**2, found[1], rtol=1e-4)


def test_a_model_whose_input_is_known_ahead_forecasts_with_it_and_not_without(artifacts):
    pair = artifacts["pair"]
    columns = [pair.targets.index("a"), pair.targets.index("b")]
    known = replace(
        pair,
        targets=("a", "b"),
        predicts="level",
        future=("c",),
        target_scaling=pair.target_scaling.pick(columns),
        weights={
            **pair.weights,
            "fc.weight": pair.weights["fc.weight"][:2],
            "fc.bias": pair.weights["fc.bias"][:2],
        },
    )
    forecaster = Forecaster(known)
    whole = series("pair", 50)
    _, carry = forecaster.advance(whole[:40], np.array([40]), new_carry(forecaster))
    with pytest.raises(CannotForecast, match="c"):
        forecaster.roll_out(carry, 3)
    forecast, _ = forecaster.roll_out(carry, 3, whole[None, 40:43, 2:])
    fed = np.concatenate([forecast[0], whole[40:43, 2:]], axis=1)
    predictions, _ = forecaster.advance(fed, np.array([3]), carry)
    np.testing.assert_allclose(predictions[:2], forecast[0, 1:], atol=1e-5)


def test_learning_about_targets_that_are_not_inputs_is_refused(artifacts):
    with pytest.raises(ValueError, match="not an input"):
        replace(artifacts["sine"], targets=("other",), learning=KINDS["gain"])


def test_a_learner_has_only_the_parts_that_it_needs(artifacts):
    sizes = {kind: learning(artifacts, kind).learner.size for kind in KINDS}
    assert sizes["gain"] < sizes["rls of rank 3"] + 60 < sizes["rls"]
    assert Learner(artifacts["sine"], Learning("rls")).size < 65 * 65 + 2 * 65 + 8


@pytest.mark.parametrize(
    "chosen", [{}, {"readout": "gain"}, {"readout": "off"}, {"forgetting": 0.9, "prior": 10.0}], ids=str
)
def test_a_stream_with_gaps_is_learned_as_by_a_plain_loop(artifacts, chosen):
    """Packed into a carry, in float32 and batched, against Python and float64, one after the other."""
    artifact = artifacts["adaptive"]
    learning = artifact.learning.with_options(**chosen)
    whole = series("adaptive", 150)
    whole[np.random.default_rng(1).uniform(size=whole.shape) < 0.2] = np.nan
    whole[0] = np.nan
    forecaster = Forecaster(artifact, learning=learning)
    passed = forecaster.observe(whole, np.array([150]), forecaster.new_carry[None])
    result = predicted(
        artifact, learning, [[None if np.isnan(number) else float(number) for number in row] for row in whole]
    )
    np.testing.assert_allclose(passed.predictions, [step.prediction for step in result], atol=1e-5)
    np.testing.assert_allclose(passed.scores.widths, [step.widths for step in result], atol=1e-5)
    errors = np.array([step.errors for step in result], float)
    np.testing.assert_allclose(passed.scores.errors, errors, atol=1e-5)


@pytest.mark.parametrize("kind", ["rls", "gain"])
@pytest.mark.parametrize("spike", [1e4, 1e9, 1e18])
def test_a_single_spike_does_not_ruin_the_readout(artifacts, kind, spike):
    artifact = artifacts["adaptive"]
    whole = series("adaptive", 400)
    spiked = whole.copy()
    spiked[20] = [spike, -spike]
    errors = []
    for rows in (whole, spiked):
        forecaster = Forecaster(artifact, learning=artifact.learning.with_options(kind))
        passed = forecaster.observe(rows, np.array([400]), forecaster.new_carry[None])
        assert np.isfinite(passed.carries).all()
        errors.append(np.square(passed.scores.errors[-100:]).mean())
    assert errors[1] < 4 * errors[0]


@pytest.mark.parametrize("spike", [1e2, 1e6, 1e18])
def test_a_single_spike_does_not_widen_the_intervals_for_long(artifacts, spike):
    forecaster = Forecaster(artifacts["adaptive"])
    rows = series("adaptive", 1600)
    widths = []
    for size in (0, spike):
        spiked = rows.copy()
        spiked[800] += np.float32(size)
        passed = forecaster.observe(spiked, np.array([1600]), forecaster.new_carry[None])
        widths.append(passed.scores.widths[1200:].mean(axis=(0, 2)))
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.3)


@pytest.mark.parametrize("horizons", [(), (1, 4)], ids=str)
def test_an_interval_is_within_those_of_higher_levels(artifacts, horizons):
    """Also where the errors become a hundred times larger, and smaller again."""
    levels = (0.5, 0.8, 0.9, 0.95)
    learning = Learning("rls", levels=levels, horizons=horizons)
    forecaster = Forecaster(replace(artifacts["adaptive"], learning=learning))
    loud = np.arange(6000) // 500 % 2 == 1
    noise = np.random.default_rng(0).normal(size=(6000, 2)) * np.where(loud, 1, 0.01)[:, None]
    passed = forecaster.observe(noise.astype(np.float32), np.array([6000]), forecaster.new_carry[None])
    assert (np.diff(passed.scores.widths, axis=1) >= 0).all()
    assert (np.diff(forecaster.forecast_widths(passed.carries, 10), axis=2) >= 0).all()
    covered = 1 - passed.scores.missed[1000:].mean(axis=(0, 2))
    np.testing.assert_allclose(covered, levels, atol=0.01)
