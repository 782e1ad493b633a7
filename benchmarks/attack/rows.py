"""One bad row among many: it fails alone, and the answer names it."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.attack import bodies
from benchmarks.attack.http import connect, parse
from benchmarks.attack.result import Checks, Result, Run, observed
from benchmarks.attack.server import Server, serving

ROWS, BAD = 1000, 500
BAD_OBSERVATIONS: dict[str, Any] = {
    "null": None,
    "an empty list": [],
    "two numbers": [0.1, 0.2],
    "NaN": [float("nan")],
    "1e39": [1e39],
}
SENTINELS = (1e30, -3e38)


async def rows(run: Run) -> AsyncIterator[Result]:
    """Arrow requests with one bad row, and a sentinel that a session with intervals cannot learn from."""
    async with serving(run.target, run.new_folder()) as server:
        yield await _arrow_rows(run, server)
        yield await _sentinels(run, server)


async def _arrow_rows(run: Run, server: Server) -> Result:
    checks = Checks()
    requests = [(name, _arrow(observation=value)) for name, value in BAD_OBSERVATIONS.items()]
    requests += [("position 2^64 - 1", _arrow(at=2**64 - 1)), ("no session", _arrow(session=None))]
    async with observed(run, server) as view, connect(server.port) as connection:
        for name, body in requests:
            status, answer = await connection.request("POST", "/observations", body, kind=bodies.ARROW)
            moved = _moved(answer) if status == 200 else 0
            checks.expect(moved == ROWS - 1, f"{name}: {status}, {moved} of {ROWS - 1} other rows apply")
    sent = f"{len(requests)} requests of {ROWS} rows"
    return view.result("a bad row, Arrow", sent, str(checks), worked=checks.worked)


async def _sentinels(run: Run, server: Server) -> Result:
    checks = Checks()
    async with observed(run, server) as view, connect(server.port) as connection:
        body = {"id": "learner", "learning": {"intervals": True}}
        status, answer = await connection.request("POST", "/sessions", json.dumps(body).encode())
        if status != 201:
            raise RuntimeError(f"the session was not created: {status} {answer[:200]!r}")
        path = "/sessions/learner/observations"
        await connection.request("POST", path, b'{"observations":[[0.5],[0.25]]}')
        for number in SENTINELS:
            chunk = json.dumps({"observations": [[0.1], [number]]}).encode()
            status, answer = await connection.request("POST", path, chunk)
            named = "row 1" in answer.decode()
            checks.expect(
                status == 422 and named, f"{number:g}: {status}, row {'named' if named else 'not named'}"
            )
        _, answer = await connection.request("GET", "/sessions/learner")
        position = (parse(answer) or {}).get("position")
        checks.expect(position == 2, f"the session moved to {position}")
    sent = "1e30 and -3e38 as the second observation"
    return view.result(
        "sentinel in a session with intervals", sent, str(checks), worked=checks.worked, bounded=False
    )


def _arrow(**bad: Any) -> bytes:
    """A request of sound rows, with this content of one column in one of them."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        "session": [f"r{i}" for i in range(ROWS)],
        "observation": [[0.5]] * ROWS,
        "at": [None] * ROWS,
    }
    for name, value in bad.items():
        columns[name][BAD] = value
    table = pa.table(
        {
            "session": pa.array(columns["session"], pa.string()),
            "observations": pa.array(columns["observation"], pa.list_(pa.float64())),
            "at": pa.array(columns["at"], pa.uint64()),
        }
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _moved(answer: bytes) -> int:
    """How many rows of an answer, in Arrow or JSON, have a position."""
    import pyarrow as pa

    listed = parse(answer)
    positions = (
        pa.ipc.open_stream(answer).read_all()["position"].to_pylist()
        if listed is None
        else listed["positions"]
    )
    return sum(position is not None for position in positions)
