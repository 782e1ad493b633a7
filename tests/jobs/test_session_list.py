"""A list of sessions that comes again is recognised, and never taken for another, or for where they were."""

import json
import struct
import tracemalloc

import numpy as np
import pytest

from app.codec import chunks
from app.codec.bulk import BulkLimits, read, session_lists
from app.codec.bulk.session_lists import FEWEST, MOST_BYTES
from app.errors import Unprocessable
from app.jobs.session_list import Roster


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(session_lists, "ROSTERS", session_lists.Rosters())


LIMITS = BulkLimits(1000, chunks.Limits(50, 100, 3))


def parted(text: bytes) -> list[str]:
    return text.decode("ascii").split("\n")


def roster(text: bytes, form=parted) -> Roster:
    return session_lists.roster(text, form, LIMITS.sessions)


def listed(count: int, what: str = "s") -> bytes:
    return "\n".join(f"{what}{i:05d}" for i in range(count)).encode()


def test_a_list_that_comes_again_is_the_same_roster_and_is_not_parted_again():
    first = roster(listed(100))
    assert first.checked
    assert list(first) == parted(listed(100))
    assert session_lists.ROSTERS.find(listed(100), parted) is first
    assert roster(listed(100)) is first


def test_lists_that_differ_in_a_letter_of_their_middle_are_different():
    text = listed(100)
    other = text.replace(b"s00050", b"t00050")
    assert roster(text)[50] == "s00050"
    assert roster(other)[50] == "t00050"
    assert roster(text)[50] == "s00050"
    assert len(session_lists.ROSTERS) == 1  # of those alike at both ends the newest is kept


@pytest.mark.parametrize("bad", ["b c", "", "x" * 129, "a/b"])
def test_what_are_no_session_ids_is_not_kept(bad):
    assert not roster(listed(100) + b"\n" + bad.encode()).checked
    assert len(session_lists.ROSTERS) == 0


def test_those_asked_for_last_stay_within_the_bound(monkeypatch):
    monkeypatch.setattr(session_lists, "MOST_BYTES", 3 * 10_000)
    texts = [listed(30, what) for what in "abc"]
    kept = [roster(text) for text in texts]
    assert roster(texts[0]) is kept[0]
    roster(listed(30, "d"))
    assert len(session_lists.ROSTERS) == 3
    assert roster(texts[0]) is kept[0]
    assert roster(texts[1]) is not kept[1]


def test_a_list_of_too_many_or_of_few_sessions_is_not_kept_and_crowds_nobody_out():
    kept = roster(listed(100))
    roster(listed(LIMITS.sessions + 1))
    roster(listed(FEWEST - 1))
    assert len(session_lists.ROSTERS) == 1
    assert roster(listed(100)) is kept


def test_no_client_can_have_more_kept_than_the_bound_however_it_writes_its_lists():
    names = parted(listed(FEWEST))
    for blanks in range(100):
        text = json.dumps(names).encode().replace(b"]", b" " * (1_000_000 + blanks) + b"]")
        assert list(roster(text, json.loads)) == names
    assert len(session_lists.ROSTERS) * 1_000_000 < MOST_BYTES
    assert session_lists.ROSTERS.nbytes <= MOST_BYTES


def test_what_the_bound_counts_is_about_what_is_taken():
    for count, letters in [(1000, "s"), (1000, "s" * 100), (20, "s")]:
        session_lists.ROSTERS = session_lists.Rosters()
        tracemalloc.start()
        for turn in range(5):
            told = roster(listed(count, f"{letters}{turn}"))
            told.rows(dict.fromkeys(told, 0), object())
            told.once, told.under("a-tenant/").once
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.5 * taken < session_lists.ROSTERS.nbytes < 3 * taken


@pytest.mark.parametrize("order", [1, -1])
def test_what_a_text_means_does_not_depend_on_what_was_sent_in_another_form(order):
    names = [f'"s{i}"' for i in range(FEWEST)]
    as_json = f"[{','.join(names)}]".encode()

    def by_bytes(count):
        header = struct.pack("<4sHHII", b"CYO1", 0, 1, count, 0)
        return read(header + bytes(4 * count) + as_json, "application/octet-stream", "", LIMITS)

    def told_by_bytes():
        with pytest.raises(Unprocessable):
            by_bytes(FEWEST)
        assert list(by_bytes(1).errors) == [0]

    def told_by_json():
        body = b'{"sessions": %b, "observations": %b}' % (as_json, json.dumps([0.0] * FEWEST).encode())
        assert read(body, "application/json", "", LIMITS).errors == {}

    for told in [told_by_bytes, told_by_json][::order] * 2:
        told()


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
