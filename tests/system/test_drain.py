"""A server that drains reports it, and continues to serve until load balancers have noticed."""

from __future__ import annotations

import json
import signal
import urllib.request

from benchmarks.failover.processes import Replica, wait_until


def test_a_draining_server_is_not_ready_but_answers_until_a_second_sigterm(tmp_path):
    environment = {"CARRYOVER_DRAIN_SECONDS": "120", "CARRYOVER_RESIDENT_SESSIONS": "1024"}
    replica = Replica(tmp_path, environment).start()
    try:
        replica.wait()
        process = replica.process
        assert replica.get("/health/balancer", 30)[0] == 200
        replica.send(signal.SIGTERM)
        wait_until(lambda: replica.get("/health/ready")[0] == 503, "it is not ready")
        assert (
            replica.get("/health/balancer", 30)[0] == 404
        )  # tells HAProxy: send nothing new, cut nothing off
        assert json.loads(replica.get("/health/ready", 30)[1])["reasons"] == ["stopping"]
        body = json.dumps({"observations": [[0.1]], "at": 0}).encode()
        address = f"http://127.0.0.1:{replica.port}/sessions/a/observations"
        with urllib.request.urlopen(urllib.request.Request(address, body), timeout=30) as answer:
            assert json.load(answer)["position"] == 1
        replica.send(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        replica.stop()


def test_a_server_that_has_drained_stops_with_status_0(tmp_path):
    environment = {"CARRYOVER_DRAIN_SECONDS": "0.2", "CARRYOVER_RESIDENT_SESSIONS": "1024"}
    replica = Replica(tmp_path, environment).start()
    try:
        replica.wait()
        replica.send(signal.SIGTERM)
        assert replica.process.wait(60) == 0
    finally:
        replica.stop()
