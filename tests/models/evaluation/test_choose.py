"""Where no recipe was given, what is kept is what had the smallest errors on the validation part."""

from contextlib import nullcontext
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from models.artifact.learning import Learning
from models.data.dataset import Dataset, Split, can_be_judged, prepare
from models.data.scaling import Column
from models.data.series import Series
from models.errors import TrainingDiverged
from models.evaluation import choose as choosing
from models.evaluation.choose import Choice, choose, mean_error, what_is_judged
from models.training.recipe import Recipe

torch.set_num_threads(1)

SMALL = Recipe(hidden_size=4, epochs=3, streams=2, piece=20)
LEARNS = replace(
    SMALL, predicts="change", learning=Learning(readout="rls", inputs=True, forgetting=0.99, levels=(0.9,))
)
DIVERGES = replace(SMALL, learning_rate=1e30, clip=0.0, schedule="constant")
SPLIT = Split(140, 80, 20)


class Silent:
    """A display."""

    def show(self, epoch) -> None:
        """Show nothing."""


def wave(rows: int = 240) -> np.ndarray:
    """A season of 12 rows under noise."""
    return np.sin(np.arange(rows) * np.pi / 6) + 0.1 * np.random.default_rng(0).normal(size=rows)


def dataset_of(target: np.ndarray, other: np.ndarray | None = None, split: Split = SPLIT) -> Dataset:
    """The target is the input, too, unless there is another."""
    values, inputs = ([target], ["a"]) if other is None else ([target, other], ["b"])
    series = Series("x.csv", ("a", "b")[: len(values)], np.stack(values, axis=1), gaps=True)
    return prepare(series, [Column(name) for name in inputs], ["a"], split)


def chosen(dataset: Dataset, seconds: float = 100, clock=None) -> Choice:
    return choose(dataset, seconds, lambda training: nullcontext(Silent()), clock=clock or (lambda: 0.0))


@pytest.fixture(autouse=True)
def small_recipes(monkeypatch):
    monkeypatch.setattr(choosing, "RECIPES", {"drifting": LEARNS, "default": SMALL})


def test_the_best_of_all_recipes_is_kept_and_four_lines_say_why():
    dataset = dataset_of(wave())
    choice = chosen(dataset)
    truth = dataset.truth.double().numpy()[:, 0]
    rows = np.arange(140, 220)
    starts = np.arange(140, 220 - 12 + 1)[:, None] + np.arange(12)
    expected = {
        "persistence": (truth[rows - 1], truth[starts[:, :1] - 1]),
        "seasonal naive": (truth[rows - 12], truth[starts - 12]),
    }
    for name, (one, several) in expected.items():
        errors = np.mean((one - truth[rows]) ** 2), np.mean((several - truth[starts]) ** 2)
        np.testing.assert_allclose(choice.baselines[name], errors, rtol=1e-6)
    assert set(choice.networks) == {"drifting", "no change", "drifting with horizons", "default"}
    assert choice.name == min(choice.networks, key=lambda name: mean_error(choice.networks[name]))
    assert choice.judged.season == 12
    lines = choice.lines()
    assert len(lines) == 4
    assert lines[0].endswith("over 12 steps; a season of 12 rows")
    assert lines[3].startswith(f"kept: {choice.name}; its mean error is ")
    assert choice.as_dict()["mse_scaled"].keys() == {*choice.baselines, *choice.networks}


def test_what_is_kept_has_the_horizons_and_the_season_that_were_judged(monkeypatch):
    monkeypatch.setattr(choosing, "mean_error", lambda errors: errors[-1])
    choice = chosen(dataset_of(wave()))
    assert choice.name == "drifting with horizons"
    assert choice.training.recipe.learning.horizons == (1, 3, 4, 6, 7, 9, 10, 12)
    assert choice.training.recipe.learning.season == 12


def test_a_season_that_is_over_in_the_validation_part_is_none():
    ended = wave()
    assert what_is_judged(dataset_of(ended)).season == 12
    ended[140:] = np.linspace(ended[139], 5, 100)
    judged = what_is_judged(dataset_of(ended))
    assert (judged.season, judged.steps) == (None, 24)


def test_a_warning_says_so_where_nothing_is_better_than_what_needs_no_network():
    walk = np.random.default_rng(1).normal(size=240).cumsum()
    choice = chosen(dataset_of(walk), seconds=0)
    assert choice.warning == f"no network is better than {choice.best_baseline}, which needs none"


def test_what_predicts_no_change_is_kept_where_persistence_is_best():
    flat = np.concatenate([np.tile([0.0, 3.0, -2.0, 1.0], 30), np.full(120, 2.0)])
    flat[150:] += 0.01 * np.random.default_rng(2).normal(size=90).cumsum()
    choice = chosen(dataset_of(flat), seconds=0)
    assert (choice.name, choice.best_baseline) == ("no change", "persistence")
    np.testing.assert_allclose(choice.networks["no change"], choice.baselines["persistence"], rtol=1e-3)
    assert choice.warning == "no network is better than persistence, which needs none"
    assert choice.training.recipe.learning.readout == "off"


def test_the_epochs_of_all_trainings_fit_into_the_time(monkeypatch):
    endless = {"epochs": 1000, "patience": 0, "hidden_size": 2}
    recipes = {"drifting": replace(LEARNS, **endless), "default": replace(SMALL, **endless)}
    monkeypatch.setattr(choosing, "RECIPES", recipes)
    shown: list[int] = []
    monkeypatch.setattr(Silent, "show", lambda self, epoch: shown.append(epoch.number))
    ticks = count()
    choice = chosen(dataset_of(wave()), seconds=20, clock=lambda: float(next(ticks)))
    assert next(ticks) <= 20 + 6
    assert shown[-1] >= 2
    assert choice.training.recipe.epochs == len(choice.training.history)


def test_without_time_each_training_has_one_epoch():
    ticks = count()
    choice = chosen(dataset_of(wave()), seconds=0, clock=lambda: float(next(ticks)))
    assert len(choice.training.history) == 1


def test_a_training_that_diverges_is_named_and_not_kept(monkeypatch):
    monkeypatch.setattr(choosing, "RECIPES", {"drifting": DIVERGES, "default": SMALL})
    choice = chosen(dataset_of(wave()))
    assert (choice.name, choice.diverged) == ("default", ("drifting",))
    assert choice.lines()[2].endswith(", drifting diverged")


def test_nothing_is_kept_where_all_diverge_or_forecasts_are_infinite(monkeypatch):
    monkeypatch.setattr(choosing, "RECIPES", {"drifting": DIVERGES, "default": DIVERGES})
    with pytest.raises(TrainingDiverged, match="every network diverged"):
        chosen(dataset_of(wave()))
    monkeypatch.setattr(choosing, "RECIPES", {"drifting": LEARNS, "default": SMALL})
    monkeypatch.setattr(choosing, "session_errors", lambda *arguments: (0.1, np.inf))
    with pytest.raises(TrainingDiverged, match="every network diverged"):
        chosen(dataset_of(wave()))


def test_a_target_that_is_not_an_input_is_judged_one_step_ahead():
    choice = chosen(dataset_of(wave(), np.roll(wave(), 3)))
    assert set(choice.networks) == {"default"}
    assert [len(errors) for errors in choice.baselines.values()] == [1] * len(choice.baselines)


def test_nothing_can_be_judged_without_observations_in_the_validation_part():
    silent = wave()
    silent[140:220] = np.nan
    assert not can_be_judged(dataset_of(silent))
    assert not can_be_judged(dataset_of(wave(), split=Split(200, 0, 40)))
    assert can_be_judged(dataset_of(wave()))
