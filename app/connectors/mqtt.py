"""MQTT 5 with QoS 1 and a session that the broker keeps.

A message is acknowledged (PUBACK) behind its chunk. What is not acknowledged when a connection ends comes
again, with the same packet identifier and the flag DUP. Within one run of the bridge it is recognised by
both. After a crash it is recognised by the journal, if there is one; without a journal it is applied again.

paho-mqtt is used directly: the asynchronous wrappers of it acknowledge a message before anybody has seen it.
"""

from __future__ import annotations

import hashlib
import json
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from app.connectors.address import Address
from app.connectors.journal import Intent, Journal
from app.connectors.source import ConnectorError, Location, Message, Outcome, Place, Stopped, log

SESSION_SECONDS = 7 * 86_400
"""How long the broker keeps messages for a bridge that is away."""
TAKEN_OVER = 142
NO_RETAINED = 2
MAX_PAUSE_SECONDS = 30
MAX_RECEIVE = 65_535
OUTGOING = 20
"""Publications on their way; the least that brokers allow by default."""
REDELIVERY_SECONDS = 10.0
STOP_SECONDS = 10.0
FINISHED = 1000
"""Acknowledged packets to recognise: their acknowledgements may not have reached the broker."""
BRIEF_SECONDS = 3.0
"""A connection that ends sooner may have been ended by another client with the same id."""


@dataclass(eq=False, slots=True)
class _Packet:
    """A QoS 1 packet until it is acknowledged.

    mark : identifier and digest, by which a redelivery is recognised
    connection : number of the connection that it came on last
    """

    mid: int
    mark: str
    connection: int
    again: bool


