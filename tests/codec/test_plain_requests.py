"""What the reader of plain requests calls plain, the ordinary way reads in the same way, to the last bit."""

from __future__ import annotations

import re
from random import Random
from typing import NamedTuple

import numpy as np
import pytest

from app.codec.limits import SESSION_ID, SMALL_BODY_BYTES, Limits
from app.codec.plain_requests import MAX_HEAD_BYTES, Head, PlainRequests, read_plain
from tests.helpers import request_grammar as grammar
from tests.helpers.ordinary_requests import OrdinaryConnection, OrdinaryRequest

MAX_STEPS = 100
LIMITS = Limits(observations=MAX_STEPS, steps=50, inputs=3)
HEAD = "POST /sessions/%s/observations HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\nAccept: */*\r\n\r\n"


def request(body: str, session: str = "s-1") -> bytes:
    return (HEAD % (session, len(body.encode()))).encode() + body.encode()


def head_of(data: bytes) -> Head:
    head = Head.of(data)
    assert head is not None
    return head


def read(*requests: bytes, head: Head | None = None, max_steps: int = MAX_STEPS) -> PlainRequests:
    return read_plain(requests, [head or head_of(request("[1]"))] * len(requests), max_steps)


def columns(plain: PlainRequests, i: int) -> tuple[object, ...]:
    """Session, flat, at, epoch, shape and bits of the numbers of one request."""
    length, width, start = int(plain.lengths[i]), int(plain.widths[i]), int(plain.starts[i])
    numbers = plain.numbers[start : start + length * width]
    session = plain.text[plain.session_starts[i] : plain.session_ends[i]]
    at, epoch = int(plain.at[i]), int(plain.epochs[i])
    return session, bool(plain.flat[i]), at, epoch, (length, width), numbers.view(np.uint32).tolist()


def ordinary_columns(ordinary: OrdinaryRequest) -> tuple[object, ...]:
    chunk = ordinary.chunk
    at = -1 if chunk.at is None else chunk.at
    bits = np.ascontiguousarray(chunk.observations, np.float32).view(np.uint32).ravel().tolist()
    return ordinary.session, chunk.flat, at, chunk.epoch or 0, chunk.observations.shape, bits


class Counts(NamedTuple):
    plain: int
    accepted: int


def check_same(sender: grammar.Sender, requests: list[bytes]) -> Counts:
    """Compare both ways over all requests, each on a connection that has had a first one."""
    plain = read(*requests, head=head_of(sender.first()))
    accepted = 0
    for i, data in enumerate(requests):
        connection = OrdinaryConnection(LIMITS)
        assert connection.read(sender.first()) is not None
        ordinary = connection.read(data)
        accepted += ordinary is not None
        if plain.plain[i]:
            assert ordinary is not None, f"not accepted by the ordinary way: {data!r}"
            assert columns(plain, i) == ordinary_columns(ordinary), f"read differently: {data!r}"
    return Counts(int(plain.plain.sum()), accepted)


