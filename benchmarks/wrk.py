"""Drives wrk, https://github.com/wg/wrk, with ready-made requests: ``apt-get install wrk``."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.dialects import HOST
from benchmarks.load import BadRun, Load

SCRIPT = Path(__file__).with_suffix(".lua")
MARK = "RESULT "
ERRORS = ("bad", "connect", "read", "write", "status", "timeout")


def run_wrk(
    port: int,
    requests: Mapping[str, Sequence[bytes]],
    pattern: str,
    seconds: int,
    core: int,
    folder: Path,
    connections: int | None = None,
) -> Load:
    """Send each session's requests in a cycle, one in flight a session.

    Parameters
    ----------
    requests
        By session, as many for each, whole HTTP requests.
    pattern
        The Lua pattern that finds the session in an answer's body; empty when it is not there.
    connections
        One for each session, unless there are to be fewer.

    Raises
    ------
    BadRun
        When any answer was not a 200, did not name a session, or any socket failed.
    """
    plan = folder / "requests.wrk"
    plan.write_bytes(encode_plan(requests))
    command = [
        "taskset",
        "-c",
        str(core),
        "wrk",
        "--threads",
        "1",
        "--connections",
        str(connections or len(requests)),
    ]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", str(SCRIPT)]
    command += [f"http://{HOST}:{port}/", "--", str(plan), pattern]
    before = _children_cpu_seconds()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    busy = (_children_cpu_seconds() - before) / seconds
    if finished.returncode:
        raise BadRun(f"wrk failed: {finished.stderr or finished.stdout}")
    return parse_wrk(finished.stdout, busy)


def encode_plan(requests: Mapping[str, Sequence[bytes]]) -> bytes:
    """Lay the requests out for wrk.lua: counts, then for each session its name and its sized requests."""
    cycle = len(next(iter(requests.values())))
    parts = [b"%d %d\n" % (len(requests), cycle)]
    for session, messages in requests.items():
        parts.append(session.encode() + b"\n")
        parts += [b"%d\n%b\n" % (len(message), message) for message in messages]
    return b"".join(parts)


def parse_wrk(output: str, generator_share: float = 0.0) -> Load:
    """Read the line that wrk.lua prints at the end.

    Raises
    ------
    BadRun
        When it is missing, when no request was answered, or when there is any error in it.
    """
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        raise BadRun(f"no result from wrk: {output!r}")
    fields = json.loads(lines[-1].removeprefix(MARK))
    errors = {name: fields[name] for name in ERRORS if fields[name]}
    if errors or not fields["requests"]:
        raise BadRun(f"errors among {fields['requests']} answers: {errors}")
    return Load(fields["requests"], fields["seconds"], fields["p50_us"], fields["p99_us"], generator_share)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
