"""An Arrow request that claims far more than it holds is refused before anything of it is expanded."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app.codec.bulk import arrow
from app.codec.bulk.request import BulkLimits
from app.codec.limits import Limits
from app.errors import CarryoverError, TooLarge, Unprocessable
from tests.helpers import hostile_bodies

pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.anyio

LIMITS = BulkLimits(10_000, Limits(100, 100, 100))
MAX_GROWTH_BYTES = 64 * 2**20


@pytest.fixture
def store() -> str:
    return "memory"


def decoded(body: bytes) -> Any:
    """The request, or the error with which it is refused."""
    try:
        return arrow.decode(body, LIMITS)
    except CarryoverError as error:
        return error


def table(**columns: Any) -> Any:
    return pa.table({"session": ["a", "b"], "observations": [0.5, 0.5]} | columns)


def stream(made: Any, *, batches: int = 1, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for _ in range(batches):
            writer.write_table(made)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def nested(depth: int) -> Any:
    kind = pa.float32()
    for _ in range(depth):
        kind = pa.list_(kind)
    return pa.nulls(2, kind)


LISTS = pa.array([[0.5]], pa.list_(pa.float32()))
TYPES: dict[str, dict[str, Any]] = {
    "names in runs": {"session": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), ["a"])},
    "names in views": {"session": pa.array(["a", "b"], pa.string_view())},
    "names in bytes": {"session": pa.array([b"a", b"b"])},
    "lists in a dictionary": {"observations": pa.DictionaryArray.from_arrays([0, 0], LISTS)},
    "lists that overlap": {"observations": pa.array([[0.5], [0.5]], pa.list_view(pa.float32()))},
    "numbers of one bit": {"observations": pa.array([True, False])},
    "lists of lists of lists": {"observations": nested(3)},
    "a deep type": {"observations": nested(60)},
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_type_that_claims_more_than_its_bytes_is_refused_by_its_name(kind):
    outcome = decoded(stream(table(**TYPES[kind])))
    assert isinstance(outcome, Unprocessable)
    assert "cannot be of type" in outcome.detail


def columns_of(rows: int) -> Any:
    """Eight bytes a row."""
    at = pa.array(np.zeros(rows, np.int64))
    return pa.table({"session": pa.nulls(rows), "observations": pa.nulls(rows), "at": at})


def null_observations(rows: int, width: int) -> Any:
    """Observations that take no bytes."""
    lists = pa.FixedSizeListArray.from_arrays(pa.nulls(rows * width), width)
    return pa.table({"session": pa.nulls(rows), "observations": lists})


def dictionary_names(rows: int, length: int) -> Any:
    """One long name, many times."""
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ["x" * length])
    return pa.table({"session": names, "observations": [0.5] * rows})


OVER: dict[str, tuple[Callable[[], bytes], str]] = {
    "record batches": (lambda: hostile_bodies.arrow_batches(arrow.MAX_BATCHES + 1), "record batches"),
    "batches with a dictionary": (
        lambda: stream(
            table(session=pa.array(["a", "b"]).dictionary_encode()),
            batches=arrow.MAX_DICTIONARY_BATCHES + 1,
        ),
        "with dictionaries",
    ),
    "schema": (lambda: stream(hostile_bodies.arrow_model(pa)), "a schema has at most"),
    "bytes": (lambda: stream(columns_of(arrow.MAX_BYTES // 8 + 1)), "bytes in memory"),
    "numbers": (lambda: stream(null_observations(10, 2_000_000)), "numbers"),
}


@pytest.mark.parametrize("kind", OVER)
def test_more_than_a_request_may_have_is_too_large(kind):
    body, reason = OVER[kind]
    outcome = decoded(body())
    assert isinstance(outcome, TooLarge)
    assert reason in outcome.detail


def test_compressed_batches_are_refused_before_they_are_expanded():
    zeros = pa.table({"session": ["a"], "observations": [[0.0] * 1_000_000]})
    body = stream(zeros, compression="zstd")
    assert len(body) < 100_000
    outcome, growth = decoded_with_growth(body)
    assert isinstance(outcome, Unprocessable)
    assert "compressed" in outcome.detail
    assert growth < 1_000_000


@pytest.mark.parametrize(
    "made", [dictionary_names(2_000, 100_000), null_observations(10, 2_000_000)], ids=["dictionary", "nulls"]
)
def test_what_is_repeated_or_missing_takes_no_memory_of_its_own(made):
    """200 MB of names, and 160 MB of numbers, if they were expanded."""
    _, growth = decoded_with_growth(stream(made))
    assert growth < MAX_GROWTH_BYTES


async def test_pyarrow_is_set_up_before_the_first_request(start_http, monkeypatch):
    """Its import takes longer than a request may stop the others."""
    calls: list[str] = []
    monkeypatch.setattr(arrow, "warm_up", lambda: calls.append("warm_up"))
    async with start_http():
        assert calls == ["warm_up"]


def decoded_with_growth(body: bytes) -> tuple[Any, int]:
    """The request or the refusal, and the peak of the memory that Python and Arrow took for it, in bytes."""
    whole, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        outcome = decoded(body)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pa.set_memory_pool(whole)
    return outcome, peak + pool.max_memory()
