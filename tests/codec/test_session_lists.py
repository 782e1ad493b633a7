"""A list of sessions that comes again is recognised, and is never mistaken for another list."""

import json
import struct
import tracemalloc

import pytest

from app.codec import limits
from app.codec.bulk import BulkDecoder, BulkLimits
from app.codec.bulk.session_lists import MAX_BYTES, MIN_SESSIONS, SessionListCache, are_session_ids
from app.errors import Unprocessable
from app.jobs.session_list import SessionList

LIMITS = BulkLimits(1000, limits.Limits(50, 100, 3))


@pytest.fixture
def cache() -> SessionListCache:
    return SessionListCache()


def split_lines(text: bytes) -> list[str]:
    return text.decode("ascii").split("\n")


def decode(cache: SessionListCache, text: bytes, decoder=split_lines) -> SessionList:
    return cache.decode(text, decoder, LIMITS.sessions)


def lines(count: int, prefix: str = "s") -> bytes:
    return "\n".join(f"{prefix}{i:05d}" for i in range(count)).encode()


def test_a_list_that_comes_again_is_the_same_object_and_is_not_decoded_again(cache):
    first = decode(cache, lines(100))
    assert first.valid
    assert list(first) == split_lines(lines(100))
    assert cache.get(lines(100), split_lines) is first
    assert decode(cache, lines(100)) is first


def test_lists_that_differ_in_a_letter_of_their_middle_are_different(cache):
    text = lines(100)
    other = text.replace(b"s00050", b"t00050")
    assert decode(cache, text)[50] == "s00050"
    assert decode(cache, other)[50] == "t00050"
    assert decode(cache, text)[50] == "s00050"
    assert len(cache) == 1  # of lists with the same beginning and end, the newest is kept


@pytest.mark.parametrize("bad", ["b c", "", "x" * 129, "a/b"])
def test_a_list_with_an_invalid_id_is_not_kept(cache, bad):
    assert not decode(cache, lines(100) + b"\n" + bad.encode()).valid
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("names", "valid"),
    [
        (["a"], True),
        (["a", "b" * 128, "A-z0.9_:"], True),
        ([""], False),
        (["a", ""], False),
        (["", "a"], False),
        (["a\nb"], False),
        (["a", "b\n"], False),
        (["a", "é"], False),
        (["a", "b" * 129], False),
    ],
)
def test_ids_are_valid_together_only_if_each_is_valid(names, valid):
    assert are_session_ids(names) is valid


def test_the_lists_used_last_stay_within_the_bound():
    cache = SessionListCache(max_bytes=3 * 10_000)
    texts = [lines(30, prefix) for prefix in "abc"]
    kept = [decode(cache, text) for text in texts]
    assert decode(cache, texts[0]) is kept[0]
    decode(cache, lines(30, "d"))
    assert len(cache) == 3
    assert decode(cache, texts[0]) is kept[0]
    assert decode(cache, texts[1]) is not kept[1]


def test_a_list_of_too_many_or_of_few_sessions_is_not_kept_and_evicts_none(cache):
    kept = decode(cache, lines(100))
    decode(cache, lines(LIMITS.sessions + 1))
    decode(cache, lines(MIN_SESSIONS - 1))
    assert len(cache) == 1
    assert decode(cache, lines(100)) is kept


def test_no_client_can_fill_more_than_the_bound_however_it_writes_its_lists(cache):
    names = split_lines(lines(MIN_SESSIONS))
    for blanks in range(100):
        text = json.dumps(names).encode().replace(b"]", b" " * (1_000_000 + blanks) + b"]")
        assert list(decode(cache, text, json.loads)) == names
    assert len(cache) * 1_000_000 < MAX_BYTES
    assert cache.nbytes <= MAX_BYTES


def test_the_size_that_the_bound_counts_is_about_the_memory_taken():
    for count, letters in [(1000, "s"), (1000, "s" * 100), (20, "s")]:
        cache = SessionListCache()
        tracemalloc.start()
        for i in range(5):
            session_list = decode(cache, lines(count, f"{letters}{i}"))
            session_list.rows(dict.fromkeys(session_list, 0), object())
            session_list.unique, session_list.with_prefix("a-tenant/").unique
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert 0.5 * taken < cache.nbytes < 3 * taken


@pytest.mark.parametrize("order", [1, -1])
def test_the_meaning_of_a_text_does_not_depend_on_what_was_sent_in_another_form(order, cache):
    names = [f'"s{i}"' for i in range(MIN_SESSIONS)]
    as_json = f"[{','.join(names)}]".encode()
    decoder = BulkDecoder(LIMITS, cache)

    def decode_binary(count):
        header = struct.pack("<4sHHII", b"CYO1", 0, 1, count, 0)
        return decoder.decode(header + bytes(4 * count) + as_json, "application/octet-stream", "")

    def check_binary():
        with pytest.raises(Unprocessable):
            decode_binary(MIN_SESSIONS)
        assert list(decode_binary(1).errors) == [0]

    def check_json():
        body = b'{"sessions": %b, "observations": %b}' % (as_json, json.dumps([0.0] * MIN_SESSIONS).encode())
        assert decoder.decode(body, "application/json", "").errors == {}

    for check in [check_binary, check_json][::order] * 2:
        check()