# Examples.


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"observations": [[0.5]], "at": 12}', (False, 12, 0, (1, 1), [0.5])),
        ('{"observations":[1,2,3]}', (True, -1, 0, (3, 1), [1, 2, 3])),
        ('{"observations":[[1,2],[3,4],[5,6]]}', (False, -1, 0, (3, 2), [1, 2, 3, 4, 5, 6])),
        ('{"epoch":"00000000000000ff","at":0,"observations":[1]}', (True, 0, 255, (1, 1), [1])),
        ('{"epoch":"fedcba9876543210","observations":[1]}', (True, -1, 0xFEDCBA9876543210, (1, 1), [1])),
        ('{"at":9223372036854775807,"observations":[1]}', (True, 2**63 - 1, 0, (1, 1), [1])),
        ('{"at":null,"epoch":null,"observations":[1]}', (True, -1, 0, (1, 1), [1])),
        (' {\n"observations"\t:\r[ [ 1 , 2 ] ] , "at" : 3 } \r\n', (False, 3, 0, (1, 2), [1, 2])),
        ('{"observations":[-1.5e3,1E+2,25e-1,-0.25]}', (True, -1, 0, (4, 1), [-1500, 100, 2.5, -0.25])),
        ('{"observations":[0,0.0,0e9,1e37,1e-30]}', (True, -1, 0, (5, 1), [0, 0, 0, 1e37, 1e-30])),
    ],
)
def test_a_plain_request_is_read(body, expected):
    plain = read(request(body))
    session, *rest, bits = columns(plain, 0)
    assert plain.plain.tolist() == [True]
    assert session == "s-1"
    assert (*rest, bits) == (*expected[:-1], np.array(expected[-1], np.float32).view(np.uint32).tolist())


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[1]",
        '{"at":1}',
        '{"observations":[]}',
        '{"observations":[[]]}',
        '{"observations":[[1],[]]}',
        '{"observations":[[1],[1,2]]}',
        '{"observations":[1,[2]]}',
        '{"observations":[[1],2]}',
        '{"observations":[[[1]]]}',
        '{"observations":[1],"observations":[1]}',
        '{"at":1,"observations":[1],"at":1}',
        '{"at":null,"observations":[1],"at":1}',
        '{"epoch":null,"observations":[1],"epoch":null}',
        '{"observations":[1],"horizon":1}',
        '{"observations":[1],"":1}',
        '{"observations":[1],}',
        '{,"observations":[1]}',
        '{"at":1 "observations":[1]}',
        '{"at":1{"observations":[1]}',
        '{"observations":[1]]}',
        '{"observations":[1]}}',
        '{"observations":[1]} x',
        '{"observations":[1]',
        '{"observations":[1',
        '{"observations" [1]}',
        "{observations:[1]}",
        '{"\\u006fbservations":[1]}',
        '\ufeff{"observations":[1]}',
        '{"observations":\u00a0[1]}',
        '{"observations":\x0c[1]}',
        '{"observations":[1],"at":-1}',
        '{"observations":[1],"at":-0}',
        '{"observations":[1],"at":01}',
        '{"observations":[1],"at":1.0}',
        '{"observations":[1],"at":1e2}',
        '{"observations":[1],"at":"1"}',
        '{"observations":[1],"at":}',
        '{"observations":[1],"at":nul}',
        '{"observations":[1],"at":9223372036854775808}',
        '{"observations":[1],"at":18446744073709551616}',
        '{"observations":[1],"at":18446744073709551621}',
        '{"observations":[1],"epoch":"0000000000000000"}',
        '{"observations":[1],"epoch":"00000000000000FF"}',
        '{"observations":[1],"epoch":"0000000000000ff"}',
        '{"observations":[1],"epoch":"000000000000000ff"}',
        '{"observations":[1],"epoch":"00000000000000fg"}',
        '{"observations":[1],"epoch":255}',
        '{"observations":[1],"epoch":"00000000000000f}',
    ],
)
def test_any_other_body_is_not_plain(body):
    assert read(request(body)).plain.tolist() == [False]


@pytest.mark.parametrize(
    "number",
    [*grammar.ODD_NUMBERS, "12345678901234567890", "0.12345678901234567890", "1.1e37", "9e-31", "1e99999"],
)
def test_a_number_outside_of_the_grammar_or_the_range_is_not_plain(number):
    bodies = [f'{{"observations":[{number}]}}', f'{{"observations":[[1],[{number}]]}}']
    assert not read(*map(request, bodies)).plain.any()


def test_a_number_whose_float32_is_uncertain_is_not_plain():
    # Halfway between two float32 neighbours: the last of 19 digits decides, and a double does not hold it.
    bodies = [f'{{"observations":[{number}]}}' for number in ("1.000000059604644775", "1.000000059604644776")]
    assert not read(*map(request, bodies)).plain.any()
    assert read(request('{"observations":[1.000000059604645]}')).plain.all()  # a double holds these digits


def test_the_sign_of_zero_is_that_of_the_ordinary_way():
    plain = read(request('{"observations":[-0,-0.0,-0e1,0]}'))
    assert np.signbit(plain.numbers).tolist() == [False, True, True, False]


def test_a_chunk_over_the_limit_is_not_plain():
    flat, nested = '{"observations":[1,2,3]}', '{"observations":[[1],[2],[3]]}'
    assert read(request(flat), request(nested), max_steps=3).plain.all()
    assert not read(request(flat), request(nested), max_steps=2).plain.any()


def test_a_large_body_is_not_plain():
    body = '{"observations":[1]}'
    assert read(request(body.ljust(SMALL_BODY_BYTES))).plain.all()
    assert not read(request(body.ljust(SMALL_BODY_BYTES + 1))).plain.any()


