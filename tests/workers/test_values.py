"""What workers send each other arrives as it was, and nothing else can arrive."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import numpy as np
import pytest

from app import errors
from app.errors import CarryoverError, OutOfStep, OverLimit, WorkerUnavailable
from app.jobs import jobs
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Adopt, Advance, AdvanceMany, Annotate, Expire, Forecast, Refuse, Write
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.text import Draft, TextAnswer, TextRequest
from app.session.notes import Alert
from app.session.state_file import SessionState
from app.workers.values import CLASSES, FIELDS, PartAnswer, decode, encode
from models.generation.sampling import Sampling
from models.generation.stopping import Stop


def fields(value: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(value, name) for name in names]


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, np.ndarray):
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    elif isinstance(want, CarryoverError):
        assert type(got) is type(want)
        assert vars(got) == vars(want)
    elif type(want) in CLASSES:
        assert type(got) is type(want)
        names = FIELDS[CLASSES.index(type(want))]
        assert_same(fields(got, names), fields(want, names))
    elif isinstance(want, dict):
        assert list(got) == list(want)
        assert_same(list(got.values()), list(want.values()))
    elif isinstance(want, SessionList):
        assert got.names == want.names
    elif isinstance(want, list | tuple):
        assert len(got) == len(want)
        for pair in zip(got, want, strict=True):
            assert_same(*pair)
    else:
        assert got == want


NO_EPOCH_AND_LAST = np.array([0, 2**64 - 1], np.uint64)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
ANSWER = {"predictions": ROWS, "lower": np.full((3, 2), np.nan, np.float32)}
TEXT = TextRequest("the sea ", 9, Sampling(2**64 - 1, 0.8, top_k=4), 2**64 - 1, Stop((3,), ("end",)))
DRAFT = Draft("f", 3, 2**64 - 1, 8, 8, (1, 2), ROWS[0])
VALUES = [
    None,
    Write("a/b", TEXT, 3, 2**64 - 1, keep=False, draft=DRAFT, goes_on=True),
    Write("a", TextRequest((4, 5)), behind=7),
    TextAnswer("a", "verse", 3, 13, 5, 8, (1, 2), ("x", "\n"), "stop", 2, 10, DRAFT),
    True,
    {"event": "chunk", "observations": ROWS},
    Advance("a/b", ROWS, 2**62, 2**64 - 1, 4, "sine", create=False, options=ChunkOptions(0.9, True)),
    Advance("a", ROWS, options=ChunkOptions(gaps=True, timestamps=np.array([1.5, 2.5]), future=ROWS)),
    AdvanceMany(
        SessionList(["a", "b"]), ROWS, np.array([1, 2]), np.array([-1, 7]), NO_EPOCH_AND_LAST
    ),
    AdvanceMany(SessionList(["a"]), ROWS, np.array([3]), model="sine", requests=5),
    AdvanceMany(
        SessionList(["a"]), ROWS[:, :0], np.array([3]),
        options=ChunkOptions(inputs={"images": np.arange(72.0).reshape(3, 2, 3, 4), "gain": np.ones(3)}),
    ),
    Forecast("a", 5, 0.9, ROWS),
    Refuse("a", OutOfStep("no", position=4)),
    ChunkAnswer("a", "sine", 7, 2**64 - 1, True, ANSWER),
    BulkAnswer(
        np.array([3, -1]), np.array([5, 0], np.uint64), np.array([3, 0]), 2, ROWS.ravel(), [0],
        {1: OutOfStep("no", position=4)}, {"scores": {0: ROWS}}, "sine",
    ),
    BulkAnswer(np.array([3]), np.array([5], np.uint64), np.array([3]), np.array([2]), ROWS.ravel()),
    PartAnswer(np.array([4, 2]), OverLimit("slower", 7, quota="sessions", limit=3)),
    PartAnswer(4, ChunkAnswer("a", "sine", 7, 5, False, ANSWER)),
    SessionState(
        "a", "sine", "f", 5, 3, 1.0, 2.0, float("inf"), ROWS[0], ((1, 2**64 - 1, ANSWER),), ("site:north",),
        Alert(0.9, None, 3, "ops"),
    ),
    Annotate("a", {"site": "north", "kind": None}, replaces_labels=True, at=4),
    WorkerUnavailable("gone"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_arrives_as_it_was(value):
    got = decode(encode(value))
    assert_same(got, value)
    if isinstance(value, AdvanceMany):
        assert isinstance(got.sessions, SessionList)


def test_every_error_arrives_as_it_was():
    for name in dir(errors):
        error_class = getattr(errors, name)
        if isinstance(error_class, type) and issubclass(error_class, CarryoverError):
            error = error_class("why", position=3)
            assert_same(decode(encode(error)), error)


def test_every_job_of_a_client_can_be_sent():
    """A new job must be added to `CLASSES`; those that stay in their worker are named here."""
    stays = {Adopt, Expire}
    known = {value for value in vars(jobs).values() if isinstance(value, type)}
    made = {cls for cls in known if "reply" in getattr(cls, "__annotations__", {})} - {jobs.Progress}
    assert made - stays <= set(CLASSES)


def test_every_field_of_a_job_is_sent_or_belongs_to_its_process():
    here = {"reply", "progress", "usage", "client", "watcher", "raw_observations", "digest", "clock"}
    for cls, names in zip(CLASSES, FIELDS, strict=True):
        if dataclasses.is_dataclass(cls):
            declared = {field.name for field in dataclasses.fields(cls)}
        else:
            declared = set(cls.__struct_fields__)
        assert declared - set(names) <= here, cls


@pytest.mark.parametrize("value", [object(), lambda: None, {"a": object()}])
def test_anything_else_cannot_be_sent(value):
    with pytest.raises(TypeError):
        encode(value)


def test_a_value_that_is_cut_short_is_refused():
    data = encode(VALUES[3])
    for end in range(len(data)):
        with pytest.raises(msgspec.DecodeError):
            decode(data[:end])


def test_a_text_is_the_same_request_at_another_worker():
    assert decode(encode(TEXT)).digest == TEXT.digest
    tokens = TextRequest((4, 5))
    assert decode(encode(tokens)).digest == tokens.digest != TextRequest((5, 4)).digest
