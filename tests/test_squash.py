"""The compiled squashing functions are those of mathematics, to the last digit of a float32 or nearly."""

import numpy as np
import pytest

from models.compiled import column, compiled, dense
from models.squash import sigmoid, tanh


@compiled(column("float32"), dense("float32"))
def every_tanh(x, told):
    for i in range(len(x)):
        told[i] = tanh(x[i])


@compiled(column("float32"), dense("float32"))
def every_sigmoid(x, told):
    for i in range(len(x)):
        told[i] = sigmoid(x[i])


def applied(function, x):
    told = np.empty(len(x), np.float32)
    function(np.asarray(x, np.float32), told)
    return told


NUMBERS = np.concatenate(
    [
        np.linspace(-12, 12, 1_000_001),
        np.linspace(-0.7, 0.7, 300_001),
        np.geomspace(1e-38, 1, 100_000),
        [-100, 100],
    ]
).astype(np.float32)


def test_tanh_is_right_to_a_unit_in_the_last_place_even_where_it_is_tiny():
    want = np.tanh(NUMBERS.astype(np.float64))
    np.testing.assert_allclose(applied(every_tanh, NUMBERS), want, rtol=1.5e-7, atol=0)


def test_sigmoid_is_right_to_a_unit_in_the_last_place_of_one():
    want = 1 / (1 + np.exp(-NUMBERS.astype(np.float64)))
    np.testing.assert_allclose(applied(every_sigmoid, NUMBERS), want, rtol=0, atol=1.2e-7)
    assert (np.diff(applied(every_sigmoid, np.linspace(-90, 90, 10_001))) >= -1.2e-7).all()


@pytest.mark.parametrize(("function", "least"), [(every_tanh, -1.0), (every_sigmoid, 0.0)])
def test_what_is_not_finite_stays_so_or_saturates(function, least):
    told = applied(function, [np.nan, np.inf, -np.inf, 0.0])
    assert np.isnan(told[0])
    np.testing.assert_allclose(told[1:3], [1.0, least], atol=1e-6)
    assert np.isfinite(told[3])