BODY = '{"observations":[1]}'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"post"),
        (b"POST", b"PUT"),
        (b"POST ", b"POST  "),
        (b"/sessions/", b"//sessions/"),
        (b"/observations", b"/observations?a=1"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: a", b"Host: b"),
        (b"Host: a", b"host: a"),
        (b"Host: a", b"Host: a\r\nA: b"),
        (b"Accept", b"Connection"),
        (b"Length: 20", b"Length: 020"),
        (b"Length: 20", b"Length: 00000020"),
        (b"Length: 20", b"Length: +20"),
        (b"Length: 20", b"Length: 20 "),
        (b"Length: 20", b"Length: 0x14"),
        (b"Length: 20", b"Length: "),
        (b"Length: 20", b"Length: 19"),
        (b"Length: 20", b"Length: 21"),
        (b"Length: 20", b"Length: 18446744073709551636"),
        (b"\r\n\r\n", b"\n\n"),
        (b"\r\n\r\n", b"\r\n\r\n\r\n"),
    ],
)
def test_any_other_head_is_not_plain(old, new):
    assert old in request(BODY)
    assert not read(request(BODY).replace(old, new)).plain.any()


def test_a_session_id_is_plain_exactly_if_it_is_valid():
    ids = [*grammar.ODD_IDS, *(f"a{chr(byte)}" for byte in range(256)), *(chr(byte) for byte in range(256))]
    requests = [request(BODY, session) for session in ids]
    plain = read(*requests)
    # `/` is not in an id, so an id that holds it is another path.
    assert plain.plain.tolist() == [SESSION_ID.fullmatch(session) is not None for session in ids]
    assert plain.plain.sum() > 2 * len(grammar.ID_CHARACTERS)


def test_requests_of_a_batch_are_read_each_by_itself():
    requests = [request(f'{{"observations":[{k},{k}],"at":{k}}}', f"s{k}") for k in range(8)]
    requests[::2] = [data[:-1] + b"x" for data in requests[::2]]
    plain = read(*requests, request('{"observations":[[7,8,9]]}'))
    assert plain.plain.tolist() == [False, True] * 4 + [True]
    for k in (1, 3, 5, 7):
        bits = np.array([k, k], np.float32).view(np.uint32).tolist()
        assert columns(plain, k) == (f"s{k}", True, k, 0, (2, 1), bits)
    assert plain.numbers.tolist() == [1, 1, 3, 3, 5, 5, 7, 7, 7, 8, 9]


def test_each_request_is_compared_with_the_head_of_its_own_connection():
    first, second = request(BODY), request(BODY).replace(b"Host: a", b"Host: bb")
    heads = [head_of(first), head_of(second)]
    assert read_plain([first, second], heads, 1).plain.all()
    assert not read_plain([second, first], heads, 1).plain.any()


def test_an_empty_batch_and_an_empty_request_are_read():
    assert read().plain.tolist() == []
    assert read(b"", request(BODY), b"").plain.tolist() == [False, True, False]


def test_a_batch_needs_a_head_for_each_request():
    with pytest.raises(ValueError, match="2 requests need as many heads, not 1"):
        read_plain([request(BODY)] * 2, [head_of(request(BODY))], 1)


# Heads.


@pytest.mark.parametrize("field", grammar.LENGTH_FIELDS)
def test_a_head_is_the_bytes_around_the_session_id_and_the_digits_of_the_length(field):
    data = request(BODY).replace(b"Content-Length: 20", (field % 20).encode())
    head = head_of(data)
    assert data == b"POST /sessions/s-1" + head.before + b"20" + head.after + BODY.encode()
    assert head_of(data.removesuffix(BODY.encode())) == head


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("POST", "GET"),
        ("/sessions/s-1/", "/sessions/./"),
        ("/sessions/s-1/", "/sessions/a%20b/"),
        ("/observations", "/observations?a=1"),
        ("/observations", "/observations/"),
        ("HTTP/1.1", "HTTP/1.0"),
        ("HTTP/1.1\r\n", "HTTP/1.1\n"),
        ("Host: a", "Host: a\r\n b"),
        ("Host: a", "Host: a\n"),
        ("Host: a", "Host: a\rb: c"),
        ("Host: a", "Host: a\x00"),
        ("Host: a", "Host: a\x7f"),
        ("Host: a", "Host: a\tb"),
        ("Host: a", "Host: ä"),
        ("Host: a", "Host : a"),
        ("Host: a", "Host a"),
        ("Host: a", ": a"),
        ("Host: a", "Transfer-Encoding: chunked"),
        ("Host: a", "expect: 100-continue"),
        ("Host: a", "Upgrade: h2c"),
        ("Host: a", "Trailer: a"),
        ("Host: a", "Content-Encoding: gzip"),
        ("Host: a", "Connection: close"),
        ("Host: a", "Connection: keep-alive, close"),
        ("Host: a", "Proxy-Connection: close"),
        ("Host: a", "Content-Length: 20"),
        ("Content-Length: 20", "Content-Length: +20"),
        ("Content-Length: 20", "Content-Length: 20, 20"),
        ("Content-Length: 20", "Content-Length: 2 0"),
        ("Content-Length: 20", "Content-Length:"),
        ("Content-Length: 20", "Content-Lengths: 20"),
        ("\r\n\r\n", "\r\n"),
        ("Host: a", "Host: " + "a" * MAX_HEAD_BYTES),
    ],
)
def test_no_request_is_plain_behind_an_unusual_head(old, new):
    text = request(BODY).decode()
    assert old in text
    assert Head.of(text.replace(old, new).encode()) is None


