"""A list of sessions that comes again is recognised, and never taken for another, or for where they were."""

import json

import numpy as np
import pytest

from app.bulk import ids
from app.bulk.ids import roster
from app.roster import Roster


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(ids, "ROSTERS", ids._Rosters())


def parted(text: bytes) -> list[str]:
    return text.decode("ascii").split("\n")


def listed(count: int, what: str = "s") -> bytes:
    return "\n".join(f"{what}{i:05d}" for i in range(count)).encode()


def test_a_list_that_comes_again_is_the_same_roster_and_is_not_parted_again():
    first = roster(listed(100), parted)
    assert first.checked
    assert list(first) == parted(listed(100))
    assert roster(listed(100), lambda _: pytest.fail("parted again")) is first


def test_lists_that_differ_in_a_letter_of_their_middle_are_different():
    text = listed(100)
    other = text.replace(b"s00050", b"t00050")
    assert roster(text, parted)[50] == "s00050"
    assert roster(other, parted)[50] == "t00050"
    assert roster(text, parted)[50] == "s00050"
    assert len(ids.ROSTERS) == 1  # of those alike at both ends the newest is kept


def test_json_and_bytes_of_the_same_sessions_are_told_apart():
    names = parted(listed(10))
    as_json = json.dumps(names).encode()
    assert roster(as_json, json.loads) == roster(listed(10), parted)
    assert len(ids.ROSTERS) == 2


@pytest.mark.parametrize("text", [b"a\nb c", b"", b"a\n\nb", b"\n".join([b"a", b"x" * 129]), b"a/b"])
def test_what_are_no_session_ids_is_not_kept(text):
    assert not roster(text, parted).checked
    assert len(ids.ROSTERS) == 0


def test_no_more_names_are_kept_than_the_bound_and_those_asked_for_last_stay(monkeypatch):
    monkeypatch.setattr(ids, "MOST_NAMES", 100)
    texts = [listed(30, what) for what in "abc"]
    kept = [roster(text, parted) for text in texts]
    assert roster(texts[0], parted) is kept[0]
    roster(listed(30, "d"), parted)
    assert len(ids.ROSTERS) == 3
    assert roster(texts[0], parted) is kept[0]
    assert roster(texts[1], parted) is not kept[1]
    assert roster(listed(101), parted).checked
    assert len(ids.ROSTERS) == 0


def test_rows_are_looked_up_once_an_edition_and_not_to_be_changed():
    names, index, edition = Roster(["a", "b", "a"]), {"a": 4, "b": 7}, object()
    rows = names.rows(index, edition)
    assert rows.tolist() == [4, 7, 4]
    assert names.rows({}, edition) is rows
    with pytest.raises(ValueError, match="read-only"):
        rows += 1
    assert names.rows({"a": 1, "b": 2}, object()).tolist() == [1, 2, 1]
    with pytest.raises(KeyError):
        names.rows({"a": 1}, object())


def test_names_behind_a_prefix_are_made_once_and_are_each_tenants_own():
    names = Roster("ab")
    first = names.under("one/")
    assert first == ("one/a", "one/b")
    assert names.under("one/") is first
    assert names.under("two/") == ("two/a", "two/b")
    assert names == ("a", "b")
    assert not first.checked


def test_a_part_of_a_roster_is_looked_up_by_itself():
    index = {name: row for row, name in enumerate("abcd")}
    edition = object()
    assert Roster("abcd").rows(index, edition).tolist() == [0, 1, 2, 3]
    assert np.array_equal(Roster("db").rows(index, edition), [3, 1])
