"""One network for many series: an artifact whose sessions begin with what all of them have taught."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.artifact.files import load
from models.artifact.learning import Learning
from models.data.dataset import Dataset, Split, prepare
from models.data.scaling import Column
from models.data.series import Series
from models.errors import BadData, BadRecipe
from models.evaluation.fleet_backtest import as_document, backtest_fleet, overall_scores
from models.evaluation.fleet_report import write_fleet_report
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.fleet import READOUTS, VARIANCES, build_fleet_artifact, check_fleet, joined_priors
from models.training.recipe import Recipe
from models.training.simulation import with_horizons_prior
from models.training.training import Training, fleet_validation_error, validation_error

SPLIT = Split(90, 30, 30)
RECIPE = Recipe(
    hidden_size=4,
    epochs=2,
    streams=2,
    piece=20,
    predicts="change",
    learning=Learning("rls", levels=(0.5, 0.9), horizons=(1, 6), season=6, forgetting=0.99),
)


def wave(level: float, size: float, seed: int) -> Series:
    rows = np.arange(150)
    values = level + size * (
        np.sin(rows * 2 * np.pi / 6) + 0.3 * np.random.default_rng(seed).normal(size=150)
    )
    return Series(f"{level:g}.csv", ("y",), values[:, None])


SERIES = {"low": wave(5, 1, 0), "high": wave(900, 40, 1), "other": wave(-70, 3, 2)}


@pytest.fixture(scope="module")
def datasets() -> dict[str, Dataset]:
    return {name: prepare(SERIES[name], [Column("y")], ["y"], SPLIT) for name in ("low", "high")}


@pytest.fixture(scope="module")
def training(datasets) -> Training:
    training = Training(list(datasets.values()), RECIPE)
    list(training.run())
    return training


@pytest.fixture(scope="module")
def artifact(training, datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet") / "waves"
    artifact = write_fleet_report(training, datasets, (90, 30, 30), "waves", 1.0, folder)
    assert load(folder).fingerprint == artifact.fingerprint
    assert {path.name for path in folder.iterdir()} >= {"model.json", "metrics.json", "figure.png"}
    return load(folder)


def test_each_series_is_scaled_by_its_own_training_part(artifact):
    for name in ("low", "high"):
        scaling = artifact.fleet.scaling(name)
        past = SERIES[name].values[: SPLIT.train]
        np.testing.assert_allclose(scaling.mean, past.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(scaling.std, past.std(axis=0), rtol=1e-6)
    assert artifact.fleet.scaling("other") is None


def test_an_epoch_is_judged_on_all_series(training, datasets):
    errors = [validation_error(training.network, each, RECIPE) for each in datasets.values()]
    joined = fleet_validation_error(training.network, list(datasets.values()), RECIPE)
    assert joined == pytest.approx(np.mean(errors))
    assert errors[0] != errors[1]


def test_a_resumed_training_gives_the_same(training, datasets, tmp_path):
    begun = Training(list(datasets.values()), RECIPE)
    begun.run_round()
    save_checkpoint(begun, tmp_path / "half")
    resumed = Training(list(datasets.values()), RECIPE)
    load_checkpoint(resumed, tmp_path / "half")
    list(resumed.run())
    for ours, theirs in zip(resumed.network.parameters(), training.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_sessions_begin_with_the_readouts_that_fit_all_series(artifact, training, datasets):
    bare = build_fleet_artifact(training.best_network(), datasets, training.recipe)
    bare = replace(bare, weights={k: v for k, v in bare.weights.items() if not k.startswith("horizons.")})
    learned = [with_horizons_prior(bare.of_series(d.scaling), d).weights for d in datasets.values()]
    joined = joined_priors(learned)
    np.testing.assert_allclose(artifact.weights[READOUTS], joined[READOUTS], rtol=1e-5)
    precisions = [np.linalg.inv(each[VARIANCES].astype(float)) for each in learned]
    squares = sum(precisions)  # the normal equations of both series together
    pulls = sum(
        np.einsum("oij,hoj->hoi", p, each[READOUTS].astype(float))
        for p, each in zip(precisions, learned, strict=True)
    )
    both = np.linalg.solve(squares[None], pulls[..., None])[..., 0]
    np.testing.assert_allclose(joined[READOUTS], both, rtol=1e-3, atol=1e-4)


def test_the_prior_of_one_series_is_its_own(artifact, training, datasets):
    single = with_horizons_prior(artifact.of_series(datasets["low"].scaling), datasets["low"]).weights
    joined = joined_priors([single, single])
    for name, weights in joined.items():
        np.testing.assert_allclose(weights, single[name], rtol=1e-2, atol=1e-4)


def test_the_backtest_of_many_series_has_each_and_their_means(artifact):
    results = list(backtest_fleet(artifact, SERIES, (90, 30, 30), horizons=(6,)))
    assert [(result.name, result.known) for result in results] == [
        ("low", True),
        ("high", True),
        ("other", False),
    ]
    errors = [result.backtest.scores["network"].mse for result in results]
    assert all(0 < error < 3 for error in errors)  # scaled: also of the series that found its own scale
    assert overall_scores(results)["network"].mse == pytest.approx(np.mean(errors))
    document = as_document(artifact, results)
    assert document["overall"]["scaled"]["network"]["mse"] == pytest.approx(np.mean(errors))
    assert set(document["overall"]["forecasts"]) >= {"network", "persistence", "seasonal naive"}
    assert [each["series"] for each in document["by_series"]] == list(SERIES)


def test_a_series_without_a_value_in_its_training_part_is_named(artifact):
    values = SERIES["other"].values.copy()
    values[:90] = np.nan
    fleet = {"other": replace(SERIES["other"], values=values, gaps=True)}
    with pytest.raises(BadData, match=r"series 'other'.*'y' has no value in the training part"):
        list(backtest_fleet(artifact, fleet, (90, 30, 30)))


def test_metrics_are_means_over_the_series(artifact):
    metrics = artifact.metrics
    assert metrics["data"] == {"series": 2, "parts": [90, 30, 30]}
    results = list(backtest_fleet(artifact, {name: SERIES[name] for name in ("low", "high")}, (90, 30, 30)))
    served = np.mean([result.backtest.scores["network"].mse for result in results])
    assert metrics["served"]["mse_scaled"] == pytest.approx(served, rel=1e-4)


def test_what_cannot_become_a_fleet_is_refused_before_the_training(datasets):
    with pytest.raises(BadRecipe, match="scales each of them"):
        check_fleet(datasets, replace(RECIPE, scaled=False))
    series = Series("x", ("a", "b"), np.random.default_rng(0).normal(size=(150, 2)))
    with pytest.raises(BadData, match="'b' is not an input"):
        check_fleet({"x": prepare(series, [Column("a")], ["b"], SPLIT)}, RECIPE)
