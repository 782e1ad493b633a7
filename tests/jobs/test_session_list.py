"""A list of sessions keeps the rows of its sessions, and never returns rows that have changed."""

import numpy as np
import pytest

from app.jobs.session_list import SessionList


def test_rows_are_looked_up_once_a_generation_and_are_read_only():
    names, index, generation = SessionList(["a", "b", "a"]), {"a": 4, "b": 7}, object()
    rows = names.rows(index, generation)
    assert rows.tolist() == [4, 7, 4]
    assert names.rows({}, generation) is rows
    with pytest.raises(ValueError, match="read-only"):
        rows += 1
    assert names.rows({"a": 1, "b": 2}, object()).tolist() == [1, 2, 1]
    with pytest.raises(KeyError):
        names.rows({"a": 1}, object())


def test_names_with_a_prefix_are_made_once_for_each_tenant():
    names = SessionList("ab")
    first = names.with_prefix("one/")
    assert first == ("one/a", "one/b")
    assert names.with_prefix("one/") is first
    assert names.with_prefix("two/") == ("two/a", "two/b")
    assert names == ("a", "b")
    assert not first.valid


def test_a_part_of_a_list_is_looked_up_by_itself():
    index = {name: row for row, name in enumerate("abcd")}
    generation = object()
    assert SessionList("abcd").rows(index, generation).tolist() == [0, 1, 2, 3]
    assert np.array_equal(SessionList("db").rows(index, generation), [3, 1])
