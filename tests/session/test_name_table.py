"""The table of names finds what a dict finds, whatever was added and removed before."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.session import name_table
from app.session.name_table import MAX_NAME, MIN_BYTES, MIN_SLOTS, NameTable


def find(table: NameTable, names: list[str], prefix: str = "") -> list[int] | None:
    ends = np.cumsum([len(name) + 1 for name in names]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    rows = table.find("\n".join(names).encode(), starts, ends, prefix.encode())
    return None if rows is None else rows.tolist()


NAMES = st.text("ab/", min_size=1, max_size=4) | st.sampled_from(["x" * 200, "x" * MAX_NAME])


@settings(deadline=None)
@given(st.lists(NAMES, max_size=60), st.booleans())
def test_it_finds_what_a_dict_finds(changes, collide):
    """Each name in turn is added, or removed where it is there; also where all keys are alike."""
    table, index = NameTable(61), {}
    if collide:
        table._keys = np.zeros(MAX_NAME + 1, np.uint64)  # all names begin at one slot
    free = list(range(61))
    for name in changes:
        if name in index:
            row = index.pop(name)
            table.remove(row)
            free.insert(0, row)
        else:
            index[name] = free.pop()
            table.add(name, index[name])
        assert len(table) == len(index)
        if index:
            assert find(table, list(index)) == list(index.values())
        assert (find(table, [name]) is None) == (name not in index)
        behind = [other[1:] for other in index if other.startswith("a")]
        if behind:
            assert find(table, behind, "a") == [index[f"a{other}"] for other in behind]


def test_one_name_that_is_not_there_is_enough_for_none():
    table = NameTable(2)
    table.add("a", 0)
    table.add("b", 1)
    assert find(table, ["b", "a", "b"]) == [1, 0, 1]
    for absent in ("c", "ab", "", "a" * (MAX_NAME + 1)):
        assert find(table, ["a", absent, "b"]) is None
    assert find(table, ["a"], "x" * MAX_NAME) is None


def test_a_name_is_not_found_by_another_division_into_prefix_and_id():
    table = NameTable(3)
    for row, name in enumerate(("acme/pump", "acme", "pump")):
        table.add(name, row)
    assert find(table, ["pump"], "acme/") == [0]
    assert find(table, ["pump"], "acme") is None
    assert find(table, ["acme/pump"], "acme/") is None


def test_a_name_that_is_too_long_is_refused_and_changes_nothing():
    table = NameTable(1)
    with pytest.raises(ValueError, match="at most 255 bytes"):
        table.add("a" * (MAX_NAME + 1), 0)
    assert len(table) == 0
    table.add("a" * MAX_NAME, 0)
    assert find(table, ["a" * MAX_NAME]) == [0]


def test_names_that_come_and_go_take_no_more_room_than_those_that_are_there():
    table = NameTable(10)
    for turn in range(2000):
        table.add(f"session-{turn}", turn % 10)
        if turn >= 9:
            table.remove((turn + 1) % 10)
    assert find(table, [f"session-{turn}" for turn in range(1991, 2000)]) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert (len(table._text), len(table._slots)) == (MIN_BYTES, MIN_SLOTS)


def test_names_are_spread_by_keys_that_differ_from_table_to_table():
    names = [f"s{i}" for i in range(200)]

    def slots_of() -> list[int]:
        table = NameTable(200)
        for row, name in enumerate(names):
            table.add(name, row)
        return table._slots.tolist()

    assert slots_of() != slots_of()
    assert name_table.MIN_SLOTS < 400 <= len(slots_of())


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=60), st.text("ab/", max_size=5))
def test_the_names_with_a_prefix_are_found_as_they_were_when_the_texts_were_taken(changes, prefix):
    """Names are removed and others added meanwhile, until the text is written anew."""
    table, index = NameTable(80), {}
    for row, name in enumerate(dict.fromkeys(changes)):
        table.add(name, row)
        index[name] = row
    texts, rows = table.texts, np.arange(len(index))
    for row in rows[::2].tolist():
        table.remove(row)
    for row in range(60, 80):
        table.add("a" * 200 + str(row), row)  # so that the names that are left move
    found = texts.begin_with(prefix.encode(), rows)
    assert found.tolist() == [name.startswith(prefix) for name in index]
    assert table.texts.begin_with(b"a" * 200, np.arange(60, 80)).all()
