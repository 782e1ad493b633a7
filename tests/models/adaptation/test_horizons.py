"""Forecasts that a session learns directly: what they compute, and what they never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.adaptation import horizon_kernels as kernels
from models.adaptation.horizons import HorizonLearner, shapes
from models.adaptation.layout import LearnedLayout
from models.artifact.files import load, save
from models.artifact.learning import HORIZON_EXPERTS, HORIZON_FEATURES, Learning, parse_learning
from models.errors import BadArtifact
from models.forecaster import Forecaster
from tests.helpers.zoo import series

SEASON = 12
LEARNING = Learning(levels=(0.5, 0.9), horizons=(1, 4, 12), season=SEASON)


class Stream:
    """A session of one learner; the network predicts the last value."""

    def __init__(self, learning: Learning = LEARNING, outputs: int = 1) -> None:
        self.layout = LearnedLayout(shapes(learning, outputs))
        self.learner = HorizonLearner(learning, outputs, self.layout)
        self.rows = np.zeros((1, self.layout.size), np.float32)
        ratios = np.ones((len(learning.levels), outputs), np.float32)
        self.learner.initialize(self.rows, ratios, np.ones(outputs, np.float32))

    def observe(self, value, network=None):
        value = np.atleast_1d(np.float32(value))[None]
        filled = np.where(np.isnan(value), np.float32(0), value)
        self.learner.observe(self.rows, value, filled)
        network = filled if network is None else np.atleast_1d(np.float32(network))[None]
        return self.learner.predict(self.rows, network)[0]

    def forecast(self, steps, first=1):
        return self.learner.forecast(self.rows, np.array([first]), steps)[0]

    def widths(self, steps):
        return self.learner.half_widths(self.rows, steps)[0]


def seasonal(count, noise=0.1, seed=0, trend=0.0):
    rng = np.random.default_rng(seed)
    at = np.arange(count)
    return np.sin(2 * np.pi * at / SEASON) + trend * at + noise * rng.normal(size=count)


class Plain:
    """The same in NumPy and float64, one output, written from the description alone."""

    def __init__(self, learning: Learning) -> None:
        self.learning, self.values, self.profile = learning, [], {}
        self.deviations: list[float] = []
        self.features: list[np.ndarray] = []
        self.gains: list[np.ndarray] = []
        self.covariance = np.eye(kernels.FEATURES)
        self.readouts = {h: np.zeros(kernels.FEATURES) for h in learning.horizons}
        self.said: dict[tuple[int, int], tuple[np.ndarray, float]] = {}
        self.regrets = {h: np.zeros(5) for h in learning.horizons}
        self.squares = {h: np.zeros(5) for h in learning.horizons}
        self.sizes = dict.fromkeys(learning.horizons, 1.0)
        self.mixture = {h: np.array([1, 1, 1, 0, 0]) / 3 for h in learning.horizons}
        self.mixture[1] = np.eye(5)[kernels.NETWORK]
        self.means = [0.0, 0.0]

    def observe(self, value, network):
        at, season = len(self.values), self.learning.season
        for h in self.learning.horizons:
            if at >= h:
                self.learn(h, at, value)
        phase = at % season
        if phase in self.profile:
            deviation = value - self.profile[phase]
            self.profile[phase] += max(0.1, 1 / (at // season + 1)) * deviation
        else:
            self.profile[phase], deviation = value, 0.0
        self.values.append(value)
        self.deviations.append(deviation)
        for i, window in enumerate((season, 7 * season)):
            self.means[i] += (value - self.means[i]) / min(at + 1, window)
        before = self.deviations[at - 1] if at else 0.0
        last_season = self.deviations[at - season + 1] if at + 1 >= season else 0.0
        distance = network - self.expected(at + 1)
        features = np.array([deviation, before, last_season, value, *self.means, distance, 1.0])
        product = self.covariance @ features
        gain = product / (0.999 + features @ product)
        fade = 1 / 0.999 if np.diag(self.covariance).max() < 10 else 1.0
        self.covariance = (self.covariance - np.outer(gain, product)) * fade
        self.features.append(features)
        self.gains.append(gain)
        self.network = network
        for h in self.learning.horizons:
            said = self.experts(h)
            self.said[at, h] = said, float(self.mixture[h] @ said)
        return self.said[at, 1][1]

    def expected(self, at):
        phase = at % self.learning.season
        return self.profile.get(phase, self.values[-1])

    def experts(self, h):
        at, season = len(self.values) - 1, self.learning.season
        profile = self.expected(at + h)
        # At h the season's last value is at most a season old.
        back = at + h - season * int(np.ceil(h / season))
        last = self.values[back] if at + 1 >= season else self.values[-1]
        own = profile + self.readouts[h] @ self.features[at]
        network = self.network if h == 1 else self.bounded(self.network)
        return np.array([self.bounded(own), profile, last, self.values[-1], network])

    def bounded(self, value):
        low, high = min(self.values), max(self.values)
        margin = (high - low) / 2
        return min(max(value, low - margin), high + margin)

    def learn(self, h, at, value):
        origin = at - h
        said, mixed = self.said[origin, h]
        bound = 6 * np.sqrt(self.sizes[h])
        error = value - said[kernels.PROFILE] - self.readouts[h] @ self.features[origin]
        self.readouts[h] = self.readouts[h] + np.clip(error, -bound, bound) * self.gains[origin]
        miss = np.clip(mixed - value, -bound, bound)
        regrets = np.clip(2 * miss * (mixed - said) / self.sizes[h], -18, 18)
        self.regrets[h] = 0.999 * self.regrets[h] + regrets
        self.squares[h] = 0.999 * self.squares[h] + regrets**2
        weights = np.maximum(self.regrets[h] - 1e-4, 0) / (1 + self.squares[h])
        if weights.sum() > 0:
            self.mixture[h] = weights / weights.sum()
        self.sizes[h] += (miss**2 - self.sizes[h]) / min(at - h + 2, 200)


def test_it_computes_what_a_plain_loop_computes():
    stream, plain = Stream(), Plain(LEARNING)
    network = seasonal(300, seed=1)
    for value, guess in zip(seasonal(300), network, strict=True):
        np.testing.assert_allclose(stream.observe(value, guess)[0], plain.observe(value, guess), atol=2e-4)
        expected = [plain.said[len(plain.values) - 1, h][1] for h in LEARNING.horizons]
        found = stream.forecast(12)[[h - 1 for h in LEARNING.horizons], 0]
        np.testing.assert_allclose(found, expected, atol=2e-4)


def test_it_learns_a_season_that_the_last_value_cannot_forecast():
    stream, values = Stream(), seasonal(1200)
    errors = []
    for at, value in enumerate(values):
        stream.observe(value)
        if 600 <= at < 1188:
            errors.append(stream.forecast(12)[:, 0] - values[at + 1 : at + 13])
    assert np.square(errors).mean() < 1.3 * 0.1**2  # the noise alone has 0.1 squared
    assert np.square(errors)[:, 11].mean() < 1.3 * 0.1**2


@pytest.mark.parametrize("learning", [LEARNING, replace(LEARNING, season=1)], ids=["season", "none"])
def test_a_forecast_stays_within_the_observed_range_and_half_of_it(learning):
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=400).cumsum(), np.exp(np.arange(300) / 30), rng.standard_cauchy(400)):
        stream = Stream(learning)
        scaled = (values - values.mean()) / values.std()
        for at, value in enumerate(scaled):
            stream.observe(value)
            seen = scaled[: at + 1]
            margin = np.ptp(seen) / 2 + 1e-4
            forecast = stream.forecast(100)
            assert forecast.min() >= seen.min() - margin
            assert forecast.max() <= seen.max() + margin


def test_intervals_cover_at_every_horizon_and_in_every_part_of_the_season():
    """The noise is ten times larger in one half of the season."""
    rng = np.random.default_rng(3)
    count = 6000
    loud = np.arange(count) % SEASON < SEASON // 2
    values = seasonal(count, noise=0) + np.where(loud, 0.3, 0.03) * rng.normal(size=count)
    stream, inside = Stream(), []
    for at, value in enumerate(values[:-12]):
        stream.observe(value)
        if at >= 2000:
            within = (
                np.abs(stream.forecast(12)[:, 0] - values[at + 1 : at + 13]) <= stream.widths(12)[:, 1, 0]
            )
            inside.append(within)
    inside = np.array(inside)
    target = np.arange(2000, count - 12)[:, None] + 1 + np.arange(12)
    for h in LEARNING.horizons:
        assert abs(inside[:, h - 1].mean() - 0.9) < 0.02
        for part in (loud, ~loud):
            assert abs(inside[:, h - 1][part[target[:, h - 1]]].mean() - 0.9) < 0.06


def test_intervals_cover_again_soon_after_a_stream_has_stood_still():
    still, count = 10_000, 3000
    values = np.concatenate([np.zeros(still), np.random.default_rng(4).normal(size=count).cumsum()])
    stream, inside = Stream(), []
    for at, value in enumerate(values[:-4]):
        stream.observe(value)
        if at >= still:
            errors = np.abs(stream.forecast(4)[:, 0] - values[at + 1 : at + 5])
            inside.append(errors <= stream.widths(4)[:, 1, 0])
    covered = np.array(inside)[:, [0, 3]]
    assert covered[:1000].mean() > 0.75
    assert abs(covered[2000:].mean() - 0.9) < 0.05


def test_what_comes_later_changes_no_forecast():
    first, second = Stream(), Stream()
    for value in seasonal(200):
        first.observe(value)
        second.observe(value)
    before = first.forecast(20).copy()
    for value in (5.0, -5.0, 9.0):
        second.observe(value)
    np.testing.assert_array_equal(first.forecast(20), before)


def test_a_step_between_two_horizons_follows_the_season():
    stream = Stream(replace(LEARNING, horizons=(1, 12)))
    values = seasonal(600, noise=0)
    for value in values[:580]:
        stream.observe(value, network=0)
    np.testing.assert_allclose(stream.forecast(20)[:, 0], values[580:], atol=0.05)


def test_a_forecast_in_parts_is_the_whole():
    stream = Stream()
    for value in seasonal(100):
        stream.observe(value)
    whole = stream.forecast(30)
    np.testing.assert_array_equal(np.concatenate([stream.forecast(7), stream.forecast(23, first=8)]), whole)


@pytest.mark.parametrize("spike", [1e4, 1e9, 1e18])
def test_a_single_spike_does_not_ruin_the_forecasts(spike):
    errors = []
    for spiked in (False, True):
        stream, values = Stream(), seasonal(1200)
        for at, value in enumerate(values[:-12]):
            stream.observe(spike if spiked and at == 300 else value)
            if at == 1100:
                errors.append(np.square(stream.forecast(12)[:, 0] - values[at + 1 : at + 13]).mean())
        assert np.isfinite(stream.rows).all()
    assert errors[1] < 4 * errors[0]


@pytest.mark.parametrize("spike", [1e5, 1e6, 1e9])
def test_the_state_of_a_stream_of_many_spikes_can_be_imported(spike):
    values, refused = np.random.default_rng(0).normal(size=3000), 0
    values[::50] *= spike
    stream = Stream()
    for value in values:
        stream.observe(value)
        try:
            stream.learner.check(stream.rows)
        except ValueError:
            refused += 1
    assert refused == 0


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_stream_that_does_not_change_is_forecast_exactly(value):
    stream = Stream()
    for _ in range(2000):
        stream.observe(value)
    np.testing.assert_allclose(stream.forecast(30), value, atol=1e-3)
    assert np.isfinite(stream.rows).all()


@pytest.mark.parametrize("start", [10, 1000])
def test_a_stream_that_begins_to_change_after_a_time_is_followed(start):
    """Its range had no width when it was taken to be known."""
    stream, values = Stream(), np.concatenate([np.zeros(start), 5 + seasonal(900)])
    for value in values[:-12]:
        stream.observe(value)
    assert np.square(stream.forecast(12)[:, 0] - values[-12:]).mean() < 3 * 0.1**2


def test_the_next_prediction_is_the_networks_where_nothing_was_learned_to_be_better():
    stream = Stream()
    for _ in range(20):
        stream.observe(0.0)
    assert stream.observe(0.0, network=7.0)[0] == 7.0


def test_a_missing_value_teaches_nothing():
    stream = Stream()
    for value in seasonal(100):
        stream.observe(value)
    learned = ("readouts", "regrets", "mixture", "sizes", "horizon_ratios", "phase_sizes")
    before = {name: stream.layout.parts(stream.rows[0])[name].copy() for name in learned}
    stream.observe(np.nan)
    for name, part in before.items():
        np.testing.assert_array_equal(stream.layout.parts(stream.rows[0])[name], part, err_msg=name)


def test_the_kernels_have_the_sizes_of_the_artifact():
    assert (kernels.FEATURES, kernels.EXPERTS) == (HORIZON_FEATURES, HORIZON_EXPERTS)


# Artifacts.


@pytest.fixture
def artifact(artifacts):
    return replace(artifacts["pair"], learning=replace(LEARNING, readout="rls"))


def test_an_artifact_keeps_what_its_sessions_begin_with(artifact, tmp_path):
    forecaster = Forecaster(artifact)
    whole = series("pair", 200)
    carry = forecaster.observe(whole, np.array([200]), forecaster.new_carry[None]).carries[0]
    taught = replace(artifact, weights={**artifact.weights, **forecaster.horizons_prior(carry)})
    save(taught, tmp_path / "taught")
    loaded = load(tmp_path / "taught")
    assert loaded.fingerprint == taught.fingerprint != artifact.fingerprint
    begun, empty = Forecaster(loaded).new_carry, forecaster.new_carry
    assert np.abs(begun - empty).max() > 0.01
    kept = Forecaster(loaded).horizons_prior(begun)
    for name, part in forecaster.horizons_prior(carry).items():
        np.testing.assert_array_equal(kept[name], part, err_msg=name)


def test_an_artifact_without_horizons_has_the_fingerprint_that_it_had(artifacts):
    assert artifacts["adaptive"].learning.horizons == ()
    fields = artifacts["adaptive"].learning.as_dict()
    older = {name: value for name, value in fields.items() if name not in ("horizons", "season")}
    assert parse_learning(older) == artifacts["adaptive"].learning
    assert artifacts["adaptive"].fingerprint.startswith(FINGERPRINT)


FINGERPRINT = "0d93716f88a1a6b3"  # of the release before horizons


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizons": (4, 8)}, "ascend from 1"),
        ({"horizons": (1, 8, 4)}, "ascend from 1"),
        ({"horizons": (1, 1001)}, "from 1 to 1000"),
        ({"horizons": (1, 2.5)}, "whole numbers"),
        ({"horizons": tuple(range(1, 18))}, "at most 16"),
        ({"levels": ()}, "need levels"),
        ({"season": 0}, "season must be"),
        ({"season": True}, "season must be"),
    ],
    ids=str,
)
def test_horizons_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(BadArtifact, match=message):
        replace(LEARNING, **changes)


def test_a_model_with_inputs_known_ahead_cannot_learn_horizons(artifacts):
    planned = artifacts["planned"]
    with pytest.raises(BadArtifact, match="ignores plan"):
        Forecaster(replace(planned, learning=replace(planned.learning, horizons=(1, 4))))


def test_targets_that_do_not_cover_the_inputs_can_still_be_forecast(artifacts):
    forecaster = Forecaster(replace(artifacts["partial"], learning=LEARNING))
    whole = series("partial", 50)
    carries = forecaster.observe(whole, np.array([50]), forecaster.new_carry[None]).carries
    assert forecaster.missing == ()
    assert forecaster.roll_out(carries, 5)[0].shape == (1, 5, 1)
