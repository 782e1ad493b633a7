"""Training: the carry pays, an interruption costs nothing, and what is written can be trusted."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact.files import Column, load
from models.artifact.learning import Learning
from models.data.dataset import Dataset, Split, identity_scaling, prepare, sine, split_rows
from models.data.series import Series
from models.errors import BadCheckpoint, BadData, BadInput, BadRecipe, TrainingDiverged
from models.evaluation.report import write_report
from models.forecaster import Forecaster
from models.nets.recurrent import RecurrentNetwork
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.recipe import DRIFTING, TEXTBOOK, Recipe
from models.training.rollout import closed_loop_error, free_run, one_step, root_mean_square
from models.training.simulation import simulate, unscaled_observations
from models.training.training import (
    Training,
    add_drift,
    initial_network,
    mean_squared_error,
    validation_error,
)

torch.set_num_threads(1)

SMALL = Recipe(hidden_size=8, epochs=6, patience=0, streams=2, piece=20)


def wave(split: Split | None = None, points: int = 300) -> Dataset:
    return prepare(sine(points), [Column("value")], ["value"], split or split_rows(points))


def textbook_wave() -> Dataset:
    return prepare(sine(), [Column("value")], ["value"], Split(1000, 0, 0), (identity_scaling(1),) * 2)


@pytest.fixture(scope="module")
def textbook() -> Training:
    training = Training(textbook_wave(), TEXTBOOK)
    list(training.run())
    return training


def same_weights(first: RecurrentNetwork, second: RecurrentNetwork) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_textbook_recipe_learns_the_sine_in_ten_epochs(textbook):
    assert [epoch.number for epoch in textbook.history] == list(range(1, 11))
    assert textbook.history[-1].loss <= 5e-5


def test_carried_beats_reset_a_hundredfold_in_the_textbook(textbook):
    rows, dataset, network = range(1, 1000), textbook.dataset, textbook.best_network()
    truth = dataset.truth[1:]
    carried = (one_step(network, dataset, rows) - truth).square().mean()
    reset = (one_step(network, dataset, rows, reset_every=50) - truth).square().mean()
    assert carried * 100 <= reset


def test_the_textbook_rolls_out_on_one_prediction_at_a_time(textbook):
    network, dataset = textbook.best_network(), textbook.dataset
    run = free_run(network, dataset, start=0, warmup=50, steps=200)
    assert root_mean_square(run.errors()) <= 0.2  # 0.363 with a sliding window fed to a network with a carry
    value, carry, expected = dataset.observations[:50], None, []
    with torch.no_grad():
        outputs, carry = network(value[None])
        for _ in range(200):
            expected.append(outputs[:, -1:])
            outputs, carry = network(expected[-1], carry)
    torch.testing.assert_close(run.predictions[49:], torch.cat(expected, dim=1)[0], atol=1e-5, rtol=0)


def test_the_carry_is_kept_within_an_epoch_and_detached_between_pieces(textbook):
    whole, pieces = (initial_network(textbook.dataset, TEXTBOOK) for _ in range(2))
    training = Training(textbook.dataset, replace(TEXTBOOK, learning_rate=1e-12))
    loss = training.run_round().loss
    with torch.no_grad():
        outputs, _ = whole(training.observations)
    assert loss == pytest.approx(float((outputs - training.truth).square().mean()), rel=1e-4)
    assert same_weights(whole, pieces)


def test_the_seed_decides_the_result():
    def trained(seed: int) -> RecurrentNetwork:
        training = Training(wave(), replace(SMALL, seed=seed, epochs=2))
        list(training.run())
        return training.best_network()

    assert same_weights(trained(1), trained(1))
    assert not same_weights(trained(1), trained(2))


def test_a_training_leaves_torchs_global_generator_unchanged():
    before = torch.random.get_rng_state()
    Training(wave(), SMALL).run_round()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_equals_uninterrupted(tmp_path, stop):
    recipe = replace(SMALL, closed_loop=5)
    whole, broken = Training(wave(), recipe), Training(wave(), recipe)
    list(whole.run())
    for _, _ in zip(range(stop), broken.run(), strict=False):
        save_checkpoint(broken, tmp_path / "checkpoint")
    resumed = Training(wave(), recipe)
    load_checkpoint(resumed, tmp_path / "checkpoint")
    list(resumed.run())
    assert resumed.history == whole.history
    assert same_weights(resumed.best_network(), whole.best_network())
    assert same_weights(resumed.network, whole.network)


@pytest.mark.parametrize(
    ("recipe", "dataset", "message"),
    [(replace(SMALL, seed=1), wave(), "another recipe"), (SMALL, wave(points=310), "another data")],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, recipe, dataset, message):
    save_checkpoint(Training(wave(), SMALL), tmp_path / "checkpoint")
    with pytest.raises(BadCheckpoint, match=message):
        load_checkpoint(Training(dataset, recipe), tmp_path / "checkpoint")


def test_a_damaged_checkpoint_is_refused_and_no_code_in_it_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    path = tmp_path / "checkpoint"
    torch.save({"state": Bomb()}, path)
    with pytest.raises(BadCheckpoint, match="not loaded"):
        load_checkpoint(Training(wave(), SMALL), path)
    path.write_bytes(b"half a checkpo")
    with pytest.raises(BadCheckpoint, match=r"damaged|not loaded"):
        load_checkpoint(Training(wave(), SMALL), path)
    torch.save([1, 2], path)
    with pytest.raises(BadCheckpoint, match="not a checkpoint"):
        load_checkpoint(Training(wave(), SMALL), path)
    assert not (tmp_path / "ran").exists()


def test_early_stopping_keeps_the_best_weights():
    training = Training(
        wave(), replace(SMALL, epochs=200, patience=3, learning_rate=0.05, schedule="constant")
    )
    best: dict[int, float | None] = {}
    for epoch in training.run():
        best[epoch.number] = epoch.validation
    assert len(training.history) < 200
    assert not any(epoch.best for epoch in training.history[-3:])
    kept = validation_error(training.best_network(), training.dataset, training.recipe)
    assert kept == pytest.approx(min(value for value in best.values() if value is not None), rel=1e-6)


def test_without_a_validation_part_the_last_weights_are_kept():
    training = Training(wave(Split(300, 0, 0)), replace(SMALL, epochs=3, patience=1))
    list(training.run())
    assert len(training.history) == 3
    assert same_weights(training.best_network(), training.network)


def test_the_validation_error_streams_with_the_carry_kept():
    dataset = wave()
    network = initial_network(dataset, SMALL).eval()
    with torch.no_grad():
        outputs, _ = network(dataset.observations[None])
    rows = dataset.split.validation_rows
    errors = outputs[0, rows.start - 1 : rows.stop - 1] - dataset.truth[rows.start : rows.stop]
    assert validation_error(network, dataset, SMALL) == pytest.approx(float(errors.square().mean()), rel=1e-5)


def test_closed_loop_error_is_measured_on_free_runs_after_everything_before():
    dataset = wave()
    network = initial_network(dataset, SMALL).eval()
    expected = []
    for start in (200, 220):
        run = free_run(network, dataset, start=0, warmup=start, steps=11)
        expected.append(run.errors()[1:])  # the first is one step ahead of an observation
    error = closed_loop_error(network, dataset, range(200, 231), every=20, steps=10)
    assert error == pytest.approx(float(torch.cat(expected).square().mean()), rel=1e-4)


def test_closed_loop_training_improves_long_forecasts():
    def far_off(closed_loop: int) -> float:
        recipe = Recipe(hidden_size=16, epochs=30, patience=0, streams=4, piece=25, closed_loop=closed_loop)
        training = Training(wave(Split(600, 0, 0), 1000), recipe)
        list(training.run())
        run = free_run(training.best_network(), training.dataset, start=600, warmup=50, steps=300)
        return root_mean_square(run.errors())

    assert far_off(25) < 0.5 * far_off(0)


def test_closed_loop_training_of_unpredicted_inputs_is_refused():
    series = Series("x", ("a", "b"), np.random.default_rng(0).normal(size=(100, 2)))
    dataset = prepare(series, [Column("a"), Column("b")], ["a"], split_rows(100))
    with pytest.raises(BadData, match="no target predicts input b"):
        Training(dataset, replace(SMALL, closed_loop=3))


def test_inputs_known_ahead_are_read_while_running_freely():
    series = Series("x", ("plan", "a"), np.random.default_rng(0).normal(size=(200, 2)))
    dataset = prepare(series, [Column("plan"), Column("a")], ["a"], Split(100, 50, 50), future=["plan"])
    training = Training(dataset, replace(SMALL, closed_loop=5, epochs=1))
    training.run_round()
    network = training.best_network()
    run = free_run(network, dataset, start=10, warmup=20, steps=8)
    with torch.no_grad():
        outputs, carry = network(dataset.observations[None, 10:30])
        for row in range(30, 37):
            fed = torch.stack([dataset.observations[row, 0], outputs[0, -1, 0]])
            outputs, carry = network(fed[None, None], carry)
    torch.testing.assert_close(run.predictions[-1], outputs[0, -1], atol=1e-6, rtol=0)


def test_a_change_recipe_learns_a_series_that_drifts_away():
    rng = np.random.default_rng(0)
    drift = np.cumsum(1 + 0.1 * rng.normal(size=400))[:, None]
    dataset = prepare(Series("x", ("a",), drift), [Column("a")], ["a"], split_rows(400))

    def error(predicts: str) -> float:
        training = Training(dataset, Recipe(hidden_size=8, epochs=20, predicts=predicts, seed=0))  # type: ignore[arg-type]
        list(training.run())
        rows = dataset.split.test_rows
        return root_mean_square(
            one_step(training.best_network(), dataset, rows) - dataset.truth[rows.start : rows.stop]
        )

    assert error("change") < 0.1 * error("level")


def test_a_diverging_training_stops_and_says_so():
    dataset = wave()
    training = Training(dataset, SMALL)
    with torch.no_grad():
        training.network.fc.bias.fill_(math.inf)
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        training.run_round()


def test_the_gradient_is_clipped():
    training = Training(wave(), replace(SMALL, clip=1e-3))
    training.truth = training.truth * 1e3
    training.run_round()
    norm = math.sqrt(
        sum(float(p.grad.square().sum()) for p in training.network.parameters() if p.grad is not None)
    )
    assert norm <= 1.001e-3


def test_the_cosine_schedule_falls_from_the_rate_towards_zero():
    rates = [Recipe(learning_rate=0.5).learning_rate_at(epoch / 10) for epoch in range(10)]
    assert rates[0] == 0.5
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.02
    assert Recipe(schedule="constant").learning_rate_at(0.7) == Recipe().learning_rate


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_size": 0},
        {"epochs": 0},
        {"streams": -1},
        {"patience": -1},
        {"closed_loop": -1},
        {"clip": math.nan},
        {"clip": math.inf},
        {"learning_rate": 0.0},
        {"learning_rate": math.inf},
        {"learning_rate": math.nan},
    ],
)
def test_an_impossible_recipe_is_refused_by_name(setting):
    with pytest.raises(BadRecipe, match=next(iter(setting))):
        Recipe(**setting)


def test_a_finished_training_leaves_an_artifact_metrics_and_a_figure(tmp_path):
    training = Training(wave(), SMALL)
    list(training.run())
    artifact = write_report(training, "wave", "sine", 1.5, tmp_path / "wave")
    loaded = load(tmp_path / "wave")
    assert loaded.fingerprint == artifact.fingerprint
    assert same_weights(loaded.network(), training.best_network())
    metrics = json.loads((tmp_path / "wave" / "metrics.json").read_text())
    assert metrics["fingerprint"] == artifact.fingerprint
    assert len(metrics["history"]["loss"]) == 6
    assert metrics["one_step"]["part"] == "test"
    assert metrics["free_run"]["warmup"] == 50
    assert (tmp_path / "wave" / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "wave").iterdir()) == [
        "figure.png",
        "metrics.json",
        "model.json",
        "weights.safetensors",
    ]


def test_a_network_that_cannot_run_freely_is_reported_without_a_free_run(tmp_path):
    series = Series("x", ("a", "b"), np.random.default_rng(0).normal(size=(100, 2)))
    dataset = prepare(series, [Column("a"), Column("b")], ["a"], split_rows(100))
    training = Training(dataset, replace(SMALL, epochs=1))
    list(training.run())
    artifact = write_report(training, "half", "x.csv", 0.1, tmp_path / "half")
    assert "free_run" not in artifact.metrics
    assert artifact.metrics["one_step"]["rmse"].keys() == {"a"}


def drifting_pair(rows: int = 300) -> Dataset:
    rng = np.random.default_rng(0)
    wave = np.sin(np.arange(rows) / 4)[:, None] + 0.1 * rng.normal(size=(rows, 3))
    series = Series("x", ("a", "plan", "b"), wave + np.array([0, 5, -2]))
    columns = [Column(name) for name in series.columns]
    return prepare(series, columns, ["b", "a"], split_rows(rows), future=["plan"])


def test_drift_moves_targets_equally_as_inputs_and_as_truth_and_nothing_else():
    dataset = drifting_pair()
    torch.manual_seed(0)
    observations = dataset.observations[:100].reshape(4, 25, 3)
    truth = dataset.truth[:100].reshape(4, 25, 2)
    moved, moved_truth = add_drift(observations, truth, dataset, 1.0)
    torch.testing.assert_close(moved[..., [2, 0]], moved_truth)
    torch.testing.assert_close(moved[..., 1], observations[..., 1])
    for stream in range(4):
        scale, level = np.polyfit(truth[stream, :, 0], moved_truth[stream, :, 0], 1)
        np.testing.assert_allclose(scale * truth[stream, :, 0] + level, moved_truth[stream, :, 0], atol=1e-4)
        assert abs(scale - 1) > 1e-3
    assert add_drift(observations, truth, dataset, 0.0)[0] is observations


def test_shuffled_streams_are_contiguous_rows_of_the_training_part():
    dataset = drifting_pair()
    training = Training(dataset, replace(SMALL, shuffled=True, streams=5))
    torch.manual_seed(0)
    observations, truth = training._streams_of_one()
    pairs = {tuple(row.tolist()): i for i, row in enumerate(dataset.observations[: dataset.split.train])}
    starts = [pairs[tuple(stream[0].tolist())] for stream in observations]
    assert len(set(starts)) > 1
    for start, stream, target in zip(starts, observations, truth, strict=True):
        torch.testing.assert_close(stream, dataset.observations[start : start + len(stream)])
        torch.testing.assert_close(target, dataset.truth[start + 1 : start + 1 + len(stream)])
        assert start + len(stream) < dataset.split.train


@pytest.mark.parametrize("learning", [Learning(), DRIFTING.learning])
def test_a_resumed_training_draws_the_same_random_numbers(tmp_path, learning):
    recipe = replace(DRIFTING, hidden_size=6, epochs=6, judge_every=2, learning=learning)
    whole, first, second = (Training(drifting_pair(), recipe) for _ in range(3))
    list(whole.run())
    for _ in range(3):
        first.run_round()
    save_checkpoint(first, tmp_path / "x")
    torch.rand(7)  # what others draw does not matter
    load_checkpoint(second, tmp_path / "x")
    list(second.run())
    assert second.history == whole.history
    assert same_weights(second.best_network(), whole.best_network())
    measured = [epoch.validation is not None for epoch in whole.history]
    assert measured == [False, True] * 3


OTHER_NETWORKS = [
    {"cell": "gru"},
    {"cell": "gru", "head": (12, 6), "num_layers": 2, "dropout": 0.1},
    {"cell": "rnn", "head": (5,), "closed_loop": 4},
]


@pytest.mark.parametrize("network", OTHER_NETWORKS)
def test_other_networks_are_trained_and_served_as_they_were_trained(network, tmp_path):
    recipe = replace(SMALL, epochs=12, streams=4, **network)
    training = Training(wave(), recipe)
    list(training.run())
    assert min(epoch.validation for epoch in training.history) < 0.6 * training.history[0].validation
    artifact = write_report(training, "wave", "sine", 1.0, tmp_path / "wave")
    rows = training.dataset.split.validation_rows
    run = simulate(Forecaster(artifact), unscaled_observations(training.dataset), rows, chunk=7)
    want = one_step(training.best_network(), training.dataset, rows)
    got = training.dataset.target_scaling.scale(run.predictions.astype(np.float64))
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_gru_with_a_head_is_trained_for_sessions_that_learn(rank):
    learning = replace(DRIFTING.learning, rank=rank)
    recipe = replace(
        DRIFTING, hidden_size=6, epochs=4, judge_every=1, cell="gru", head=(8,), learning=learning
    )
    training = Training(drifting_pair(), recipe)
    list(training.run())
    error = validation_error(training.best_network(), training.dataset, recipe)
    frozen = validation_error(training.best_network(), training.dataset, replace(recipe, learning=Learning()))
    assert error < frozen


def test_the_best_epoch_is_chosen_with_the_adapted_readout():
    recipe = replace(DRIFTING, hidden_size=6, epochs=4, judge_every=1)
    training = Training(drifting_pair(), recipe)
    list(training.run())
    error = validation_error(training.best_network(), training.dataset, recipe)
    assert error == pytest.approx(min(epoch.validation for epoch in training.history), rel=1e-6)
    frozen = validation_error(training.best_network(), training.dataset, replace(recipe, learning=Learning()))
    assert error < frozen


def test_weight_decay_and_dropout_have_an_effect():
    dataset = drifting_pair()

    def norm(**settings: float) -> float:
        training = Training(dataset, replace(SMALL, schedule="constant", **settings))
        list(training.run())
        return sum(float(weight.square().sum()) for weight in training.network.state_dict().values())

    assert norm(weight_decay=5.0) < 0.5 * norm()
    assert norm(dropout=0.5) != norm()
    network = initial_network(dataset, replace(SMALL, dropout=0.5)).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            network(dataset.observations[None])[0], network(dataset.observations[None])[0]
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dropout": 1.0}, "dropout"), ({"drift": -1.0}, "drift"), ({"judge_every": 0}, "judge_every")],
)
def test_invalid_settings_are_named(settings, message):
    with pytest.raises(BadRecipe, match=message):
        Recipe(**settings)


def test_a_finished_training_reports_how_its_sessions_do(tmp_path):
    training = Training(drifting_pair(), replace(DRIFTING, hidden_size=6, epochs=5))
    list(training.run())
    artifact = write_report(training, "pair", "x.csv", 1.0, tmp_path / "pair")
    again = load(tmp_path / "pair")
    assert again.fingerprint == artifact.fingerprint
    assert (again.learning.readout, again.future, len(again.learning.spread)) == ("rls", ("plan",), 4)
    served = again.metrics["served"]
    assert served["mse_scaled"] < again.metrics["one_step"]["persistence_mse_scaled"]
    assert set(served["coverage"]) == {"0.5", "0.8", "0.9", "0.95"}


def gappy_pair(share: float = 0.2) -> Dataset:
    whole = drifting_pair()
    values = whole.scaling.unscale(whole.observations.double().numpy())
    values[np.random.default_rng(1).random(values.shape) < share] = np.nan
    series = Series("x", whole.names, values, gaps=True)
    return prepare(series, whole.columns, whole.targets, whole.split, future=whole.future)


def test_the_loss_leaves_out_gaps():
    outputs, truth = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[math.nan, 1.0], [1.0, math.nan]])
    outputs.requires_grad_()
    loss = mean_squared_error(outputs, truth)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(((2 - 1) ** 2 + (3 - 1) ** 2) / 2)
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[0, 1], [2, 0]]
    assert float(mean_squared_error(outputs.detach(), truth * math.nan)) == 0


@pytest.mark.parametrize("learning", [Learning(), DRIFTING.learning])
def test_a_training_with_gaps_reports_no_nan(tmp_path, learning):
    recipe = replace(DRIFTING, hidden_size=6, epochs=4, judge_every=1, closed_loop=3, learning=learning)
    training = Training(gappy_pair(), recipe)
    epochs = list(training.run())
    assert all(math.isfinite(epoch.loss) for epoch in epochs)
    assert epochs[-1].loss < epochs[0].loss
    write_report(training, "pair", "x.csv", 1.0, tmp_path / "pair")  # which writes no NaN
    again = json.loads((tmp_path / "pair" / "metrics.json").read_text())
    assert again["one_step"]["mse_scaled"] > 0
    assert not learning.enabled or 0 < again["served"]["mse_scaled"] < 10


def silent_sensor(start: int, rows: int = 300) -> Dataset:
    """Two sines; the second is not observed from row `start` on."""
    angles = np.arange(rows) / 5
    values = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    values[start:, 1] = np.nan
    series = Series("x.csv", ("a", "b"), values, gaps=True)
    return prepare(series, [Column("a"), Column("b")], ["a", "b"], split_rows(rows))


@pytest.mark.parametrize("learning", [Learning(), Learning(readout="rls", levels=(0.5, 0.9))])
@pytest.mark.parametrize("start", [210, 255])
def test_a_sensor_that_is_silent_after_training_is_reported_as_null(tmp_path, learning, start):
    """In the test part alone, and in the validation part, too."""
    training = Training(silent_sensor(start), replace(SMALL, learning=learning))
    list(training.run())
    artifact = write_report(training, "pair", "x.csv", 1.0, tmp_path / "pair")
    assert load(tmp_path / "pair").fingerprint == artifact.fingerprint
    metrics = json.loads((tmp_path / "pair" / "metrics.json").read_text())
    assert metrics["one_step"]["rmse"]["a"] > 0
    assert metrics["one_step"]["rmse"]["b"] is None
    assert (tmp_path / "pair" / "figure.png").exists()
    assert bool(artifact.learning.spread) == (learning.enabled and start > 210)


@pytest.mark.parametrize("learning", [Learning(), Learning(readout="rls", levels=(0.5, 0.9))])
def test_a_test_part_without_any_value_leaves_an_artifact_without_measures(tmp_path, learning):
    values = np.sin(np.arange(300) / 5)[:, None]
    values[255:] = np.nan
    dataset = prepare(Series("x", ("a",), values, gaps=True), [Column("a")], ["a"], split_rows(300))
    training = Training(dataset, replace(SMALL, learning=learning))
    list(training.run())
    write_report(training, "x", "x.csv", 1.0, tmp_path / "x")
    metrics = load(tmp_path / "x").metrics
    assert metrics["one_step"]["mse_scaled"] is None
    assert metrics["one_step"]["skill"] is None
    if learning.enabled:
        assert metrics["served"] == {
            "part": "test",
            "mse_scaled": None,
            "coverage": {"0.5": None, "0.9": None},
        }


@pytest.mark.parametrize("learning", [Learning(), Learning(readout="gain", levels=(0.9,))])
def test_a_network_whose_predictions_are_infinite_still_leaves_an_artifact(tmp_path, learning):
    training = Training(wave(), replace(SMALL, learning=learning))
    list(training.run())
    for network in (training.network, training.best_weights):
        with torch.no_grad():
            weights = network if isinstance(network, dict) else network.state_dict()
            weights["fc.weight"].fill_(3e38)
            weights["fc.bias"].fill_(3e38)
    artifact = write_report(training, "wave", "sine", 1.0, tmp_path / "wave")
    assert artifact.metrics["one_step"]["mse_scaled"] is None
    assert artifact.metrics["free_run"]["rmse"] == {"value": None}
    assert artifact.learning.spread == ()
    assert not learning.enabled or artifact.metrics["served"]["mse_scaled"] is None


def test_the_last_step_of_an_epoch_may_not_leave_weights_that_are_not_finite(monkeypatch):
    training = Training(wave(Split(300, 0, 0)), SMALL)
    step = training.optimizer.step

    def ruined(*arguments):
        step(*arguments)
        with torch.no_grad():
            training.network.fc.bias.fill_(math.nan)

    pieces = -(-training.truth.shape[1] // SMALL.piece)
    calls = iter(range(pieces))
    monkeypatch.setattr(training.optimizer, "step", lambda: ruined() if next(calls) == pieces - 1 else step())
    with pytest.raises(TrainingDiverged, match="epoch 1: a weight is NaN"):
        training.run_round()


def test_a_training_that_diverges_later_keeps_the_best_epoch_before(tmp_path):
    training = Training(wave(), replace(SMALL, epochs=20))
    epochs = training.run()
    before = [next(epochs) for _ in range(3)]
    with torch.no_grad():
        training.network.fc.bias.fill_(math.inf)
    assert list(epochs) == []
    assert training.diverged is not None
    assert "epoch 4" in training.diverged
    assert validation_error(training.best_network(), training.dataset, SMALL) == pytest.approx(
        min(epoch.validation for epoch in before), rel=1e-6
    )
    assert "epoch 4" in write_report(training, "wave", "sine", 1.0, tmp_path / "wave").metrics["diverged"]


def test_a_validation_error_that_cannot_be_measured_is_not_the_best(monkeypatch):
    training = Training(wave(), SMALL)
    first = training.run_round()
    monkeypatch.setattr("models.training.training.one_step", lambda *_: torch.tensor(math.nan))
    second = training.run_round()
    assert (first.best, second.best, second.validation) == (True, False, None)


@pytest.mark.parametrize(
    ("columns", "targets", "settings", "message"),
    [
        (["a"], ["b"], {"predicts": "change"}, "'b' is not an input"),
        (["a"], ["b"], {"learning": Learning(readout="rls")}, "'b', which is not an input"),
        (["a"], ["a"], {"learning": Learning(readout="rls", rank=9)}, "rank 9"),
        (["a"], ["a"], {"hidden_size": 2000, "learning": Learning(readout="rls")}, "at most 1025"),
        (["a"], ["a"], {"num_layers": 65}, "num_layers"),
        (["a", ""], ["a"], {}, "column name"),
        (["a", "x" * 300], ["a"], {}, "column name"),
        (["a"], ["a", "a"], {}, "twice"),
    ],
)
def test_settings_that_the_artifact_would_refuse_are_refused_before_the_first_epoch(
    columns, targets, settings, message
):
    names = ("a", "b", "", "x" * 300)
    series = Series("x.csv", names, np.random.default_rng(0).normal(size=(300, 4)))
    dataset = prepare(series, [Column(name) for name in columns], targets, split_rows(300))
    with pytest.raises(BadInput, match=message):
        Training(dataset, replace(SMALL, **settings))
