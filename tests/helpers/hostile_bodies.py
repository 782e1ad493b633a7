"""Small bodies that are expensive to read, and what each costs a server in another process.

`make attack` prints `table`; `tests/system/test_attack_bodies.py` holds the server to the bar.
"""

from __future__ import annotations

import gzip
import http.client
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAX_STALL_SECONDS = 0.25
MAX_PEAK_BYTES = 256 * 2**20
BODY_BYTES = 8 * 2**20

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
BINARY = {"content-type": "application/octet-stream"}
CSV = {"content-type": "text/csv"}
CHUNK = "/sessions/hostile/observations"
ROWS = "/models/sine/rows"
FORECAST = "/sessions/hostile/forecast"
INFER = "/v2/models/sine/infer"


@dataclass(frozen=True)
class Hostile:
    """A request that is expensive to read.

    body : makes it, at most `BODY_BYTES`
    """

    path: str
    body: Callable[[], bytes]
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What a request cost the server, and the others.

    status : of its answer
    stall_seconds : the longest that another client waited for the answer to a chunk
    busy_seconds : the most processor time of the server within one such wait: on a busy machine the part of
        the stall that is the server's
    peak_bytes : resident memory of the server at its peak
    """

    status: int
    answer_bytes: int
    stall_seconds: float
    busy_seconds: float
    peak_bytes: int


def repeated(head: bytes, item: bytes, tail: bytes, separator: bytes = b",") -> Callable[[], bytes]:
    """A body of as many items as fit."""

    def body() -> bytes:
        count = (BODY_BYTES - len(head) - len(tail)) // (len(item) + len(separator))
        return head + separator.join([item] * count) + tail

    return body


def counted(head: bytes, item: bytes, tail: bytes, count: int) -> Callable[[], bytes]:
    return lambda: head + b",".join([item] * count) + tail


def padded(head: bytes, letter: bytes, tail: bytes) -> Callable[[], bytes]:
    """A body of one long text or number."""
    return lambda: head + letter * (BODY_BYTES - len(head) - len(tail)) + tail


def keys(head: bytes = b"{", tail: bytes = b"}", count: int = 600_000) -> Callable[[], bytes]:
    """An object of many different names."""
    return lambda: head + b",".join(b'"%x":0' % i for i in range(count)) + tail


def bulk(observations: Callable[[int], bytes], count: int = 10_000, more: bytes = b"") -> Callable[[], bytes]:
    """A bulk request in JSON; `observations` writes those of a session."""

    def body() -> bytes:
        names = b",".join(b'"h%d"' % i for i in range(count))
        items = b",".join(map(observations, range(count)))
        return b'{"sessions":[%b],"observations":[%b]%b}' % (names, items, more)

    return body


ROW51 = b"[%b]" % b",".join([b"0.123456"] * 51)
NULLS51 = b"[%b]" % b",".join([b"null", b"0.12345"] * 25 + [b"1"])
CHUNK51 = b"[%b]" % b",".join([b"[0.12345]"] * 51)
CHUNK51_NULLS = b"[%b]" % b",".join([b"[null]", b"[0.1234]"] * 25 + [b"[1]"])
NEST = b"[" * 100 + b"]" * 100


def bulk_binary(model: bytes = b"", numbers: float = 0.5, inputs: int = 1) -> bytes:
    names = b"\n".join(b"h%d" % i for i in range(10_000))
    rows = np.full(10_000 * inputs, numbers, "<f4").tobytes()
    head = struct.pack("<4sHHII", b"CYO1", 8 if model else 0, inputs, 10_000, 0)
    return head + rows + (model + b"\n" if model else b"") + names


def arrow(table: Callable[[Any], Any], **options: Any) -> Callable[[], bytes]:
    def body() -> bytes:
        import pyarrow as pa

        made = table(pa)
        sink = pa.BufferOutputStream()
        written = pa.ipc.IpcWriteOptions(**options)
        with pa.ipc.new_stream(sink, made.schema, options=written) as stream:
            stream.write_table(made)
        data: bytes = sink.getvalue().to_pybytes()
        return data

    return body


def arrow_batches(count: int) -> bytes:
    import pyarrow as pa

    empty = pa.record_batch(
        {"session": pa.array([], pa.string()), "observations": pa.array([], pa.float32())}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, empty.schema) as stream:
        for _ in range(count):
            stream.write_batch(empty)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def one_number(pa: Any, count: int = 10_000) -> Any:
    return pa.array(np.full(count, 0.5, np.float32))


def dictionary_names(pa: Any) -> Any:
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int8)), ["x" * 1_000_000])
    return pa.table({"session": names, "observations": one_number(pa)})


def run_end_names(pa: Any) -> Any:
    names = pa.RunEndEncodedArray.from_arrays(pa.array([10_000], pa.int32()), ["x" * 1_000_000])
    return pa.table({"session": names, "observations": one_number(pa)})


def view_names(pa: Any) -> Any:
    names = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int8)), ["x" * 1_000_000])
    views = pa.StringViewArray.from_buffers(
        pa.string_view(),
        10_000,
        [
            None,
            pa.py_buffer(struct.pack("<i4sii", 1_000_000, b"xxxx", 0, 0) * 10_000),
            names.dictionary.buffers()[2],
        ],
    )
    return pa.table({"session": views, "observations": one_number(pa)})


def dictionary_observations(pa: Any) -> Any:
    values = pa.array([[0.5] * 300_000], pa.list_(pa.float32()))
    lists = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int8)), values)
    return pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": lists})


def list_view_observations(pa: Any) -> Any:
    values = one_number(pa, 1_000_000)
    zeros, sizes = pa.array(np.zeros(10_000, np.int32)), pa.array(np.full(10_000, 1_000_000, np.int32))
    lists = pa.ListViewArray.from_arrays(zeros, sizes, values)
    return pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": lists})


def null_observations(pa: Any) -> Any:
    lists = pa.FixedSizeListArray.from_arrays(pa.nulls(10_000 * 200_000), 200_000)
    return pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": lists})


def boolean_observations(pa: Any) -> Any:
    values = pa.array(np.zeros(60_000_000, bool))
    lists = pa.FixedSizeListArray.from_arrays(values, 6_000)
    return pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": lists})


def bad_rows(pa: Any) -> Any:
    rows = [[0.5] * (1 + i % 40) for i in range(10_000)]
    return pa.table({"session": ["no good"] * 10_000, "observations": rows})


def different_rows(pa: Any) -> Any:
    rows = [[[0.5] * (1 + i % 40)] * 4 for i in range(10_000)]
    return pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": rows})


def many_columns(pa: Any) -> Any:
    return pa.table({"session": ["a"], "observations": [0.5]} | {f"c{i}": [1] for i in range(20_000)})


def deep_type(pa: Any) -> Any:
    kind = pa.float32()
    for _ in range(60):
        kind = pa.list_(kind)
    return pa.table({"session": ["a"], "observations": pa.nulls(1, kind)})


def inputs(pa: Any, **columns: Any) -> Any:
    """Inputs by name, of as many sessions."""
    count = len(next(iter(columns.values())))
    return pa.table({"session": [f"h{i}" for i in range(count)], **columns})


def input_columns(pa: Any) -> Any:
    return inputs(pa, **{f"c{i}": [1.5] for i in range(4_000)})


def one_name(pa: Any) -> Any:
    fields = ["session", *["x"] * 10_000]
    return pa.table([["h"], *[[1.5]] * 10_000], names=fields)


def prefixes(pa: Any) -> Any:
    return inputs(pa, **{"inputs." * 140_000 + "at!": [1.5]})


def input_entries(pa: Any) -> Any:
    return inputs(pa, **{f"c{i}": pa.array(np.zeros(8_000, bool)) for i in range(6)})


def null_inputs(pa: Any) -> Any:
    return inputs(pa, value=pa.FixedSizeListArray.from_arrays(pa.nulls(10_000 * 200_000), 200_000))


def boolean_inputs(pa: Any) -> Any:
    return inputs(pa, value=pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(60_000_000, bool)), 6_000))


def deep_inputs(pa: Any) -> Any:
    lists = pa.array([0.5])
    for _ in range(60):
        lists = pa.ListArray.from_arrays([0, 1], lists)
    return inputs(pa, value=lists)


def empty_steps(pa: Any) -> Any:
    sizes = pa.array(np.arange(0, 10_001, dtype=np.int32) * 90)
    steps = pa.ListArray.from_arrays(pa.array(np.zeros(900_001, np.int32)), one_number(pa, 0))
    return inputs(pa, value=pa.ListArray.from_arrays(sizes, steps))


def arrow_model(pa: Any) -> Any:
    made = pa.table({"session": [f"h{i}" for i in range(10_000)], "observations": one_number(pa)})
    return made.replace_schema_metadata({"model": "x" * 7_000_000})


def state_tensors(count: int = 148_000) -> bytes:
    names = (f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))
    header = ("{" + ",".join(names) + "}").encode()[: BODY_BYTES - 8]
    return struct.pack("<Q", len(header)) + header


def state_metadata(count: int = 480_000) -> bytes:
    header = ('{"__metadata__":{' + ",".join(f'"{i}":""' for i in range(count)) + "}}").encode()
    return struct.pack("<Q", len(header)) + header


def state_json(inside: bytes) -> bytes:
    return struct.pack("<Q", len(inside)) + inside


def lines(head: bytes, line: bytes, tail: bytes = b"") -> Callable[[], bytes]:
    """A text of as many lines as fit."""
    return lambda: head + line * ((BODY_BYTES - len(head) - len(tail)) // len(line)) + tail


WIDE = b",".join(b"c%d" % i for i in range(256)) + b",value\n"
ROW257 = b",".join([b"1"] * 257) + b"\n"
STATE = "/sessions/hostile/state"
# Of every parser: many values, many names, nesting, one long text, one long number, blanks.
KINDS: dict[str, Hostile] = {
    "forecast: future of texts": Hostile(FORECAST, repeated(b'{"steps":1,"future":[', b'""', b"]}")),
    "forecast: future of rows of texts": Hostile(
        FORECAST, repeated(b'{"steps":1,"future":[', b'[""]', b"]}")
    ),
    "forecast: future of numbers": Hostile(FORECAST, repeated(b'{"steps":1,"future":[', b"1", b"]}")),
    "forecast: future of empty rows": Hostile(FORECAST, repeated(b'{"steps":1,"future":[', b"[]", b"]}")),
    "forecast: nested rows": Hostile(FORECAST, repeated(b'{"steps":1,"future":[', NEST, b"]}")),
    "create: many names": Hostile("/sessions", keys()),
    "create: nested lists": Hostile("/sessions", padded(b'{"id":', b"[", b"")),
    "create: nested objects": Hostile("/sessions", lambda: b'{"a":' * 1_600_000),
    "create: a long id": Hostile("/sessions", padded(b'{"id":"', b"x", b'"}')),
    "create: a long name of a field": Hostile("/sessions", padded(b'{"', b"x", b'":0}')),
    "create: a long name of a model": Hostile("/sessions", padded(b'{"model":"', b"x", b'"}')),
    "create: a long number": Hostile("/sessions", padded(b'{"ttl_seconds":', b"1", b"}")),
    "create: blanks": Hostile("/sessions", padded(b"{", b" ", b"}")),
    "reset: a long number": Hostile("/sessions/hostile/reset", padded(b'{"at":', b"1", b"}")),
    "reset: a long epoch": Hostile("/sessions/hostile/reset", padded(b'{"epoch":"', b"1", b'"}')),
    "fork: many names": Hostile("/sessions/hostile/fork", keys()),
    "chunk: numbers": Hostile(CHUNK, repeated(b'{"observations":[', b"1", b"]}")),
    "chunk: texts": Hostile(CHUNK, repeated(b'{"observations":[', b'""', b"]}")),
    "chunk: empty rows": Hostile(CHUNK, repeated(b'{"observations":[', b"[]", b"]}")),
    "chunk: nested rows": Hostile(CHUNK, repeated(b'{"observations":[', NEST, b"]}")),
    "chunk: brackets": Hostile(CHUNK, padded(b'{"observations":', b"[", b"")),
    "chunk: many names": Hostile(CHUNK, keys()),
    "chunk: a long name of a field": Hostile(CHUNK, padded(b'{"', b"x", b'":0}')),
    "chunk: a long model": Hostile(CHUNK, padded(b'{"observations":[1],"model":"', b"x", b'"}')),
    "chunk: a long epoch": Hostile(CHUNK, padded(b'{"observations":[1],"epoch":"', b"x", b'"}')),
    "chunk: a long whole number": Hostile(CHUNK, padded(b'{"observations":[', b"1", b"]}")),
    "chunk: a long fraction": Hostile(CHUNK, padded(b'{"observations":[0.', b"1", b"]}")),
    "chunk: a long position": Hostile(CHUNK, padded(b'{"observations":[1],"at":', b"1", b"}")),
    "chunk: NaN in a long body": Hostile(CHUNK, padded(b'{"observations":[NaN],"model":"', b"x", b'"}')),
    "chunk: times": Hostile(
        CHUNK, counted(b'{"skip":1,"timestamps":[', b'"2024-01-01T00:00:00"', b"]}", 20_000)
    ),
    "chunk: no UTF-8": Hostile(CHUNK, padded(b'{"model":"', b"\xff", b'"}')),
    "chunk: gzip of blanks": Hostile(
        CHUNK, lambda: gzip.compress(b" " * 2**30), headers={"content-encoding": "gzip"}
    ),
    "CSV: rows": Hostile(ROWS, lines(b"value\n", b"1\n"), headers=CSV),
    "CSV: a long chunk": Hostile(CHUNK, lines(b"value\n", b"1\n"), headers=CSV),
    "CSV: wide rows": Hostile(ROWS, lines(WIDE, ROW257), headers=CSV),
    "CSV: a bad last row": Hostile(ROWS, lines(b"value\n", b"0.123456\n", b"x\n"), headers=CSV),
    "CSV: a short last row": Hostile(ROWS, lines(b"a,value\n", b"0.12345,0.12345\n", b"1\n"), headers=CSV),
    "CSV: decimal commas": Hostile(ROWS, lines(b"value;b\n", b"1.234,56789;1\n"), headers=CSV),
    "CSV: quoted cells": Hostile(ROWS, lines(b"value,b\n", b'"0.1","2"\n'), headers=CSV),
    "CSV: quotes": Hostile(ROWS, padded(b"value\n", b'"', b""), headers=CSV),
    "CSV: a quote without end": Hostile(ROWS, padded(b'value\n"', b"1", b""), headers=CSV),
    "CSV: lines in a quote": Hostile(ROWS, padded(b'value\n"', b"\n", b""), headers=CSV),
    "CSV: a long cell": Hostile(ROWS, padded(b"value\n", b"1", b"\n"), headers=CSV),
    "CSV: a long name": Hostile(ROWS, padded(b"", b"x", b",value\n1,2\n"), headers=CSV),
    "CSV: many names": Hostile(ROWS, padded(b"value", b",", b"\n1\n"), headers=CSV),
    "CSV: separators": Hostile(ROWS, repeated(b"", b"a;b|c", b"\n1\n"), headers=CSV),
    "CSV: blank lines": Hostile(ROWS, padded(b"", b"\n", b"value\n1\n"), headers=CSV),
    "CSV: blank lines below the header": Hostile(ROWS, padded(b"value\n", b"\n", b"1\n"), headers=CSV),
    "CSV: carriage returns": Hostile(ROWS, lines(b"value\r", b"1\r"), headers=CSV),
    "CSV: local times": Hostile(
        f"{ROWS}?timezone=Europe/Berlin", lines(b"t,value\n", b"2022-10-30 01:30,1\n"), headers=CSV
    ),
    "CSV: days and months": Hostile(ROWS, lines(b"t,value\n", b"31/12/2022 01:30,1\n"), headers=CSV),
    "CSV: numbers as times": Hostile(ROWS, lines(b"time,value\n", b"1700000000,1\n"), headers=CSV),
    "CSV: UTF-16": Hostile(
        f"{ROWS}?encoding=utf-16-le", lines("value\n".encode("utf-16-le"), b"1\0\n\0"), headers=CSV
    ),
    "CSV: no UTF-8": Hostile(ROWS, padded(b"value\n", b"\xff", b""), headers=CSV),
    "CSV: gzip of blank lines": Hostile(
        ROWS, lambda: gzip.compress(b"\n" * 2**30), headers={**CSV, "content-encoding": "gzip"}
    ),
    "CSV: gzip that is not declared": Hostile(ROWS, lambda: gzip.compress(b"1\n" * 2**20), headers=CSV),
    "JSON Lines: rows": Hostile(ROWS, lines(b"", b'{"value":1}\n'), headers=CSV),
    "JSON Lines: many names": Hostile(ROWS, keys(tail=b"}\n"), headers=CSV),
    "JSON Lines: nested lists": Hostile(ROWS, padded(b'{"value":', b"[", b""), headers=CSV),
    "JSON Lines: a long number": Hostile(ROWS, padded(b'{"value":', b"1", b"}\n"), headers=CSV),
    "bulk: rows": Hostile("/observations", bulk(lambda _: ROW51)),
    "bulk: chunks": Hostile("/observations", bulk(lambda _: CHUNK51)),
    "bulk: chunks with nulls": Hostile("/observations", bulk(lambda _: CHUNK51_NULLS)),
    "bulk: rows with nulls": Hostile("/observations", bulk(lambda _: NULLS51)),
    "bulk: a bad row": Hostile("/observations", bulk(lambda i: b'["x"]' if i == 9_999 else ROW51)),
    "bulk: a bad chunk": Hostile("/observations", bulk(lambda i: b'[["x"]]' if i == 9_999 else CHUNK51)),
    "bulk: a NaN": Hostile("/observations", bulk(lambda i: b"[[NaN]]" if i == 9_999 else CHUNK51)),
    "bulk: every chunk bad": Hostile("/observations", bulk(lambda _: CHUNK51[:-6] + b'"xx"]]')),
    "bulk: widths differ": Hostile(
        "/observations", bulk(lambda i: b"[%b]" % b",".join([b"1"] * (i % 99 + 1)))
    ),
    "bulk: a million numbers": Hostile(
        "/observations", bulk(lambda _: b"[%b]" % b",".join([b"0.12345"] * 100))
    ),
    "bulk: a million rows": Hostile("/observations", bulk(lambda _: b"[%b]" % b",".join([b"[0.1]"] * 99))),
    "bulk: a million texts": Hostile("/observations", bulk(lambda _: b"[%b]" % b",".join([b'"abcd"'] * 99))),
    "bulk: a million objects": Hostile("/observations", bulk(lambda _: b"[%b]" % b",".join([b"{}"] * 99))),
    "bulk: nested lists": Hostile(
        "/observations", repeated(b'{"sessions":["a"],"observations":[', NEST, b"]}")
    ),
    "bulk: brackets": Hostile("/observations", padded(b'{"sessions":["a"],"observations":', b"[", b"")),
    "bulk: many names": Hostile("/observations", keys()),
    "bulk: long epochs": Hostile(
        "/observations",
        bulk(lambda _: b"1", more=b',"epochs":[%b]' % b",".join([b'"%b"' % (b"x" * 800)] * 10_000)),
    ),
    "bulk: long ids": Hostile(
        "/observations",
        lambda: (
            b'{"sessions":[%b],"observations":[%b]}'
            % (b",".join([b'"%b"' % (b"x" * 800)] * 10_000), b",".join([b"1"] * 10_000))
        ),
    ),
    "bulk: a long model": Hostile(
        "/observations", bulk(lambda _: b"1", more=b',"model":"%b"' % (b"x" * 8_000_000))
    ),
    "bulk: long numbers": Hostile("/observations", bulk(lambda _: b"1" * 800)),
    "bulk: long positions": Hostile(
        "/observations", bulk(lambda _: b"1", more=b',"at":[%b]' % b",".join([b"1" * 800] * 10_000))
    ),
    "bulk: position objects": Hostile(
        "/observations", bulk(lambda _: b"1", more=b',"at":[%b]' % b",".join([b"[0,0,0,0]"] * 10_000))
    ),
    "binary bulk: a long model": Hostile(
        "/observations", lambda: bulk_binary(b"x" * 8_000_000), headers=BINARY
    ),
    "binary bulk: NaN": Hostile("/observations", lambda: bulk_binary(numbers=float("nan")), headers=BINARY),
    "binary bulk: wide rows": Hostile("/observations", lambda: bulk_binary(inputs=200), headers=BINARY),
    "binary bulk: one long id": Hostile(
        "/observations",
        lambda: struct.pack("<4sHHIIf", b"CYO1", 0, 1, 1, 0, 1.0) + b"x" * 8_000_000,
        headers=BINARY,
    ),
    "binary bulk: newlines": Hostile(
        "/observations",
        lambda: struct.pack("<4sHHIIf", b"CYO1", 0, 1, 1, 0, 1.0) + b"\n" * 8_000_000,
        headers=BINARY,
    ),
    "Arrow by name: columns": Hostile("/observations", arrow(input_columns), headers=ARROW),
    "Arrow by name: one name": Hostile("/observations", arrow(one_name), headers=ARROW),
    "Arrow by name: prefixes": Hostile("/observations", arrow(prefixes), headers=ARROW),
    "Arrow by name: entries": Hostile("/observations", arrow(input_entries), headers=ARROW),
    "Arrow by name: nulls": Hostile("/observations", arrow(null_inputs), headers=ARROW),
    "Arrow by name: booleans": Hostile("/observations", arrow(boolean_inputs), headers=ARROW),
    "Arrow by name: nested lists": Hostile("/observations", arrow(deep_inputs), headers=ARROW),
    "Arrow by name: empty steps": Hostile("/observations", arrow(empty_steps), headers=ARROW),
    "Arrow: the first request": Hostile(
        "/observations", arrow(lambda pa: pa.table({"session": ["a"], "observations": [0.5]})), headers=ARROW
    ),
    "Arrow: names in a dictionary": Hostile("/observations", arrow(dictionary_names), headers=ARROW),
    "Arrow: names in runs": Hostile("/observations", arrow(run_end_names), headers=ARROW),
    "Arrow: names in views": Hostile("/observations", arrow(view_names), headers=ARROW),
    "Arrow: observations in a dictionary": Hostile(
        "/observations", arrow(dictionary_observations), headers=ARROW
    ),
    "Arrow: observations in views": Hostile("/observations", arrow(list_view_observations), headers=ARROW),
    "Arrow: null observations": Hostile("/observations", arrow(null_observations), headers=ARROW),
    "Arrow: booleans": Hostile("/observations", arrow(boolean_observations), headers=ARROW),
    "Arrow: a compressed dictionary": Hostile(
        "/observations", arrow(dictionary_names, compression="zstd"), headers=ARROW
    ),
    "Arrow: bad rows": Hostile("/observations", arrow(bad_rows), headers=ARROW),
    "Arrow: rows of many widths": Hostile("/observations", arrow(different_rows), headers=ARROW),
    "Arrow: empty batches": Hostile("/observations", lambda: arrow_batches(30_000), headers=ARROW),
    "Arrow: many columns": Hostile("/observations", arrow(many_columns), headers=ARROW),
    "Arrow: a deep type": Hostile("/observations", arrow(deep_type), headers=ARROW),
    "Arrow: a long model": Hostile("/observations", arrow(arrow_model), headers=ARROW),
    "state: many tensors": Hostile(STATE, state_tensors, "PUT"),
    "state: much metadata": Hostile(STATE, state_metadata, "PUT"),
    "state: nested": Hostile(STATE, lambda: state_json(b'{"__metadata__":' + b"[" * 8_000_000), "PUT"),
    "state: a long text": Hostile(
        STATE, lambda: state_json(b'{"__metadata__":{"format":"%b"}}' % (b"x" * 8_000_000)), "PUT"
    ),
    "infer: numbers": Hostile(
        INFER,
        repeated(
            b'{"inputs":[{"name":"OBSERVATIONS","shape":[1,1],"datatype":"FP32","data":[', b"1", b"]}]}"
        ),
    ),
    "infer: texts": Hostile(
        INFER,
        repeated(
            b'{"inputs":[{"name":"OBSERVATIONS","shape":[1,1],"datatype":"FP32","data":[', b'""', b"]}]}"
        ),
    ),
    "infer: nested": Hostile(INFER, repeated(b'{"inputs":[{"data":[', NEST, b"]}]}")),
    "infer: many inputs": Hostile(
        INFER, repeated(b'{"inputs":[', b'{"name":"","shape":[],"datatype":""}', b"]}")
    ),
    "infer: many shapes": Hostile(
        INFER, repeated(b'{"inputs":[{"name":"OBSERVATIONS","datatype":"FP32","shape":[', b"1", b"]}]}")
    ),
    "infer: many outputs": Hostile(INFER, repeated(b'{"inputs":[],"outputs":[', b'{"name":""}', b"]}")),
    "infer: many parameters": Hostile(INFER, keys(b'{"inputs":[],"parameters":{', b"}}")),
    "infer: gzip of blanks": Hostile(
        INFER, lambda: gzip.compress(b" " * 2**30), headers={"content-encoding": "gzip"}
    ),
    "index: empty lists": Hostile("/v2/repository/index", repeated(b'{"ready":[', b"[]", b"]}")),
    "index: many names": Hostile("/v2/repository/index", keys()),
    "load: many parameters": Hostile("/v2/repository/models/sine/load", keys(b'{"parameters":{', b"}}")),
}


class OtherClient:
    """A client that sends a chunk after another, and measures how long it waits for the answers."""

    def __init__(self, pid: int, port: int) -> None:
        self.longest = self.busiest = 0.0
        self._pid = pid
        self.failures: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> OtherClient:
        self._thread.start()
        time.sleep(0.02)
        self.longest = self.busiest = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self._stop.is_set():
            began, busy = time.perf_counter(), _processor_seconds(self._pid)
            connection.request("POST", "/sessions/other/observations", b'{"observations":[0.5]}')
            response = connection.getresponse()
            answer = response.read()
            self.longest = max(self.longest, time.perf_counter() - began)
            self.busiest = max(self.busiest, _processor_seconds(self._pid) - busy)
            if response.status != 200:
                self.failures.append(answer.decode()[:200])
            time.sleep(0.002)
        connection.close()


def cost(process: subprocess.Popen[Any], port: int, hostile: Hostile) -> Cost:
    """Send it, and measure."""
    body = hostile.body()
    if len(body) > BODY_BYTES:
        raise ValueError(f"the body has {len(body)} bytes")
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted from here
    with OtherClient(process.pid, port) as other:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request(hostile.method, hostile.path, body, hostile.headers)
        response = connection.getresponse()
        answer = response.read()
        time.sleep(0.05)  # what is freed after the answer counts, too
        connection.close()
    if other.failures:
        raise RuntimeError(f"another client was refused: {other.failures[0]}")
    peak = _memory(process.pid, "VmHWM")
    return Cost(response.status, len(answer), other.longest, other.busiest, peak)


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"no {name} of process {pid}")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return _memory(pid, "VmRSS")


def table(process: subprocess.Popen[Any], port: int) -> str:
    """What each kind costs this server, which has just started, as a table in Markdown."""
    before = resident_bytes(process.pid)
    lines = [
        "| kind | status | stall of others (ms) | processor time in it (ms) | memory at its peak (MiB) |",
        "|---|---|---|---|---|",
    ]
    for name, hostile in KINDS.items():
        spent = cost(process, port, hostile)
        figures = (1000 * spent.stall_seconds, 1000 * spent.busy_seconds, (spent.peak_bytes - before) / 2**20)
        lines.append(f"| {name} | {spent.status} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")
    return "\n".join(lines)
