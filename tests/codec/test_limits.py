"""The names and the numbers that are valid."""

import numpy as np
import pytest

from app.codec.limits import MAX_FLOAT32, check_values, validate_session_id
from app.errors import TooLarge, Unprocessable


@pytest.mark.parametrize("name", ["a", "...", ".a", "a.", "..a", "a..", ".-", "a" * 128, "A-z0.9_:"])
def test_a_valid_session_id_is_returned(name):
    assert validate_session_id(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a" * 129, "a/b", "a b", "a\n", ".\n", "é"])
def test_an_invalid_session_id_is_refused(name):
    with pytest.raises(Unprocessable):
        validate_session_id(name)


def test_the_largest_number_is_the_largest_that_rounds_to_a_finite_float32():
    with np.errstate(over="ignore"):
        assert np.isfinite(np.float32(MAX_FLOAT32))
        assert np.isinf(np.float32(np.nextafter(MAX_FLOAT32, np.inf)))
    assert float(np.finfo(np.float32).max) < 3.4028235e38 < MAX_FLOAT32


def test_json_of_too_many_values_is_refused_before_it_is_parsed():
    check_values(b'{"a": [1, 2, 3]}', 4)
    for body in (b"[1,2,3,4,5,6]", b"[[[[[[", b'{"a":{"a":{"a":{"a":{"a":'):
        with pytest.raises(TooLarge):
            check_values(body, 4)
