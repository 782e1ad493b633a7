"""The bystander: a client that sends a small chunk every few milliseconds, and reports the longest wait.

    python bystander.py PORT SERVER_PID [TOKEN]

It is a process of its own, so that the attacker's work does not delay it. It runs until its standard input is
closed, and then prints a JSON object: the number of chunks, the longest wait and the 99th percentile in
milliseconds, the most CPU time that the server used during one wait, and the answers that were not a 200, by
kind. It uses only the standard library.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

PAUSE_SECONDS = 0.002
ANSWER_SECONDS = 100.0
BODY = b'{"observations":[0.5]}'
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    port, pid, token = int(sys.argv[1]), sys.argv[2], "".join(sys.argv[3:])
    key = f"authorization: Bearer {token}\r\n" if token else ""
    head = f"POST /sessions/bystander/observations HTTP/1.1\r\nhost: localhost\r\n{key}"
    request = f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY
    waits: list[float] = []
    busiest = 0.0
    failures: dict[str, int] = {}
    connection: socket.socket | None = None
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        start, used = time.perf_counter(), cpu_seconds(pid)
        result = "connection lost"
        with suppress(OSError):
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS)
            connection.sendall(request)
            result = receive_status(connection)
        waits.append(time.perf_counter() - start)
        busiest = max(busiest, cpu_seconds(pid) - used)
        if result != "200":
            failures[result] = failures.get(result, 0) + 1
            if connection is not None:
                connection.close()
            connection = None
            time.sleep(0.05)
    waits.sort()
    report = {
        "chunks": len(waits),
        "longest_ms": round(waits[-1] * 1e3, 1) if waits else 0.0,
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 2) if waits else 0.0,
        "busiest_ms": round(busiest * 1e3),
        "failures": failures,
    }
    print(json.dumps(report), flush=True)


def cpu_seconds(pid: str) -> float:
    """Return the CPU time of the server, in seconds; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def receive_status(connection: socket.socket) -> str:
    """Read one answer, and return its status; another session's answer is reported as such."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        body += receive(connection)
    status = head.split(b" ", 2)[1].decode()
    if status == "200" and b'"session":"bystander"' not in body:
        return "answer of another session"
    return status


def receive(connection: socket.socket) -> bytes:
    """Read at least one byte."""
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError
    return data


if __name__ == "__main__":
    main()
