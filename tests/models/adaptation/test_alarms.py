"""Alarms come at the rate of the rule, say what they found, and do not depend on how a stream is cut."""

from __future__ import annotations

import numpy as np
import pytest

from models.adaptation.alarm_kernels import CALM, CLEARED, NOVELTY, PHASE, RAISED
from models.adaptation.alarms import ANY, KIND_NAMES, WEEK, Alarms, Followed, rates
from models.adaptation.learner import Scores

HOUR = 3600.0
HOURS = int(WEEK / HOUR)
WEEKS = 10


def scores_of(errors: np.ndarray) -> Scores:
    """Errors [total, outputs] as a pass gives them, with intervals of 1.6 standard deviations."""
    total, outputs = errors.shape
    scores = Scores.empty(total, outputs, 1)
    scores.errors[:] = errors
    scores.widths[:] = 1.6
    return scores


def follow(
    errors: np.ndarray,
    kind: str = ANY,
    refractory: int = 6,
    weekly: float = 1.0,
    states: np.ndarray | None = None,
    moves: np.ndarray | None = None,
    period: int = 24,
) -> tuple[Followed, np.ndarray]:
    """What is found in errors [sessions, rows, outputs], and the states after them.

    `moves`: how far each value is from the one before; by default not at all
    """
    sessions, rows, outputs = errors.shape
    alarms = Alarms(outputs, (0.9,))
    states = np.repeat(alarms.new_state[None], sessions, axis=0) if states is None else states
    rate = np.repeat(rates(kind, weekly, HOUR)[None], sessions, axis=0)
    scores = scores_of(errors.reshape(-1, outputs))
    if moves is not None:
        scores.changes[:] = moves.reshape(-1, outputs)
    found = alarms.follow(
        states,
        np.full(sessions, rows),
        scores,
        rate,
        np.full(sessions, refractory),
        np.full(sessions, period),
    )
    return found, states


def noise(kind: str, sessions: int, rows: int) -> np.ndarray:
    random = np.random.default_rng(5)
    values = (
        random.standard_t(3, (sessions, rows))
        if kind == "heavy"
        else random.standard_normal((sessions, rows))
    )
    if kind == "dependent":
        for row in range(1, rows):
            values[:, row] += 0.7 * values[:, row - 1]
    if kind == "daily":
        values *= 1.2 + np.sin(2 * np.pi * np.arange(rows) / 24)
    return values[..., None]


@pytest.mark.parametrize("kind", ["normal", "heavy", "dependent", "daily"])
def test_a_quiet_stream_has_as_many_alarms_as_the_rule_says(kind):
    sessions = 40
    found, _ = follow(noise(kind, sessions, WEEKS * HOURS))
    weekly = np.sum(found.changes == RAISED) / sessions / WEEKS
    assert 0.5 < weekly < 2


def test_more_are_asked_for_and_more_are_raised():
    errors = noise("normal", 20, WEEKS * HOURS)
    counts = [int(np.sum(follow(errors, weekly=weekly)[0].changes == RAISED)) for weekly in (0.25, 1, 4)]
    assert counts[0] * 2 < counts[1] < counts[2] / 2


def disturbed(kind: str) -> np.ndarray:
    errors = noise("normal", 1, 4 * HOURS)
    place = slice(3 * HOURS, 3 * HOURS + 1) if kind == "value" else slice(3 * HOURS, None)
    errors[:, place] += {"value": -9.0, "level shift": -1.8, "trend": -0.6}[kind]
    return errors


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_what_happened_is_named(kind):
    found, _ = follow(disturbed(kind), kind, weekly=0.1 if kind == "value" else 0.5)
    (first, *_) = [row for row in np.flatnonzero(found.changes == RAISED) if row >= 3 * HOURS]
    cause = found.cause(first)
    assert (cause.kind, cause.output, cause.above) == (kind, 0, False)
    assert cause.expected < 0.5 / HOURS
    if kind == "value":
        assert first == 3 * HOURS
        assert cause.size > 6
        assert cause.beyond == pytest.approx(cause.size - 1.6, abs=0.5)
    else:
        assert 3 * HOURS < first < 3 * HOURS + 60
        assert 0 < cause.steps < 200


def test_the_output_that_raised_it_is_named():
    errors = np.concatenate([noise("daily", 1, 600), disturbed("value")[:, :600]], axis=2)
    found, _ = follow(errors, "value", weekly=0.2)
    assert found.cause(3 * HOURS).output == 1


