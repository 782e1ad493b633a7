"""The numbers of observations and predictions, and which of them a network's inputs can hold.

A session's observation is one row: the numbers of all inputs, one after the other. It is float32. Where an
input holds whole numbers that float32 cannot, it is float64, in which whole numbers below 2**53 are exact.
Predictions are float32, or float64 where an output holds whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from models.arrays import Bools, Numbers
from models.nets.signature import Port

SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
MAX_WHOLE = 2**53 - 1  # up to which no other whole number rounds to the same float64
WIDE_DTYPES = frozenset(("int32", "int64"))


def input_type(ports: Sequence[Port]) -> np.dtype[Any]:
    """The type of observations with these inputs."""
    return DOUBLE if any(port.dtype in WIDE_DTYPES for port in ports) else SINGLE


def output_type(ports: Sequence[Port]) -> np.dtype[Any]:
    """The type of predictions with these outputs."""
    return DOUBLE if any(is_whole(port) for port in ports) else SINGLE


def is_whole(port: Port) -> bool:
    """Whether the port holds whole numbers only."""
    return port.type.kind in "biu"


def column_names(ports: Sequence[Port]) -> tuple[str, ...]:
    """What each number of a row is called: its column, its port, or its place in its port."""
    names: list[str] = []
    for port in ports:
        if port.columns is not None:
            names += port.columns
        elif port.size == 1:
            names.append(port.name)
        else:
            names += [f"{port.name}[{i}]" for i in range(port.size)]
    return tuple(names)


class InputRules:
    """Which numbers an observation may have.

    Parameters
    ----------
    ports : the inputs, in order
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = ports
        bounds = [_bounds(port) for port in ports]
        sizes = [port.size for port in ports]
        self._least = np.repeat([least for least, _ in bounds], sizes)
        self._most = np.repeat([most for _, most in bounds], sizes)
        self._whole = np.flatnonzero(np.repeat([is_whole(port) for port in ports], sizes))
        self._any = bool(len(self._whole)) or any(port.range or port.dtype != "float32" for port in ports)

    def nearest(self, observations: Numbers) -> Numbers:
        """[total, inputs], for each number the nearest that its input can hold."""
        nearest = observations.clip(self._least, self._most)
        nearest[:, self._whole] = nearest[:, self._whole].round()
        return nearest.astype(observations.dtype)

    def broken(self, observations: Numbers) -> Bools | None:
        """[total], which of these observations have a number that its input cannot hold; None if none has.

        Parameters
        ----------
        observations : [total, inputs]; NaN breaks no rule
        """
        if not self._any:
            return None
        numbers = self._broken(observations)
        return np.asarray(numbers.any(axis=1)) if numbers.any() else None

    def replace_unusable(self, observations: Numbers) -> Bools | None:
        """Put possible numbers in the place of observations that break a rule or have NaN, in place.

        Returns
        -------
        [total], which observations were replaced; None if none was
        """
        if not self._any:
            return None
        unusable = self._broken(observations).any(axis=1) | np.isnan(observations).any(axis=1)
        if not unusable.any():
            return None
        observations[unusable] = np.clip(0, self._least, self._most)
        return np.asarray(unusable)

    def complaint(self, observation: Numbers) -> str:
        """What is wrong with an observation, [inputs], that breaks a rule."""
        column = int(self._broken(observation[None])[0].argmax())
        number, least, most = observation[column], self._least[column], self._most[column]
        name = column_names(self._ports)[column]
        if least <= number <= most:
            return f"{name} is {number:.17g}, which is not a whole number"
        return f"{name} is {number:.17g}, which is not from {least:.17g} to {most:.17g}"

    def _broken(self, observations: Numbers) -> Bools:
        broken = (observations < self._least) | (observations > self._most)
        if len(self._whole):
            whole = observations[:, self._whole]
            broken[:, self._whole] |= np.abs(whole - np.rint(whole)) > 0
        return broken


def _bounds(port: Port) -> tuple[float, float]:
    """The least and the greatest number that a port holds."""
    if port.dtype == "bool":
        least, most = 0.0, 1.0
    elif is_whole(port):
        integer = np.iinfo(port.type)
        least, most = float(max(integer.min, -MAX_WHOLE)), float(min(integer.max, MAX_WHOLE))
    else:
        most = float(np.finfo(port.type).max)
        least = -most
    lowest, highest = port.range or (least, most)
    return max(least, lowest), min(most, highest)
