"""Told to stop, a server that is to drain says so, and serves on until balancers have noticed."""

from __future__ import annotations

import json
import signal
import urllib.request

from benchmarks.failover.processes import Replica, wait_until


def test_a_draining_server_is_not_ready_and_serves_on_and_then_leaves_in_peace(tmp_path):
    told = {"CARRYOVER_DRAIN_SECONDS": "2", "CARRYOVER_RESIDENT_SESSIONS": "1024"}
    one = Replica(tmp_path, told).start()
    try:
        one.wait()
        process = one.process
        assert one.get("/health/balancer")[0] == 200
        one.send(signal.SIGTERM)
        wait_until(lambda: one.get("/health/ready")[0] == 503, "it is not ready")
        assert one.get("/health/balancer")[0] == 404  # to HAProxy: send no more, and cut nobody off
        assert json.loads(one.get("/health/ready")[1])["reasons"] == ["stopping"]
        body = json.dumps({"observations": [[0.1]], "at": 0}).encode()
        address = f"http://127.0.0.1:{one.port}/sessions/a/observations"
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=5) as answer:
            assert json.load(answer)["position"] == 1
        assert process.wait(20) == 0
    finally:
        one.stop()


def test_a_server_told_twice_does_not_wait(tmp_path):
    one = Replica(tmp_path, {"CARRYOVER_DRAIN_SECONDS": "60", "CARRYOVER_RESIDENT_SESSIONS": "1024"}).start()
    try:
        one.wait()
        one.send(signal.SIGTERM)
        wait_until(lambda: one.get("/health/ready")[0] == 503, "it is not ready")
        one.send(signal.SIGTERM)
        assert one.process.wait(20) == 0
    finally:
        one.stop()
