"""A kept translation that is of no use is none: the function is translated anew, and the service starts."""

import importlib
import sys

import numba
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


CALLED = """
from models.jit import contiguous, jit

@jit(contiguous("float64"))
def fill(out):
    out[0] = {number}
"""
CALLER = """
import called
from models.jit import contiguous, jit

fill = called.fill

@jit(contiguous("float64"){uses})
def call(out):
    fill(out)
"""


@pytest.mark.parametrize(("uses", "second"), [(", uses=(called,)", 22.0), ("", 1.0)], ids=["named", "not"])
def test_a_function_is_compiled_anew_when_a_module_changes_that_it_uses(tmp_path, monkeypatch, uses, second):
    """The second case shows what would happen otherwise: the kept translation calls the old function."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "caller.py").write_text(CALLER.format(uses=uses))
    found = []
    for number in (1.0, 22.0):  # of another size: Python itself keeps modules by size and second
        (tmp_path / "called.py").write_text(CALLED.format(number=number))
        importlib.invalidate_caches()
        for name in ("called", "caller"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        out = np.empty(1)
        importlib.import_module("caller").call(out)
        found += out.tolist()
    assert found == [1.0, second]
