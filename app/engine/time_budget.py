"""Limits the work of one pass of a model, so that no batch blocks the event loop for too long."""

from __future__ import annotations

BATCH_SECONDS = 0.005  # time limit of a pass; other clients wait for as long
CONTENDED_SECONDS = 0.0005  # time limit of a pass while several tenants call
FASTER_WEIGHT, SLOWER_WEIGHT = 0.5, 0.02  # weights of measurements below and above the estimate
FAR_TOO_SLOW = 1.0  # seconds; such a pass is learned from at once
NARROW, WIDE = 4, 64  # sessions of a pass; between these limits a pass measures neither cost well
TEXT_STEPS, TEXT_WEIGHT = 4, 0.5  # tokens of each text that a pass should have time for
MIN_STEPS, MIN_OBSERVATIONS, MIN_SLOW_JOBS = 16, 64, 4


class TimeBudget:
    """A pass takes about `longest * step_seconds + total * observation_seconds`; both are measured."""

    def __init__(self) -> None:
        self.step_seconds = 2e-5
        self.observation_seconds = 1e-6
        self.last_seconds = 0.0  # duration of the newest pass

    def record(self, seconds: float, longest: int, sessions: int, total: int) -> None:
        """Learn from a pass: the cost of an observation from a wide pass, that of a step from a narrow pass.

        Parameters
        ----------
        longest : observations of the longest chunk
        sessions : number of sessions in the pass
        total : observations of all chunks together
        """
        self.last_seconds = seconds
        if seconds >= FAR_TOO_SLOW:  # as with a graph whose call was ended: the next pass must be smaller
            self.observation_seconds = max(self.observation_seconds, seconds / total)
            self.step_seconds = max(self.step_seconds, seconds / longest)
        elif sessions >= WIDE:
            self.observation_seconds = _updated(self.observation_seconds, seconds / total)
        elif sessions <= NARROW and longest >= MIN_STEPS:
            self.step_seconds = _updated(self.step_seconds, seconds / longest)

    @property
    def max_observations(self) -> int:
        """Observations that a pass may take together."""
        return max(MIN_OBSERVATIONS, int(BATCH_SECONDS / self.observation_seconds))

    def max_steps(self, sessions: int, seconds: float = BATCH_SECONDS) -> int:
        """Steps that a pass may take with this many sessions in this time."""
        return max(MIN_STEPS, int(seconds / (self.step_seconds + sessions * self.observation_seconds)))

    def max_sessions(self, seconds: float) -> int:
        """Sessions that a pass may advance by `MIN_STEPS` in this time."""
        left = seconds / MIN_STEPS - self.step_seconds
        return max(MIN_SLOW_JOBS, int(left / self.observation_seconds))


class TextBudget:
    """A pass over texts ends when its time is over, at whatever token. It measures how many texts fit."""

    def __init__(self) -> None:
        self.token_seconds = 2e-5

    def record(self, seconds: float, tokens: int) -> None:
        """Learn from a pass that observed so many tokens, those of prompts included."""
        self.token_seconds += TEXT_WEIGHT * (seconds / tokens - self.token_seconds)

    def max_texts(self, seconds: float) -> int:
        """Texts that a pass may go on with in this time, by a few tokens each."""
        return max(MIN_SLOW_JOBS, int(seconds / (TEXT_STEPS * self.token_seconds)))

    def max_prompt(self, texts: int, seconds: float) -> int:
        """Tokens of each prompt that a pass over this many texts may observe in this time."""
        return max(MIN_STEPS, int(seconds / (texts * self.token_seconds)))


def _updated(estimate: float, measured: float) -> float:
    """The next estimate.

    Other work of the machine makes a pass slower, never faster. So a faster measurement has more weight.
    """
    weight = FASTER_WEIGHT if measured < estimate else SLOWER_WEIGHT
    return estimate + weight * (min(measured, 10 * estimate) - estimate)
