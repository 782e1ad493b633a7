"""Answers that are written by the batch are the bytes that each answer alone would be."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.codec.answers import encode_chunk_answer
from app.codec.plain_answers import write_plain_answers
from app.codec.plain_requests import Head, PlainRequests, read_plain
from app.jobs.answers import BulkAnswer, ChunkAnswer
from models.arrays import Floats
from tests.helpers import request_grammar as grammar

HEADERS = b"date: Thu, 26 Nov 2026 18:00:00 GMT\r\nserver: uvicorn\r\n"
SPECIAL = np.array(
    [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF,
     0x3F800000, 0x4B800000, 0xCB800001, 0x5F000000, 0x358637BD, 0x2EDBE6FF],
    np.uint32,
).view(np.float32)  # fmt: skip
POSITIONS = [0, 1, 9, 10, 99, 100, 2**32, 10**18 - 1, 10**18, 2**63 - 1]


def any_floats(rng: Random, count: int) -> Floats:
    """Finite numbers of every kind: any bits, a few special ones, and ordinary ones."""
    bits = np.array([rng.getrandbits(32) for _ in range(count)], np.uint32).view(np.float32)
    ordinary = np.array([rng.gauss(0, 10) for _ in range(count)], np.float32)
    special = np.array([rng.choice(SPECIAL) for _ in range(count)], np.float32)
    kind = np.array([rng.randrange(3) for _ in range(count)])
    numbers = np.select([kind == 0, kind == 1], [bits, ordinary], special)
    return np.where(np.isfinite(numbers), numbers, np.float32(0.5))


def requests_of(rng: Random, count: int, most_steps: int) -> PlainRequests:
    sender = grammar.Sender(rng)
    head = Head.of(sender.first())
    assert head is not None
    bodies = []
    for _ in range(count):
        steps = rng.choice([1, 1, 2, rng.randint(1, most_steps)])
        rows = [1] * steps if rng.random() < 0.5 else [[1]] * steps
        bodies.append(json.dumps({"observations": rows}))
    pieces = [sender.request(grammar.simple_id(rng), body) for body in bodies]
    plain = read_plain(pieces, [head] * count, most_steps)
    assert plain.plain.all()
    return plain


def answer_of(rng: Random, requests: PlainRequests, outputs: int, model: str) -> BulkAnswer:
    count = len(requests)
    positions = [rng.choice([rng.choice(POSITIONS), rng.randrange(2**63)]) for _ in range(count)]
    epochs = [rng.choice([1, 2**64 - 1, rng.randrange(2**64), rng.randrange(2**20)]) for _ in range(count)]
    # As in the columns of a header: not contiguous.
    columns = np.zeros(count, np.dtype([("position", np.int64), ("other", np.int64), ("epoch", np.uint64)]))
    columns["position"], columns["epoch"] = positions, np.array(epochs, np.uint64)
    numbers = any_floats(rng, int(requests.lengths.sum()) * outputs)
    return BulkAnswer(columns["position"], columns["epoch"], requests.lengths, outputs, numbers, model=model)


def response(answer: ChunkAnswer, *, flat: bool, headers: bytes = HEADERS) -> bytes:
    body = encode_chunk_answer(answer, flat)
    head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (STATUS_LINE[200], headers, len(body)) + body


def check_same(requests: PlainRequests, answer: BulkAnswer) -> None:
    starts, ends = requests.session_starts.tolist(), requests.session_ends.tolist()
    sessions = [requests.joined[start:end].decode() for start, end in zip(starts, ends, strict=True)]
    expected = [
        response(single, flat=bool(flat))
        for single, flat in zip(answer.singles(sessions), requests.flat, strict=True)
    ]
    assert write_plain_answers(requests, answer, HEADERS) == expected


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_answers_are_the_bytes_of_each_answer_alone(seed, outputs):
    rng = Random(seed)
    requests = requests_of(rng, rng.choice([1, 2, 7, 64]), 50)
    check_same(requests, answer_of(rng, requests, outputs, rng.choice(["sine", 'a "quoted" näme', ""])))


@pytest.mark.parametrize("outputs", [1, 2])
def test_every_special_number_position_and_epoch_is_written_as_in_an_answer_alone(outputs):
    rng = Random(1)
    requests = requests_of(rng, len(POSITIONS), 50)
    answer = answer_of(rng, requests, outputs, "sine")
    answer.positions[:] = POSITIONS
    answer.epochs[:] = np.array([1 << min(63, 7 * i) for i in range(len(POSITIONS))], np.uint64)
    answer.predictions[:] = np.resize(SPECIAL, len(answer.predictions))
    check_same(requests, answer)


def test_a_selection_of_requests_is_answered_under_its_own_names():
    rng = Random(2)
    whole = requests_of(rng, 40, 50)
    for _ in range(10):
        indexes = np.array(rng.sample(range(40), rng.randint(1, 40)))
        requests = whole.select(indexes)
        check_same(requests, answer_of(rng, requests, 1, "sine"))
        nested = requests.select(np.arange(len(requests))[::-1])
        check_same(nested, answer_of(rng, nested, 3, "sine"))


def test_other_standard_headers_and_another_model_are_not_mixed_up_with_those_before():
    rng = Random(3)
    requests = requests_of(rng, 3, 5)
    for headers, model in ((b"", "a"), (b"server: x\r\n", "a"), (b"", "b"), (b"server: x\r\n", "b")):
        answer = answer_of(rng, requests, 1, model)
        for written in write_plain_answers(requests, answer, headers):
            head, _, body = written.partition(b"\r\n\r\n")
            assert head.startswith(STATUS_LINE[200] + headers + b"content-type: application/json\r\n")
            assert head.endswith(b"content-length: %d" % len(body))
            assert json.loads(body)["model"] == model
