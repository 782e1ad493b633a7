"""The ids of a bulk request are found and checked by their bytes just as one by one as strings."""

import json
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.codec import limits
from app.codec.bulk import BulkDecoder, BulkLimits
from app.codec.bulk.session_ids import are_session_ids, read_json_list, read_lines
from app.errors import Unprocessable

DECODER = BulkDecoder(BulkLimits(1000, limits.Limits(50, 100, 3)))
LETTERS = "aZ09._:-"
IDS = st.text(LETTERS, min_size=1, max_size=4) | st.text(LETTERS, min_size=127, max_size=129)
NAMES = st.lists(IDS | st.text(LETTERS + ' /\n\r\t"\\,[]é\0', max_size=3), min_size=1, max_size=6)
MOST = 5


def all_valid(names: list[str]) -> bool:
    return all(limits.SESSION_ID.fullmatch(name) for name in names)


@given(NAMES)
@example(["."])
@example([".."])
@example(["..", "..."])
@example(["a" * 128])
@example(["a" * 129])
def test_names_are_valid_together_only_if_each_is_valid(names):
    assert are_session_ids(names) is all_valid(names)


@given(NAMES, st.integers(1, 6))
def test_lines_are_ids_as_they_are_when_split(names, count):
    text = "\n".join(names).encode()
    lines = text.decode().split("\n")
    found = read_lines(text, count)
    assert (None if found is None else list(found)) == (
        lines if len(lines) == count and all_valid(lines) else None
    )


@given(
    NAMES, st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n\t", ":")]), st.sampled_from(["", " ", "\n"])
)
def test_a_json_list_holds_what_it_holds_when_it_is_decoded(names, separators, blank):
    text = blank + json.dumps(names, separators=separators) + blank
    found = read_json_list(text.encode(), MOST)
    assert (None if found is None else list(found)) == (
        names if len(names) <= MOST and all_valid(names) else None
    )


@given(st.text('a."\\,[] \n', max_size=12))
@example('["a"')
@example('["a",]')
@example('["a"] x')
@example('["a" "b"]')
@example("[]")
@example('["a\\u0062"]')
def test_other_json_and_what_is_not_json_is_not_read_as_ids(text):
    found = read_json_list(text.encode(), MOST)
    if found is not None:
        assert json.loads(text) == list(found)
        assert all_valid(list(found))


@pytest.mark.parametrize("text", ['["a", "b"]', '["é", "a"]', '["\\u0061", "b"]', '["a/b", "c"]'])
def test_a_request_names_the_same_sessions_however_they_are_written(text):
    names = json.loads(text)
    request = DECODER.decode(b'{"sessions": %b, "observations": [0, 1]}' % text.encode(), "", "")
    valid = [name for name in names if limits.SESSION_ID.fullmatch(name)]
    assert [name for _, job in request.jobs for name in job.sessions] == valid
    assert list(request.errors) == [i for i, name in enumerate(names) if name not in valid]


def test_a_json_list_is_no_id_in_the_binary_form():
    names = json.dumps([f"s{i}" for i in range(16)]).encode()

    def decode(count):
        header = struct.pack("<4sHHII", b"CYO1", 0, 1, count, 0)
        return DECODER.decode(header + bytes(4 * count) + names, "application/octet-stream", "")

    with pytest.raises(Unprocessable):
        decode(16)
    assert list(decode(1).errors) == [0]
