"""How long a pass of a model takes, so that no wave holds the event loop for much longer than it should."""

from __future__ import annotations

WAVE_SECONDS = 0.005  # that a pass should take at most; the event loop waits so long
SHARED_SECONDS = 0.0005  # the same while several tenants call
SOON, SLOWLY = 0.5, 0.02  # weights of a measurement below what was believed, and of one above
NARROW, WIDE = 4, 64  # sessions; between them a pass tells neither number well
LEAST_STEPS, LEAST_OBSERVATIONS = 16, 64


class Pace:
    """A pass takes about `longest * step + total * observation` seconds. Both are measured as it runs."""

    def __init__(self) -> None:
        self.step = 2e-5
        self.observation = 1e-6
        self.last = 0.0  # seconds that the newest pass took

    def took(self, seconds: float, longest: int, sessions: int, total: int) -> None:
        """Learn from a pass: one observation's share from a wide one, a step's from a narrow one."""
        self.last = seconds
        if sessions >= WIDE:
            self.observation = _learnt(self.observation, seconds / total)
        elif sessions <= NARROW and longest >= LEAST_STEPS:
            self.step = _learnt(self.step, seconds / longest)

    @property
    def observations(self) -> int:
        """That a pass may take together."""
        return max(LEAST_OBSERVATIONS, int(WAVE_SECONDS / self.observation))

    def steps(self, sessions: int, seconds: float = WAVE_SECONDS) -> int:
        """That so many sessions may be moved on by together."""
        return max(LEAST_STEPS, int(seconds / (self.step + sessions * self.observation)))


def _learnt(believed: float, measured: float) -> float:
    """What the machine does besides makes a pass slower, never faster: a quick one is the better witness."""
    weight = SOON if measured < believed else SLOWLY
    return believed + weight * (min(measured, 10 * believed) - believed)