class Mqtt:
    """The source `mqtt://host/filter`.

    Parameters
    ----------
    client_id : names the session that the broker keeps
    in_flight : most messages without an acknowledgement
    journal : of the last chunks; None: none is kept
    """

    slashes = True

    def __init__(
        self, address: Address, client_id: str, in_flight: int, journal: Journal | None, stop: threading.Event
    ) -> None:
        self.address = address
        self.guarantee = (
            "each QoS 1 message is applied exactly once"
            if journal
            else "each QoS 1 message is applied exactly once while this bridge runs, and perhaps twice after "
            "it was killed (see --journal)"
        )
        self._filter = address.path
        pattern = _without_share(address.path)
        self.names: frozenset[str] | None = frozenset({"topic", *_wildcards(pattern, pattern)})
        self._in_flight = min(in_flight, MAX_RECEIVE)
        self._journal = journal
        self._stop = stop
        self._lock = threading.Lock()  # never held while paho calls back
        self._connected = threading.Event()
        self._failure: str | None = None
        self._client_id = client_id
        self._since = 0.0
        self._connection = 0
        self._held: dict[int, _Packet] = {}
        self._finished: OrderedDict[int, str] = OrderedDict()
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._published: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._previous: dict[str, Intent] = {}
        self._ends: dict[str, str] = {}
        # Some brokers send more than they were allowed to: then the socket is not read until there is room.
        self._room = threading.Semaphore(2 * self._in_flight)
        self._closing = False
        self._client = self._make_client(client_id)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        # Publications have a connection of their own: they must get through while the other is not read.
        self._publisher = self._make_client(f"{client_id}-out")
        self._publisher.max_inflight_messages_set(OUTGOING)
        self._publisher.on_publish = self._on_publish

    def _make_client(self, client_id: str) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, manual_ack=True)
        if self.address.user is not None or self.address.password is not None:
            client.username_pw_set(self.address.user or "", self.address.password)
        context = self.address.tls
        if context is not None:
            client.tls_set_context(context)
        client.reconnect_delay_set(1, MAX_PAUSE_SECONDS)
        return client

    # Calls of the bridge.

    def connect(self) -> None:
        """See `Source`."""
        if self._journal is not None:
            self._previous = {name: chunk for name, chunk in self._journal.load().items() if chunk.marks}
            self._ends = {chunk.marks[0]: chunk.marks[-1] for chunk in self._previous.values()}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_SECONDS
        properties.ReceiveMaximum = self._in_flight
        self._client.connect_async(
            self.address.host, self.address.port, clean_start=False, properties=properties
        )
        self._client.loop_start()
        self._publisher.connect_async(self.address.host, self.address.port)
        self._publisher.loop_start()
        while not self._connected.wait(0.1):
            self._check()
            if self._stop.is_set():
                raise Stopped

    def receive(self, limit: int, seconds: float) -> list[Message]:
        """See `Source`."""
        self._check()
        messages = self._drain(limit, seconds)
        if self._ends:
            self._complete(messages)
        return messages

    def _drain(self, limit: int, seconds: float) -> list[Message]:
        messages: list[Message] = []
        try:
            messages.append(self._queue.get(timeout=seconds))
            while len(messages) < limit:
                messages.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return messages

    def _complete(self, messages: list[Message]) -> None:
        """Wait for the rest of each chunk of the journal whose first message has come again."""
        deadline = time.monotonic() + REDELIVERY_SECONDS
        while time.monotonic() < deadline and not self._stop.is_set():
            marks = {message.handle.mark for message in messages if message.handle is not None}
            missing = [end for start, end in self._ends.items() if start in marks and end not in marks]
            if not missing:
                break
            messages += self._drain(MAX_RECEIVE, 0.1)
        for start in marks & self._ends.keys():
            del self._ends[start]

    def locate(self, waiting: Mapping[str, Sequence[Message]]) -> dict[str, Location]:
        """See `Source`."""
        return {
            name: _location(self._previous.pop(name), messages)
            for name, messages in waiting.items()
            if name in self._previous
        }

    def prepare(self, chunks: Mapping[str, tuple[Place, Sequence[Message]]]) -> None:
        """See `Source`."""
        if self._journal is None:
            return
        intents = {}
        for name, (place, messages) in chunks.items():
            packets = [message.handle for message in messages if message.handle is not None]
            whole = len(packets) == len(messages)  # a message of QoS 0 does not come again
            intents[name] = Intent(place, tuple(packet.mark for packet in packets) if whole else ())
        self._journal.write(intents)

    def commit(self, outcome: Outcome) -> None:
        """See `Source`."""
        waiting = set()
        for publication in outcome.publications:
            if paho.topic_matches_sub(_without_share(self._filter), publication.target):
                raise ConnectorError(f"{publication.target!r} is read and cannot be written to")
            payload = json.dumps(publication.document)
            try:
                info = self._publisher.publish(publication.target, payload, qos=1)
            except ValueError as error:
                raise ConnectorError(f"cannot publish to {publication.target!r}: {error}") from None
            waiting.add(info.mid)
        self._await_published(waiting)
        for message in outcome.messages:
            if message.handle is not None:
                self._acknowledge(message.handle)
            self._room.release()

    def _await_published(self, waiting: set[int]) -> None:
        """Wait until the broker has all publications. paho sends them again after a reconnect."""
        stopping = None
        while waiting:
            self._check()
            try:
                waiting.discard(self._published.get(timeout=0.2))
            except queue.Empty:
                if self._stop.is_set():
                    stopping = stopping or time.monotonic() + STOP_SECONDS
                    if not self._connected.is_set() or time.monotonic() > stopping:
                        raise Stopped from None

    def _acknowledge(self, packet: _Packet) -> None:
        with self._lock:
            if self._held.get(packet.mid) is packet:
                del self._held[packet.mid]
            self._finished[packet.mid] = packet.mark
            self._finished.move_to_end(packet.mid)
            while len(self._finished) > max(FINISHED, self._in_flight):
                self._finished.popitem(last=False)
            # On a later connection the packet comes again first, and is acknowledged then.
            if packet.connection == self._connection:
                self._client.ack(packet.mid, 1)

    def lag(self) -> int | None:
        """See `Source`; MQTT has no way to ask the broker."""
        return None

    def close(self) -> None:
        """See `Source`."""
        self._closing = True
        for client in (self._client, self._publisher):
            client.disconnect()
            client.loop_stop()
        if self._journal is not None:
            self._journal.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise ConnectorError(f"{self.address}: {self._failure}")

    # Calls of paho, on its thread.

    def _on_connect(
        self, client: paho.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(f"the broker refuses the connection: {reason}")
            return
        self._since = time.monotonic()
        with self._lock:
            self._connection += 1
        options = SubscribeOptions(qos=1, retainHandling=NO_RETAINED)
        client.subscribe(self._filter, options=options)

    def _on_subscribe(
        self, _client: paho.Client, _userdata: Any, _mid: int, reasons: list[ReasonCode], _properties: Any
    ) -> None:
        if reasons and reasons[0].is_failure:
            self._fail(f"the broker refuses the subscription: {reasons[0]}")
            return
        self._connected.set()

    def _on_connect_fail(self, _client: paho.Client, _userdata: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this where it has caught the error, which it does not hand on
        log.warning("%s: no connection (%s); trying again", self.address, error or "no reason is known")

    def _on_disconnect(
        self, _client: paho.Client, _userdata: Any, flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        self._connected.clear()
        with self._lock:
            self._connection += 1
        if flags.is_disconnect_packet_from_server and reason.value == TAKEN_OVER:
            self._fail("another client has taken over the session of this bridge")
        elif reason.is_failure:
            brief = time.monotonic() - self._since < BRIEF_SECONDS
            hint = f"; does another client use the id {self._client_id!r}?" if brief else ""
            log.warning("%s: connection lost (%s); trying again%s", self.address, reason, hint)

    def _on_message(self, _client: paho.Client, _userdata: Any, received: paho.MQTTMessage) -> None:
        packet = None
        if received.qos:
            packet = self._take(received)
            if packet is None:
                return
        topic = _topic(received)
        names = {"topic": topic} | _wildcards(_without_share(self._filter), topic)
        while not self._room.acquire(timeout=0.2):
            if self._closing:
                return
        self._queue.put(Message(topic, names, bytes(received.payload), packet))

    def _take(self, received: paho.MQTTMessage) -> _Packet | None:
        """The packet, if it is new to this run."""
        mid, mark = received.mid, _mark(received)
        with self._lock:
            if received.dup:
                held = self._held.get(mid)
                if held is not None and held.mark == mark:
                    held.connection = self._connection
                    return None
                if self._finished.get(mid) == mark:
                    self._client.ack(mid, 1)
                    return None
            packet = self._held[mid] = _Packet(mid, mark, self._connection, received.dup)
            self._finished.pop(mid, None)
        return packet

    def _on_publish(
        self, _client: paho.Client, _userdata: Any, mid: int, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            self._fail(f"the broker refuses a publication: {reason}")
        self._published.put(mid)

    def _fail(self, reason: str) -> None:
        self._failure = reason
        self._client.disconnect()


def _location(intent: Intent, messages: Sequence[Message]) -> Location:
    """Where messages belong after a crash.

    Acknowledgements are sent in order and behind the chunk. If its first message comes again, all do, and the
    chunk may have been applied or not. Else it was applied.
    """
    known = set(intent.marks)
    marks = [
        message.handle.mark if message.handle is not None and message.handle.again else None
        for message in messages
    ]
    if marks[0] == intent.marks[0]:
        return Location(intent.place)
    applied = next((i for i, mark in enumerate(marks) if mark not in known), len(marks))
    behind = Place(intent.place.position + len(intent.marks), intent.place.epoch)
    return Location(behind, applied, certain=True)


def _mark(received: paho.MQTTMessage) -> str:
    content = _topic(received).encode("utf-8", "surrogateescape") + b"\0" + bytes(received.payload)
    return f"{received.mid} {hashlib.sha256(content).hexdigest()[:32]}"


def _topic(received: paho.MQTTMessage) -> str:
    try:
        return received.topic
    except UnicodeDecodeError:
        return ""  # no template can be filled with it: it will be rejected


def _without_share(pattern: str) -> str:
    """The filter itself, of `$share/GROUP/FILTER`."""
    return pattern.split("/", 2)[-1] if pattern.startswith("$share/") else pattern


def _wildcards(pattern: str, topic: str) -> dict[str, str]:
    """What the wildcards of a filter stand for: `{1}` for the first +, `{2}` for the second; `{#}`."""
    found: dict[str, str] = {}
    levels = topic.split("/")
    for i, level in enumerate(pattern.split("/")):
        if level == "+" and i < len(levels):
            found[str(len(found) + 1)] = levels[i]
        elif level == "#":
            found["#"] = "/".join(levels[i:])
    return found