def test_chunks_and_neighbours_change_nothing():
    errors = noise("heavy", 3, 700)
    errors[1, ::7] = np.nan  # gaps
    moves = np.diff(noise("dependent", 3, 700), axis=1, prepend=0.0)
    whole, states = follow(errors, moves=moves)
    alone = [follow(errors[i : i + 1], moves=moves[i : i + 1]) for i in range(3)]
    assert np.array_equal(whole.changes, np.concatenate([found.changes for found, _ in alone]))
    assert np.array_equal(states, np.concatenate([state for _, state in alone]))
    cut = follow(errors[:, :1], moves=moves[:, :1])[1]
    scores = [np.full((3, 1), np.nan)]
    for start, stop in ((1, 300), (300, 301), (301, 700)):
        part = follow(errors[:, start:stop], states=cut, moves=moves[:, start:stop])[0]
        scores.append(part.scores.reshape(3, -1))
    assert np.array_equal(cut, states)
    np.testing.assert_array_equal(np.concatenate(scores, axis=1).ravel(), whole.scores)


def test_an_output_that_is_observed_late_is_no_level_shift():
    late, values = 1000, noise("normal", 1, 2000)[0, :, 0] + 20
    errors = np.concatenate([noise("normal", 1, 2000), noise("heavy", 1, 2000)], axis=2)
    moves = np.concatenate([np.zeros((1, 2000, 1)), np.diff(values, prepend=0.0)[None, :, None]], axis=2)
    errors[:, :late, 1] = moves[:, :late, 1] = np.nan
    moves[0, late, 1] = values[late]
    found, _ = follow(errors, moves=moves)
    raised = [found.cause(row) for row in np.flatnonzero(found.changes == RAISED)]
    assert max(cause.size for cause in raised) < 20
    assert np.nanmax(found.scores[late : late + 100]) < 2 * np.nanmax(found.scores[:late])


def test_an_incident_raises_one_alarm_which_is_cleared_after_the_refractory_time():
    errors = noise("normal", 1, 4 * HOURS) / 4
    errors[:, 500:520] += 5
    found, states = follow(errors, "value", refractory=50, weekly=0.1)
    assert np.flatnonzero(found.changes == RAISED).tolist() == [500]
    (cleared,) = np.flatnonzero(found.changes == CLEARED)
    crossed = cleared - 50
    assert 519 <= crossed < 550  # the last errors count for a while
    assert states[0, CALM] == -1


def test_a_stream_that_stays_noisier_is_followed():
    errors = noise("normal", 10, 2 * WEEKS * HOURS)
    errors[:, WEEKS * HOURS :] *= 3
    changes = follow(errors)[0].changes.reshape(10, 2 * WEEKS, HOURS)
    late = np.sum(changes[:, -5:] == RAISED) / 10 / 5
    assert 0.1 < late < 2  # for some weeks the rate is lower, because of the alarms that it raised


def test_a_gap_changes_nothing_but_the_band():
    errors = noise("normal", 1, 300)
    _, before = follow(errors)
    after = before.copy()
    found, _ = follow(np.full((1, 5, 1), np.nan), states=after)
    assert np.isnan(found.scores).all()
    changed = np.flatnonzero((before != after).any(axis=0))
    assert changed.tolist() == [PHASE]
    assert after[0, PHASE] == (before[0, PHASE] + 5) % 24


def test_a_day_at_the_wrong_time_has_higher_scores_though_no_prediction_fails():
    rows, day = 30 * 24, slice(20 * 24, 21 * 24)
    errors = 0.1 * noise("normal", 1, rows)
    values = 10 * np.sin(2 * np.pi * np.arange(rows) / 24)
    odd = values.copy()
    odd[day] = np.roll(values[day], 6)
    usual, unusual = (
        follow(errors, moves=np.diff(each, prepend=0.0)[None, :, None])[0].scores for each in (values, odd)
    )
    np.testing.assert_array_equal(usual[: day.start], unusual[: day.start])
    assert unusual[day].mean() > 1.3 * usual[day].mean()


def test_values_that_come_in_another_order_are_new_until_they_are_usual():
    change, stop = 1920, 4800
    errors, values = noise("normal", 1, stop), noise("normal", 1, stop)[0, :, 0]
    ordered = np.concatenate([values[:change], np.sort(values[change:].reshape(-1, 96)).ravel()])
    found = {}
    for name, each in (("usual", values), ("ordered", ordered)):
        moves, states, scores, novelty = np.diff(each, prepend=0.0)[None, :, None], None, [], []
        for rows in (slice(change), slice(change, change + 96), slice(change + 96, stop)):
            part, states = follow(errors[:, rows], states=states, moves=moves[:, rows], period=1)
            scores.append(np.nanmean(part.scores[-48:]))
            novelty.append(states[0, NOVELTY])
        found[name] = np.array([scores, novelty])  # before, just after and long after the change
    new = found["ordered"] / found["usual"]
    np.testing.assert_array_equal(new[:, 0], 1)
    assert (new[:, 1] > 1.5).all()
    assert new[1, 2] < new[1, 1] / 1.5


def test_a_rule_may_be_given_another_step():
    errors = noise("normal", 1, 2 * 24 - 1)
    _, states = follow(errors)
    assert states[0, PHASE] == 23
    found, states = follow(errors, states=states, period=1)
    assert states[0, PHASE] == 0
    assert np.isfinite(found.scores).all()
