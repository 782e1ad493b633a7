"""No request of at most 8 MiB stops the other clients, or takes much memory, whatever is in it.

`make attack` prints the whole table; here is a kind of each.
"""

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.hostile_bodies import (
    CHUNK,
    KINDS,
    MAX_PEAK_BYTES,
    MAX_STALL_SECONDS,
    Hostile,
    cost,
    resident_bytes,
)
from tests.system.test_serve import serving

TRIES = 3
QUICK = [
    "forecast: future of texts",
    "forecast: nested rows",
    "create: many names",
    "create: a long name of a field",
    "chunk: many names",
    "chunk: a long whole number",
    "chunk: gzip of blanks",
    "CSV: rows",
    "CSV: quotes",
    "CSV: many names",
    "CSV: gzip that is not declared",
    "bulk: chunks with nulls",
    "bulk: rows with nulls",
    "bulk: a NaN",
    "bulk: nested lists",
    "bulk: long ids",
    "bulk: a long model",
    "binary bulk: NaN",
    "binary bulk: newlines",
    "Arrow: the first request",
    "Arrow: names in a dictionary",
    "Arrow: names in runs",
    "Arrow: names in views",
    "Arrow: null observations",
    "Arrow: a compressed dictionary",
    "Arrow: rows of many widths",
    "Arrow: empty batches",
    "Arrow by name: columns",
    "Arrow by name: entries",
    "Arrow by name: prefixes",
    "Arrow by name: empty steps",
    "state: many tensors",
    "state: much metadata",
    "infer: many parameters",
    "index: empty lists",
]


@pytest.fixture(scope="module")
def server(zoo_folder) -> Iterator[tuple[subprocess.Popen[Any], int]]:
    with serving(zoo_folder) as (process, port):
        cost(process, port, Hostile(CHUNK, lambda: b'{"observations":[1]}'))
        yield process, port


@pytest.mark.parametrize("kind", QUICK, ids=[re.sub(r"\W+", "-", kind) for kind in QUICK])
def test_no_body_stops_the_others_or_takes_much_memory(server, kind):
    if kind.startswith("Arrow"):
        pytest.importorskip("pyarrow")
    process, port = server
    stalls = []
    for _ in range(TRIES):
        before = resident_bytes(process.pid)
        spent = cost(process, port, KINDS[kind])
        assert spent.status < 500
        assert spent.peak_bytes - before < MAX_PEAK_BYTES
        # Of a wait on a busy machine, only the server's processor time is the server's.
        stalls.append(min(spent.stall_seconds, spent.busy_seconds))
        if stalls[-1] < MAX_STALL_SECONDS:
            return
    assert min(stalls) < MAX_STALL_SECONDS
