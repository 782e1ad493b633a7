"""A kept translation that is of no use is none: the function is translated anew, and the service starts."""

import numpy as np
import pytest
from numba.core import caching

from models.compiled import INT, column, compiled, dense


def doubled(numbers, times, told):
    for i in range(len(numbers)):
        told[i] = times * numbers[i]


@pytest.mark.parametrize("error", [RuntimeError, OSError, EOFError])
def test_a_function_is_translated_where_nothing_can_be_kept_or_read_back(monkeypatch, error):
    def refused(*_):
        raise error("no room, or damaged")

    for name in ("load_overload", "save_overload"):
        monkeypatch.setattr(caching.FunctionCache, name, refused)
    told = np.empty(2)
    compiled(column("float64"), INT, dense("float64"))(doubled)(np.array([1.0, 2.0]), 3, told)
    assert told.tolist() == [3.0, 6.0]