def test_keep_alive_is_the_connection_that_may_be_named():
    for value in ("keep-alive", "Keep-Alive", " keep-alive  "):
        head_of(request(BODY).replace(b"Host: a", f"Host: a\r\nConnection:{value}".encode()))


def test_a_long_line_of_blanks_is_judged_at_once():
    data = request(BODY).replace(b"Host: a", b"Host: a" + b" " * (MAX_HEAD_BYTES - 200) + b"b")
    assert head_of(data).before.endswith(b"Content-Length: ")


# Both ways read the same bytes.

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_plain_is_what_the_ordinary_way_reads(seed):
    rng = Random(seed)
    sender = grammar.Sender(rng)
    counts = check_same(sender, [grammar.almost_plain(rng, sender) for _ in range(200)])
    assert 50 < counts.plain < counts.accepted < 190  # the two ways are compared, and so are refusals


@pytest.mark.parametrize("seed", SEEDS)
def test_a_simple_request_is_plain(seed):
    """The simple set: the heads of usual clients, valid ids, the keys in any order, and usual numbers."""
    rng = Random(seed)
    sender = grammar.Sender(rng)
    requests = [sender.request(grammar.simple_id(rng), grammar.simple_body(rng)) for _ in range(60)]
    assert check_same(sender, requests) == (len(requests), len(requests))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_request_is_read_as_the_ordinary_way_reads_it(seed):
    rng = Random(seed)
    sender = grammar.Sender(rng)
    whole = [sender.request(grammar.simple_id(rng), grammar.simple_body(rng)) for _ in range(200)]
    whole += [grammar.almost_plain(rng, sender) for _ in range(200)]
    counts = check_same(sender, [grammar.damaged(rng, data) for data in whole])
    assert 10 < counts.plain < counts.accepted < 200


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_request_is_never_plain(seed):
    rng = Random(seed)
    sender = grammar.Sender(rng)
    data = sender.request(grammar.simple_id(rng), grammar.simple_body(rng))
    parts = [
        part for cut in grammar.cuts(data) for part in cut
    ]  # each first part lies before its second part
    plain = read(*parts, data, head=head_of(sender.first()))
    assert not plain.plain[:-1].any()
    assert plain.plain[-1]


@pytest.mark.parametrize("seed", range(3))
def test_two_requests_in_one_piece_are_not_plain(seed):
    rng = Random(seed)
    sender = grammar.Sender(rng)
    pair = [sender.request(grammar.simple_id(rng), grammar.simple_body(rng)) for _ in range(2)]
    joined = b"".join(pair)
    pieces = [joined, *(joined[:end] for end in range(len(pair[0]) + 1, len(joined)))]
    plain = read(*pair, *pieces, head=head_of(sender.first()))
    assert plain.plain.tolist() == [True, True] + [False] * len(pieces)


@pytest.mark.parametrize("number", [grammar.simple_number, grammar.hard_number])
def test_every_number_comes_out_as_the_ordinary_float32(number):
    rng = Random(5)
    sender = grammar.Sender(rng)
    texts = [number(rng) for _ in range(6000)]
    requests = [sender.request("s", f'{{"observations":[{text}]}}') for text in [*texts, *grammar.EDGES]]
    check_same(sender, requests)
    valid = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")
    assert all(map(valid.fullmatch, texts))
    share = read(*requests, head=head_of(sender.first())).plain.mean()
    assert share > (0.99 if number is grammar.simple_number else 0.3)


def test_with_a_network_of_whole_numbers_those_beyond_float32_are_not_plain():
    chunks = ["[[1, 16777217], [2, 3]]", "[[4, 5]]", "[[-1e20, 0]]", "[[16777215, 6]]"]
    data = [request('{"observations": ' + chunk + "}") for chunk in chunks]
    heads = [head_of(data[0])] * len(data)
    assert read_plain(data, heads, MAX_STEPS).plain.tolist() == [True] * 4
    exact = read_plain(data, heads, MAX_STEPS, exact=True)
    assert exact.plain.tolist() == [False, True, False, True]
    assert exact.width == 0
    assert read_plain(data[1:2], heads[:1], MAX_STEPS, exact=True).width == 2
