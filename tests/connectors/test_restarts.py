"""Brokers, the server and the bridge as processes that are killed under load, in several orders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from app.connectors.address import parse_address
from app.connectors.mqtt import Mqtt
from benchmarks.failover.processes import SERVE, RedisServer, wait_until
from benchmarks.ports import free_port
from tests.helpers.bridges import SESSIONS, Devices, RedisBroker, assert_applied_once, bridge_of, drive
from tests.helpers.mosquitto import Mosquitto, needs_mosquitto
from tests.helpers.redis_server import needs_redis

LENGTH = 60


@needs_redis
def test_redis_streams(replica, service, artifacts, tmp_path):
    server = RedisServer(tmp_path, "--appendonly", "yes", "--appendfsync", "always")
    with server:
        broker = RedisBroker(server)
        broker.fill("s", "s-", LENGTH, 0, 20)
        bridge = bridge_of(broker.source("s"), service, session="{key}", publish="out")
        everything = len(SESSIONS) * LENGTH
        thread = threading.Thread(target=lambda: drive(bridge, lambda: bridge.counts.applied >= everything))
        thread.start()
        wait_until(lambda: bridge.counts.applied > 8, "the first entries are applied")
        server.kill()  # the broker first, then the server; they are back in the other order
        replica.stop()
        replica.start()
        server.start()
        broker.fill("s", "s-", LENGTH, 20)
        thread.join(100)
        assert not thread.is_alive()
        assert_applied_once(artifacts, broker.published("out"), LENGTH)


@needs_redis
def test_the_command_survives_kill_and_ends_with_sigterm(replica, artifacts, tmp_path):
    with RedisServer(tmp_path) as server:
        broker = RedisBroker(server)
        broker.fill("cli", "cli-", LENGTH)
        command = [sys.executable, "-c", SERVE, "connect", f"{server.url}/cli", "--session", "{key}"]
        command += ["--url", f"http://127.0.0.1:{replica.port}", "--publish", "out", "--model", "sine"]
        command += ["--in-flight", "7", "--report", "0.1"]
        replica.wait()
        first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        wait_until(lambda: broker.redis.xlen("out") > 20, "the first predictions")
        first.kill()
        first.communicate()
        second = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
        wait_until(lambda: broker.is_done("cli", "carryover"), "all entries are applied")
        second.send_signal(signal.SIGTERM)
        log = second.communicate()[1]
        assert second.returncode == 0, log
        assert "each entry is applied exactly once" in log
        assert_applied_once(artifacts, broker.published("out"), LENGTH)


def test_the_command_can_be_stopped_while_it_waits_for_the_server():
    command = [sys.executable, "-c", SERVE, "connect", "mqtt://127.0.0.1:1/t", "--session", "{topic}"]
    command += ["--url", f"http://127.0.0.1:{free_port()}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as waiting:
        assert waiting.stderr is not None
        assert "trying again" in waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(15) == 130


@needs_mosquitto
def test_mqtt(replica, service, artifacts, tmp_path):
    with Mosquitto(tmp_path) as broker:
        devices = Devices(broker)
        address = parse_address(f"mqtt://127.0.0.1:{broker.port}/site/+")
        source = Mqtt(address, "bridge", 5, None, threading.Event())
        bridge = bridge_of(source, service, session="{topic}", publish="out/{topic}")
        thread = threading.Thread(target=lambda: drive(bridge, lambda: devices.has_all("site", LENGTH)))
        thread.start()
        wait_until(source._connected.is_set, "the bridge is connected")
        devices.measure("site", LENGTH, 0, 20)
        replica.stop()
        devices.measure("site", LENGTH, 20, 40)
        assert len(source._held) <= 2 * 5 + 1  # the broker holds the rest
        broker.stop()
        replica.start()
        broker.start()
        devices.measure("site", LENGTH, 40)
        thread.join(100)
        assert not thread.is_alive()
        devices.client.disconnect()
        devices.client.loop_stop()
        assert_applied_once(artifacts, devices.published("site"), LENGTH)
