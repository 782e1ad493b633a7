"""A list of sessions says the same whether its names came as strings or as bytes."""

import numpy as np
import pytest

from app.jobs.session_list import NameSpans, SessionList
from app.session.slab import Slab
from models.forecaster import Forecaster

NAMES = ("b", "aa", "b", "c:1")


def spans() -> SessionList:
    return SessionList(
        spans=NameSpans(b'["b", "aa", "b", "c:1"]', np.array([2, 7, 13, 18]), np.array([3, 9, 14, 21]))
    )


@pytest.fixture(params=[lambda: SessionList(NAMES), spans], ids=["strings", "bytes"])
def names(request) -> SessionList:
    return request.param()


@pytest.fixture
def slab(artifacts) -> Slab:
    slab = Slab(Forecaster(artifacts["partial"]), 8, 1)
    for name in ("x", "aa", "c:1", "tenant/c:1", "b", "tenant/b", "tenant/aa"):
        slab.publish(name, slab.take())
    return slab


def test_it_is_a_sequence_of_its_names(names):
    assert len(names) == 4
    assert names.names == NAMES
    assert (list(names), names[1], names[1:3]) == (list(NAMES), "aa", ("aa", "b"))
    assert names.unique == {"b", "aa", "c:1"}


def test_a_part_has_the_names_at_its_indexes(names, slab):
    part = names.pick(np.array([3, 0]))
    assert part.rows(slab).tolist() == [2, 4]
    assert part.names == ("c:1", "b")


def test_a_prefix_is_before_each_name(names, slab):
    prefixed = names.with_prefix("tenant/")
    assert prefixed.rows(slab).tolist() == [5, 6, 5, 3]
    assert prefixed.pick(np.array([1])).names == ("tenant/aa",)
    assert names.names == NAMES
    assert names.with_prefix("other/").rows(slab) is None


def test_rows_are_those_of_the_present(names, slab):
    assert names.rows(slab).tolist() == [4, 1, 4, 2]
    slab.remove("b")
    assert names.rows(slab) is None
    slab.publish("new", slab.take())
    slab.publish("b", slab.take())
    assert names.rows(slab).tolist() == [slab.index["b"], 1, slab.index["b"], 2]
