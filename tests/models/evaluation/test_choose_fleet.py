"""Where no recipe was given, what sessions of many series learn had the smallest validation errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact.learning import Learning
from models.data.dataset import Dataset, Split, prepare
from models.data.scaling import Column
from models.data.series import Series
from models.evaluation import choose_fleet as choosing
from models.evaluation.choose_fleet import choose_of_fleet, most_common
from models.training.recipe import Recipe
from models.training.training import Training

torch.set_num_threads(1)

RECIPE = Recipe(
    hidden_size=4,
    epochs=1,
    streams=2,
    piece=20,
    predicts="change",
    learning=Learning(readout="rls", inputs=True, forgetting=0.99, levels=(0.9,)),
)


def season(level: float, seed: int, split: Split = Split(140, 80, 20)) -> Dataset:
    """Twelve values that come again, of each series its own, under little noise."""
    random = np.random.default_rng(seed)
    values = level + np.tile(random.normal(size=12), 20) + 0.05 * random.normal(size=240)
    return prepare(Series("x.csv", ("a",), values[:, None]), [Column("a")], ["a"], split)


@pytest.fixture(scope="module")
def training() -> Training:
    training = Training([season(5.0, 1), season(-3.0, 2)], RECIPE)
    list(training.run())
    return training


def test_sessions_learn_the_season_where_that_is_best_on_all_series(training):
    choice = choose_of_fleet(training)
    assert choice.name == "drifting with horizons"
    assert (choice.series, choice.season, choice.recipe.learning.season) == (2, 12, 12)
    assert choice.recipe.learning.horizons[-1] == 12
    assert choice.recipe == replace(RECIPE, learning=choice.recipe.learning)
    assert choice.ways["drifting with horizons"] < choice.ways["drifting"] / 2
    assert set(choice.baselines) == {"persistence", "seasonal naive", "online AR"}
    assert choice.lines()[-1] == "kept: drifting with horizons"


def test_the_better_one_is_kept(training, monkeypatch):
    errors = {True: (0.3, 0.2), False: (0.2, 0.1)}
    monkeypatch.setattr(
        choosing, "session_errors", lambda _, __, recipe, ___: errors[bool(recipe.learning.horizons)]
    )
    choice = choose_of_fleet(training)
    assert (choice.name, choice.recipe) == ("drifting", RECIPE)
    assert choice.ways["drifting"] == pytest.approx(0.02**0.5)


def test_nothing_is_chosen_without_validation_rows():
    series = [season(0.0, seed, Split(200, 0, 40)) for seed in (1, 2)]
    assert choose_of_fleet(Training(series, RECIPE)) is None


def test_the_season_is_that_of_most_series():
    assert most_common([None, 12, 12, 24]) == 12
    assert most_common([24, None, None]) is None
