"""MQTT: QoS 1 messages are acknowledged behind their chunk, and recognised when they come again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from carryover import Carryover

from app.connectors.address import parse_address
from app.connectors.bridge import Bridge
from app.connectors.journal import Journal
from app.connectors.mqtt import Mqtt
from app.connectors.source import ConnectorError, Stopped
from benchmarks.failover.processes import wait_until
from tests.helpers.bridges import SESSIONS, Devices, Fuse, assert_applied_once, bridge_of, drive
from tests.helpers.mosquitto import Mosquitto, needs_mosquitto

pytestmark = needs_mosquitto

LENGTH = 2


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture(scope="module")
def devices(broker) -> Iterator[Devices]:
    found = Devices(broker)
    yield found
    found.client.disconnect()
    found.client.loop_stop()


def source(broker: Mosquitto, site: str, journal: Path | None = None, in_flight: int = 100) -> Mqtt:
    address = parse_address(f"mqtt://127.0.0.1:{broker.port}/{site}/+")
    kept = None if journal is None else Journal(journal)
    return Mqtt(address, f"bridge-{site}", in_flight, kept, threading.Event())


def bridge(of: Mqtt, service: Carryover, at: int = 0, **options: Any) -> tuple[Bridge, Fuse]:
    fuse = Fuse(at)
    return bridge_of(of, service, fuse, **{"session": "{topic}", "publish": "out/{topic}"} | options), fuse


def subscribe(of: Mqtt) -> None:
    """Let the broker begin to keep messages for a bridge."""
    of.connect()
    of.close()


def positions(service: Carryover, site: str) -> list[int]:
    return [service.session(f"{site}:{name}").refresh().position for name in SESSIONS]


def test_with_a_journal_a_bridge_killed_at_any_of_its_steps_applies_every_message_once(
    broker, devices, service, artifacts, tmp_path
):
    for at in count(1):
        site, journal = f"kill{at}", tmp_path / f"{at}.db"
        subscribe(source(broker, site))
        devices.measure(site, LENGTH)
        first, fuse = bridge(source(broker, site, journal), service, at)
        done = lambda site=site: devices.has_all(site, LENGTH)  # noqa: E731
        drive(first, done)
        second, _ = bridge(source(broker, site, journal), service)
        # A last message of each session says that all before them are done.
        devices.measure(site, LENGTH + 1, LENGTH)
        drive(second, lambda site=site: devices.has_all(site, LENGTH + 1))
        assert positions(service, site) == [LENGTH + 1] * 2, at
        if not fuse.blown:
            break
    assert at > 10


def test_without_a_journal_a_killed_bridge_loses_nothing(broker, devices, service):
    subscribe(source(broker, "plain"))
    devices.measure("plain", LENGTH)
    first, _ = bridge(source(broker, "plain"), service, 10)
    drive(first, lambda: False)
    second, _ = bridge(source(broker, "plain"), service)
    drive(second, lambda: devices.has_all("plain", LENGTH))
    assert all(position >= LENGTH for position in positions(service, "plain"))


def test_while_the_bridge_runs_a_redelivered_message_is_not_applied_again(
    broker, devices, service, artifacts
):
    of = source(broker, "again")
    running, _ = bridge(of, service)
    of.connect()
    lost: list[int] = []
    of._client.ack, ack = lambda mid, qos: lost.append(mid), of._client.ack  # PUBACKs are lost
    devices.measure("again", 6, 0, LENGTH)
    while running.counts.applied < 2 * LENGTH:
        running.process(of.receive(100, 1.0))
    of._client.ack = ack
    assert len(lost) == 2 * LENGTH
    of._client.socket().shutdown(2)  # the connection breaks, and the broker sends all of them again
    devices.measure("again", 6, LENGTH)
    drive(running, lambda: devices.has_all("again", 6))
    assert positions(service, "again") == [6, 6]
    assert running.counts.applied == 12


def test_messages_that_cannot_be_read_are_dead_letters(broker, devices, service, caplog):
    subscribe(source(broker, "bad"))
    running, _ = bridge(source(broker, "bad"), service, dead_letter="out/dead/{topic}", fields=["value"])
    for payload in ('{"value": 1}', '{"other": 1}', "warm", '{"value": "1.0"}', '{"value": null}'):
        devices.publish("bad/a", payload)
    devices.publish("bad/b:c", "1")
    drive(
        running, lambda: sum(len(found) for topic, found in devices.received.items() if "bad/" in topic) == 6
    )
    letters = devices.received["dead/bad/a"] + devices.received["dead/bad/b:c"]
    reasons = " ".join(letter["reason"] for letter in letters)
    assert len(letters) == 3
    assert letters[1]["payload"] == "warm"
    for part in ("no field 'value'", "neither a number", "colon"):
        assert part in reasons
    assert caplog.text.count("rejected") == 3


def test_a_broker_restart_under_load_loses_and_repeats_nothing(broker, devices, service, artifacts):
    of = source(broker, "restart", in_flight=5)
    running, _ = bridge(of, service)
    thread = threading.Thread(
        target=lambda: drive(running, lambda: devices.has_all("restart", 40)), daemon=True
    )
    thread.start()
    wait_until(of._connected.is_set, "the bridge is connected")
    devices.measure("restart", 40, 0, 20)
    broker.stop()
    broker.start()
    devices.measure("restart", 40, 20)
    thread.join(60)
    assert not thread.is_alive()
    assert_applied_once(artifacts, devices.published("restart"), 40)
    assert positions(service, "restart") == [40, 40]


def test_a_second_bridge_with_the_same_id_is_suspected(broker, devices, service, caplog):
    first, second = source(broker, "over"), source(broker, "over")
    first.connect()
    second.connect()
    wait_until(lambda: "does another client use the id 'bridge-over'" in caplog.text, "it is said")
    first.close()
    second.close()


def test_a_wrong_password_is_not_tried_again(tmp_path):
    folder = tmp_path / "closed"
    with Mosquitto(folder, anonymous=False) as server:
        of = source(server, "closed")
        with pytest.raises(ConnectorError, match="refuses the connection"):
            of.connect()
        of.close()


def test_it_is_said_why_there_is_no_connection(caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    stop = threading.Event()
    of = Mqtt(parse_address(f"mqtt://127.0.0.1:{port}/a"), "bridge-nobody", 100, None, stop)

    def connect() -> None:
        with suppress(Stopped):
            of.connect()

    connecting = threading.Thread(target=connect)
    connecting.start()
    wait_until(lambda: "no connection" in caplog.text, "it is said")
    stop.set()
    connecting.join()
    of.close()
    assert "Connection refused" in caplog.text
