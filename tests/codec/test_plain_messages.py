"""Plain messages are read and answered, together, as the ordinary way reads and answers each."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
import pytest

from app.codec import frames
from app.codec.frames import HEADER, Message
from app.codec.limits import SMALL_BODY_BYTES, Limits
from app.codec.plain_answers import write_plain_frames
from app.codec.plain_messages import PlainMessages, read_messages
from app.errors import CarryoverError
from app.jobs.answers import BulkAnswer
from app.protocols.stream_socket import is_utf8
from tests.helpers import request_grammar as grammar

MAX_STEPS = 100
LIMITS = Limits(observations=MAX_STEPS, steps=50, inputs=3)
PATH_SESSION = "path-session"
SEEDS = range(12)


def read(*messages: str | bytes, named: bool = False, max_steps: int = MAX_STEPS) -> PlainMessages:
    """Read messages: text ones as `str`, binary ones as `bytes`."""
    data = [message if isinstance(message, bytes) else message.encode() for message in messages]
    binary = [isinstance(message, bytes) for message in messages]
    return read_messages(data, binary, [named] * len(data), max_steps)


def packed(
    rows: object, name: bytes = b"", gaps: int = 0, horizon: int = 0, at: int = -1, epoch: int = 0
) -> bytes:
    numbers = np.asarray(rows, "<f4")
    head = HEADER.pack(len(name), gaps, numbers.shape[1], horizon, at, epoch)
    return head + name + b"\0" * (-len(name) % 4) + numbers.tobytes()


def columns(messages: PlainMessages, i: int, named: bool) -> tuple[object, ...]:
    """Session, tag, flat, at, epoch, shape and bits of the numbers of one message."""
    one = messages.select(np.array([i]))
    (start, end), (tag, tag_end) = (
        [int(column[0]) for column in span] for span in (one.session_spans, one.tag_spans)
    )
    session = one.joined[start:end].decode() if named else PATH_SESSION
    observations = one.observations()
    return (
        session, one.joined[tag:tag_end], bool(one.flat[0]), int(one.at[0]), int(one.epochs[0]),
        observations.shape, observations.view(np.uint32).ravel().tolist(),
    )  # fmt: skip


def ordinary(data: bytes, binary: bool, named: bool) -> Message | None:
    """The message as its socket decodes it alone; None unless it is a valid chunk of no options."""
    try:
        if not binary and not is_utf8(data):
            return None
        decode = frames.decode_binary if binary else frames.decode_text
        message = decode(data, None if named else PATH_SESSION, LIMITS)
    except CarryoverError:
        return None
    chunk = message.chunk
    if chunk is None or chunk.options is not None or chunk.horizon or chunk.model is not None:
        return None
    return message


def ordinary_columns(message: Message) -> tuple[object, ...]:
    assert message.chunk is not None
    observations = np.ascontiguousarray(message.chunk.observations, np.float32)
    at = -1 if message.at is None else message.at
    return (
        message.session, message.tag, message.flat, at, message.epoch or 0,
        observations.shape, observations.view(np.uint32).ravel().tolist(),
    )  # fmt: skip


def check_same(messages: list[str | bytes], named: bool) -> tuple[int, int]:
    """Compare both ways. Returns how many messages are plain, and how many the ordinary way accepts."""
    together = read(*messages, named=named)
    accepted = 0
    for i, data in enumerate(messages):
        binary = isinstance(data, bytes)
        alone = ordinary(data if isinstance(data, bytes) else data.encode(), binary, named)
        accepted += alone is not None
        if together.plain[i]:
            assert alone is not None, f"not accepted by the ordinary way: {data!r}"
            assert columns(together, i, named) == ordinary_columns(alone), f"read differently: {data!r}"
    return int(together.plain.sum()), accepted


# Examples.

CHUNK = '"observations":[[0.5]]'


@pytest.mark.parametrize(
    "message",
    [
        f"{{{CHUNK}}}",
        f'{{{CHUNK},"at":3,"epoch":"00000000000000ff"}}',
        f'{{"tag":0,{CHUNK}}}',
        f'{{"tag" : 1234567890123456789 ,{CHUNK}}}',
        f'{{"tag":"",{CHUNK}}}',
        f'{{"tag":" a~!/",{CHUNK}}}',
        packed([[1, 2], [3, 4]]),
        packed([[1]], at=0, epoch=2**64 - 1),
        packed([[1]], at=2**63 - 1),
        packed([[3.4028235e38, -0.0, 1e-45]]),
    ],
)
def test_a_plain_message_is_read(message):
    assert check_same([message], named=False) == (1, 1)
    assert not read(message, named=True).plain.any()  # it names no session


@pytest.mark.parametrize(
    "message",
    [
        f'{{"session":"a",{CHUNK}}}',
        f'{{{CHUNK} , "tag":1, "session" : "a" }}',
        packed([[1]], b"a-b"),
        packed([[1]], b"a" * 128),
    ],
)
def test_a_plain_message_of_a_shared_socket_names_its_session(message):
    assert check_same([message], named=True) == (1, 1)
    assert not read(message, named=False).plain.any()


@pytest.mark.parametrize(
    "message",
    [
        "",
        '{"reset":true}',
        f'{{"reset":false,{CHUNK}}}',
        f'{{{CHUNK},"horizon":1}}',
        f'{{{CHUNK},"tag":-1}}',
        f'{{{CHUNK},"tag":1.5}}',
        f'{{{CHUNK},"tag":01}}',
        f'{{{CHUNK},"tag":null}}',
        f'{{{CHUNK},"tag":[1]}}',
        f'{{{CHUNK},"tag":"\\n"}}',
        f'{{{CHUNK},"tag":"\n"}}',
        f'{{{CHUNK},"tag":"ä"}}',
        f'{{{CHUNK},"tag":"\x7f"}}',
        f'{{{CHUNK},"tag":"a}}',
        f'{{{CHUNK},"tag":1,"tag":2}}',
        f'{{{CHUNK},"session":"{PATH_SESSION}"}}',
        b"",
        bytes(HEADER.size),
        packed([[1]])[:-1],
        packed([[1]])[:23],
        packed([[1]], gaps=1),
        packed([[1]], gaps=2),
        packed([[1]], horizon=1),
        packed([[1]], at=-2),
        packed(np.zeros((0, 1))),
        packed([[float("nan")]]),
        packed([[1, float("inf")]]),
        packed([[1], [-float("inf")]]),
        HEADER.pack(0, 0, 2, 0, -1, 0) + bytes(4),
        HEADER.pack(0, 0, 0, 0, -1, 0) + bytes(4),
        HEADER.pack(9, 0, 1, 0, -1, 0) + bytes(8),
    ],
)
def test_any_other_message_is_not_plain(message):
    assert not read(message).plain.any()
    check_same([message], named=False)


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "ä", "a" * 129])
def test_a_message_with_an_invalid_session_id_is_not_plain(name):
    text = f'{{"session":"{name}",{CHUNK}}}'
    assert not read(text, packed([[1]], name.encode()), named=True).plain.any()
    assert not read(f'{{"session":"a","session":"a",{CHUNK}}}', named=True).plain.any()


def test_a_long_chunk_and_a_large_message_are_not_plain():
    assert read(packed([[1]] * 3), max_steps=3).plain.all()
    assert not read(packed([[1]] * 4), max_steps=3).plain.any()
    text = f"{{{CHUNK}}}"
    assert read(text.ljust(SMALL_BODY_BYTES)).plain.all()
    assert not read(text.ljust(SMALL_BODY_BYTES + 1)).plain.any()
    width = (SMALL_BODY_BYTES - HEADER.size) // 4
    assert read(packed(np.ones((1, width)))).plain.all()
    assert not read(packed(np.ones((1, width + 1)))).plain.any()


def test_a_batch_needs_a_kind_and_a_mark_for_each_message():
    with pytest.raises(ValueError, match="2 messages, 1 kinds and 2 marks"):
        read_messages([b"", b""], [True], [True, False], 1)


def test_nothing_is_read_in_an_empty_batch():
    assert len(read()) == 0


# Both ways read the same messages.


def text_message(rng: Random, named: bool) -> str:
    body = rng.choice([grammar.simple_body, grammar.simple_body, grammar.odd_body])(rng)
    items = []
    if rng.random() < (0.95 if named else 0.05):
        name = rng.choice(grammar.ODD_IDS) if rng.random() < 0.1 else grammar.simple_id(rng)
        items.append(f'"session"{grammar.blanks(rng)}:"{name}"')
    if rng.random() < 0.4:
        items.append(
            f'"tag":{rng.choice(["1", "0", str(rng.getrandbits(60)), json_text(rng), "-1", "1e3", "{}"])}'
        )
    return body.replace("{", "{" + "".join(f"{item}," for item in items), 1)


def json_text(rng: Random) -> str:
    return '"{}"'.format("".join(rng.choice('ab c!~\\"\té') for _ in range(rng.randint(0, 6))))


def binary_message(rng: Random, named: bool) -> bytes:
    rows = np.array(
        [[rng.gauss(0, 1) for _ in range(rng.choice([1, 2, 3]))]] * rng.choice([1, 1, 2, 20, 101])
    )
    name = grammar.simple_id(rng).encode() if rng.random() < (0.95 if named else 0.05) else b""
    at = rng.choice([-1, -1, 0, rng.randrange(2**63)])
    return packed(rows, name, at=at, epoch=rng.choice([0, rng.getrandbits(64)]))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_plain_is_what_the_ordinary_way_reads(seed, named):
    rng = Random(seed)
    kinds = [text_message, binary_message]
    plain, accepted = check_same([rng.choice(kinds)(rng, named) for _ in range(300)], named)
    assert 100 < plain <= accepted < 290


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_message_is_read_as_the_ordinary_way_reads_it(seed, named):
    rng = Random(seed)
    whole: list[str | bytes] = [binary_message(rng, named) for _ in range(150)]
    damaged: list[str | bytes] = [grammar.damaged(rng, data) for data in whole if isinstance(data, bytes)]
    for _ in range(150):
        data = grammar.damaged(rng, text_message(rng, named).encode())
        if is_utf8(data):
            damaged.append(data.decode())
    plain, accepted = check_same(damaged, named)
    assert 10 < plain <= accepted < len(damaged)


# Both ways write the same answers.


def answer_of(messages: PlainMessages, rng: Random, outputs: int) -> BulkAnswer:
    count = len(messages)
    total = int(messages.lengths.sum()) * outputs
    numbers = [rng.choice([rng.gauss(0, 1), float("nan"), 1e30, 0.0, -1e-9]) for _ in range(total)]
    return BulkAnswer(
        np.array([rng.choice([0, 9, 10, rng.randrange(2**63)]) for _ in range(count)]),
        np.array([rng.randrange(1, 2**64) for _ in range(count)], np.uint64),
        messages.lengths,
        outputs,
        np.array(numbers, np.float32),
        model='pump "7"',
    )


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("kinds", ["text", "binary", "both"])
@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_the_one_that_the_message_gets_alone(seed, kinds, outputs):
    rng = Random(seed)
    named = bool(seed % 2)
    session = grammar.simple_id(rng) if named else PATH_SESSION
    messages: list[str | bytes] = []
    for length in (1, 2, 3, 15, 64, 1, 1):  # frames of all three lengths of a head
        if kinds == "text" or (kinds == "both" and length % 2):
            rows = str([float(k) for k in range(length)]) if length % 3 else str([[1.5, 2.5]] * length)
            extra = f',"session":"{session}"' if named else ""
            tag = rng.choice(["", ',"tag":17', ',"tag":"a b"'])
            messages.append(f'{{"observations":{rows}{extra}{tag}}}')
        else:
            messages.append(packed(np.ones((length, 2)), session.encode() if named else b""))
    read_together = read(*messages, named=named)
    assert read_together.plain.all()
    answer = answer_of(read_together, rng, outputs)
    sessions = [session] * len(messages)
    written = write_plain_frames(read_together, sessions, np.array([named] * len(messages)), answer)
    for data, frame, alone in zip(messages, written, answer.singles(sessions), strict=True):
        message = ordinary(data if isinstance(data, bytes) else data.encode(), isinstance(data, bytes), named)
        assert message is not None
        assert frame == frames.encode_frame(frames.encode_answer(alone, message), text=not message.binary)


@pytest.mark.parametrize("named", [False, True])
def test_messages_that_are_joined_are_the_same_messages(named):
    rng = Random(5)
    parents = [
        read(*[rng.choice([text_message, binary_message])(rng, named) for _ in range(9)], named=named)
        for _ in range(3)
    ]
    picked = [(rng.choice(parents), np.array(rng.sample(range(9), rng.randint(1, 4)))) for _ in range(12)]
    picked = [(parent, indexes[parent.plain[indexes]]) for parent, indexes in picked]
    parts = [parent.select(indexes) for parent, indexes in picked if len(indexes)]
    joined = PlainMessages.join(parts)
    before = [columns(part, i, named) for part in parts for i in range(len(part))]
    assert [columns(joined, i, named) for i in range(len(joined))] == before
    assert len(before) > 12
    assert len(joined.joined) <= sum(len(parent.joined) for parent in parents)


def test_a_frame_of_each_length_has_its_head():
    rng = Random(1)
    for length, outputs, head in ((1, 1, 2), (64, 2, 4), (64, 300, 10)):
        messages = read(packed(np.ones((length, 2))))
        (frame,) = write_plain_frames(messages, ["s"], np.array([False]), answer_of(messages, rng, outputs))
        size = HEADER.size + 4 * length * outputs
        assert len(frame) == head + size
        form = {2: "!BB", 4: "!BBH", 10: "!BBQ"}[head]
        assert struct.unpack_from(form, frame)[-1] == size
