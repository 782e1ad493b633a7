"""How much a pass may take, from how long passes took."""

from __future__ import annotations

from app.engine.time_budget import BATCH_SECONDS, MIN_OBSERVATIONS, MIN_STEPS, TimeBudget


def test_a_busy_moment_changes_little_and_a_faster_pass_much():
    budget = TimeBudget()
    for _ in range(60):
        budget.record(100e-6, 1, 100, 100)
    usual = budget.max_observations
    assert usual == int(BATCH_SECONDS / budget.observation_seconds)
    budget.record(100 * 100e-6, 1, 100, 100)
    assert usual / 2 < budget.max_observations < usual
    for _ in range(10):
        budget.record(50e-6, 1, 100, 100)
    assert budget.max_observations > 1.5 * usual


def test_a_pass_that_is_far_too_slow_makes_the_next_one_small_at_once():
    budget = TimeBudget()
    assert budget.max_observations > 1000
    budget.record(10.0, 16, 1000, 16_000)
    assert budget.max_observations == MIN_OBSERVATIONS
    assert budget.max_steps(1000) == MIN_STEPS
    for _ in range(40):
        budget.record(50e-6, 1, 100, 100)
    assert budget.max_observations > 1000, "it recovers as soon as passes are fast"
