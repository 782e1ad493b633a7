"""A kept translation that is of no use is none: the function is translated anew, and the service starts."""

import numpy as np
import pytest
from numba.core import caching

from models.jit import INT, contiguous, jit, jit_part, readonly


def doubled(numbers, times, out):
    for i in range(len(numbers)):
        out[i] = times * numbers[i]


@pytest.mark.parametrize("error", [RuntimeError, OSError, EOFError])
def test_a_function_is_compiled_where_the_cache_cannot_be_written_or_read(monkeypatch, error):
    def refused(*_):
        raise error("no room, or damaged")

    for name in ("load_overload", "save_overload"):
        monkeypatch.setattr(caching.FunctionCache, name, refused)
    out = np.empty(2)
    jit(readonly("float64"), INT, contiguous("float64"))(doubled)(np.array([1.0, 2.0]), 3, out)
    assert out.tolist() == [3.0, 6.0]


@jit_part
def first_above(numbers, limit):
    for i in range(len(numbers)):
        if numbers[i] > limit:
            return i, numbers[i]
    return -1, 0.0


def test_a_part_is_compiled_into_the_function_that_calls_it():
    def sum_of_first(numbers, limits, out):
        for k in range(len(limits)):
            i, number = first_above(numbers, limits[k])
            out[k] = i + number

    out = np.empty(3)
    compiled = jit(readonly("float64"), readonly("float64"), contiguous("float64"))(sum_of_first)
    compiled(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.5, 9.0]), out)
    assert out.tolist() == [1.0, 5.0, -1.0]
