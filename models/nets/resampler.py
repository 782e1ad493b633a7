"""Another sampling rate, computed as the samples come: chunked or whole, the result is the same.

Sample `j` of the result is at input time `j * M / L`, where `M / L` is the ratio of the rates. It is a
weighted sum of the `2 K + 1` input samples around that time. The weights are those of a windowed sinc with
ten zero crossings on each side and a Kaiser window of 5, as `scipy.signal.resample_poly` chooses them. So the
filter is linear and finite: all that it must keep of a stream is the last `2 K` samples, and how many came.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd

import numpy as np

from models.arrays import Doubles, Floats, Ints

RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)  # Hz
ZERO_CROSSINGS = 10
KAISER_BETA = 5.0


class Resampler:
    """From `source` to `target` samples a second; where they are the same, samples stay as they are.

    Attributes
    ----------
    tail : input samples that must be kept of a stream
    """

    def __init__(self, source: int, target: int) -> None:
        shared = gcd(source, target)
        self._up, self._down = target // shared, source // shared
        same = source == target
        self._reach = 0 if same else ceil(ZERO_CROSSINGS * max(1.0, source / target))
        self._bank = np.ones((1, 1), np.float32) if same else _bank(self._up, self._down, self._reach)
        self.tail = 2 * self._reach

    def count(self, consumed: int) -> int:
        """Samples of the result that can be computed of so many input samples."""
        return max(0, -(-(consumed - self._reach) * self._up // self._down))

    def needed(self, produced: int) -> int:
        """Input samples of which so many samples of the result, at least 1, can be computed."""
        return (produced - 1) * self._down // self._up + self._reach + 1

    def input_time(self, sample: int) -> int:
        """The input sample at the time of this sample of the result, rounded."""
        return (2 * sample * self._down + self._up) // (2 * self._up)

    def resample(self, samples: Floats, consumed: int) -> Floats:
        """The samples of the result that a chunk adds.

        Parameters
        ----------
        samples : [tail + n], the last `tail` input samples before the chunk, zeros where there were fewer,
            and the n of the chunk
        consumed : input samples before the chunk
        """
        if not self._reach:
            return samples
        length = len(samples) - self.tail
        produced = np.arange(self.count(consumed), self.count(consumed + length), dtype=np.int64)
        around = produced * self._down // self._up - consumed + self.tail - self._reach
        windows = np.lib.stride_tricks.sliding_window_view(samples, self.tail + 1)
        weights = self._bank[produced * self._down % self._up]
        return np.asarray(np.einsum("nk,nk->n", windows[around], weights))


@lru_cache(maxsize=64)
def resampler(source: int, target: int) -> Resampler:
    """The resampler between two rates; it keeps nothing of a stream."""
    return Resampler(source, target)


def longest_tail(target: int) -> int:
    """Input samples that must be kept of a stream of any of `RATES`."""
    return max(2 * ceil(ZERO_CROSSINGS * max(1.0, source / target)) for source in RATES if source != target)


def _bank(up: int, down: int, reach: int) -> Floats:
    """[up, 2 reach + 1], for each phase the weights of the input samples around it."""
    phases: Ints = np.arange(up)
    times: Doubles = phases[:, None] / up + reach - np.arange(2 * reach + 1)
    cutoff = min(1.0, up / down)
    width = ZERO_CROSSINGS * max(1.0, down / up)
    inside = np.clip(1 - (times / width) ** 2, 0, None)
    window = np.i0(KAISER_BETA * np.sqrt(inside)) * (np.abs(times) <= width)
    weights = np.sinc(cutoff * times) * window
    # Together all phases pass a constant unchanged.
    return np.asarray(weights * (up / weights.sum()), np.float32)
