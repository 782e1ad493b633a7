"""A bridge that is driven message by message, and that can be killed at each of its steps."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import redis
from carryover import Carryover
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.connectors.address import parse_address
from app.connectors.bridge import Bridge, Options, check_model
from app.connectors.names import Template
from app.connectors.redis_streams import RedisStreams
from app.connectors.source import Source
from app.connectors.values import Reader
from benchmarks.failover.processes import RedisServer, wait_until
from tests.helpers.mosquitto import Mosquitto
from tests.helpers.zoo import TOLERANCE, one_pass, series

BATCH, CHUNK = 4, 2
SESSIONS = ("a", "b")


class Killed(BaseException):
    """The bridge ends here, as after `kill -9`."""


class Fuse:
    """Kills the bridge at its n-th step; 0: never."""

    def __init__(self, at: int = 0) -> None:
        self.left = at

    @property
    def blown(self) -> bool:
        return self.left < 0

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.left = -1
            raise Killed


class Fragile:
    """Passes calls on, with a step in front of each of these methods and behind it."""

    def __init__(self, target: Any, methods: Iterable[str], fuse: Fuse) -> None:
        self._target, self._methods, self._fuse = target, set(methods), fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if name not in self._methods or self._fuse.blown:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._fuse.step()
            result = found(*arguments, **options)
            self._fuse.step()
            return result

        return call


def bridge_of(source: Source, service: Carryover, fuse: Fuse | None = None, **options: Any) -> Bridge:
    """A bridge of the model `sine`, unless another is named."""
    fuse = fuse or Fuse()
    templates = {"session", "publish", "alarms", "dead_letter"}
    given = {name: Template(value) if name in templates else value for name, value in options.items()}
    fields = given.pop("fields", [])
    model = check_model(service.models(), given.pop("model", "sine"))
    values: dict[str, Any] = {"in_flight": BATCH, "chunk": CHUNK} | given
    return Bridge(
        Fragile(source, ("connect", "receive", "locate", "prepare", "commit"), fuse),  # type: ignore[arg-type]
        Fragile(service, ("advance",), fuse),  # type: ignore[arg-type]
        model,
        Reader(model.inputs, fields),
        Options(**values),
        threading.Event(),
    )


def drive(bridge: Bridge, done: Callable[[], bool]) -> None:
    """Run until a condition holds, for 60 s at most, or until the bridge is killed; then disconnect."""
    deadline = time.monotonic() + 60
    try:
        bridge.source.connect()
        while not done() and time.monotonic() < deadline:
            messages = bridge.source.receive(bridge.options.in_flight, 0.05)
            if messages:
                bridge.process(messages)
    except Killed:
        pass
    finally:
        bridge.source.close()


def observations(session: str, count: int) -> list[float]:
    """The series of a session; every session has its own."""
    return [float(str(row[0])) for row in series("sine", count, seed=sum(session.encode()))]


def assert_applied_once(
    artifacts: Mapping[str, Any], published: Mapping[str, list[tuple[int, float]]], count: int
) -> None:
    """Every observation moved its session once, in order, and has its one prediction."""
    for session, found in published.items():
        assert [position for position, _ in found] == list(range(1, count + 1)), session
        whole = one_pass(artifacts["sine"], np.array(observations(session, count), np.float32)[:, None])
        np.testing.assert_allclose([value for _, value in found], whole[:, 0], atol=TOLERANCE)


class RedisBroker:
    """A Redis server, seen from the devices and from those who read the predictions."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.redis: Any = redis.Redis(port=server.port, decode_responses=True)

    def source(self, stream: str, **options: Any) -> RedisStreams:
        address = parse_address(f"{self.server.url}/{stream}")
        values = {"group": "g", "only_new": False, "keep": None, "stop": threading.Event()} | options
        return RedisStreams(address, **values)

    def fill(self, stream: str, prefix: str, of: int, first: int = 0, last: int | None = None) -> None:
        """Add a part of the series of every session, one value of each in turn."""
        with self.redis.pipeline() as pipe:
            for i in range(first, of if last is None else last):
                for name in SESSIONS:
                    value = observations(prefix + name, of)[i]
                    pipe.xadd(stream, {"key": prefix + name, "value": repr(value)})
            pipe.execute()

    def published(self, stream: str) -> dict[str, list[tuple[int, float]]]:
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for _, fields in self.redis.xrange(stream):
            found[fields["session"]].append((int(fields["position"]), float(fields["prediction"])))
        return found

    def is_done(self, stream: str, group: str = "g") -> bool:
        groups = self.redis.xinfo_groups(stream)
        return any(g["name"] == group and not g["pending"] and not g["lag"] for g in groups)


class Devices:
    """A client that publishes what sensors measure, and collects what bridges publish."""

    def __init__(self, broker: Mosquitto) -> None:
        self.broker = broker
        self.sent: set[int] = set()
        self.received: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "devices", protocol=paho.MQTTv5)
        self.client.on_message = self._on_message
        self.client.on_publish = lambda client, userdata, mid, *_: self.sent.add(mid)
        self.client.on_connect = lambda client, *_: client.subscribe("out/#", 1)
        self.subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600  # what is published while it is away comes later
        self.client.connect("127.0.0.1", broker.port, clean_start=False, properties=properties)
        self.client.loop_start()
        assert self.subscribed.wait(10)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        self.received[message.topic.removeprefix("out/")].append(json.loads(message.payload))

    def publish(self, topic: str, payload: str, qos: int = 1) -> None:
        self.client.publish(topic, payload, qos).wait_for_publish(30)

    def measure(self, site: str, of: int, first: int = 0, last: int | None = None) -> None:
        """Publish a part of the series of every session, one value of each in turn."""
        wait_until(self.client.is_connected, "the devices are connected")  # else paho may publish twice
        sent = [
            self.client.publish(f"{site}/{name}", repr(observations(f"{site}:{name}", of)[i]), 1)
            for i in range(first, of if last is None else last)
            for name in SESSIONS
        ]
        wanted = {info.mid for info in sent}
        wait_until(lambda: wanted <= self.sent, "the broker has all values", 60)
        self.sent -= wanted

    def published(self, site: str) -> dict[str, list[tuple[int, float]]]:
        """Predictions by session; of those that came twice, one."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for topic, documents in list(self.received.items()):
            if topic.startswith(f"{site}/"):
                for document in documents:
                    found[document["session"]][document["position"]] = document["prediction"]
        return {session: sorted(values.items()) for session, values in found.items()}

    def has_all(self, site: str, length: int) -> bool:
        found = self.published(site)
        return len(found) == len(SESSIONS) and all(len(values) >= length for values in found.values())
