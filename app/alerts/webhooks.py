"""Sends alerts to webhooks, signed as Standard Webhooks does (https://www.standardwebhooks.com).

Each webhook has a bounded queue and a task of its own, so that one that does not answer delays neither chunks
nor other webhooks. A delivery that fails is tried again, later each time, with the same id.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus

import httpx
import orjson

from app.alerts.alerts_file import AlertsFile, Target
from app.engine.batch import AlertEvent
from app.errors import Unprocessable
from app.observability.metrics import Metrics
from app.session.names import tenant_of

log = logging.getLogger("carryover.alerts")

MAX_WAITING = 1000  # alerts that wait for one webhook; above it the newest is dropped
ATTEMPTS = 10
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 300.0  # seconds between two attempts; each is twice the one before
TIMEOUT_SECONDS = 10.0


class Webhooks:
    """Sends alerts to the webhooks of a file."""

    def __init__(self, file: AlertsFile, metrics: Metrics) -> None:
        self._targets = dict(file.webhooks)
        self._metrics = metrics
        self._queues: dict[str, _Queue] = {}
        self._http: httpx.AsyncClient | None = None

    def check(self, name: str | None, tenant: str) -> None:
        """Check that sessions of this tenant may name this webhook.

        Raises
        ------
        Unprocessable
        """
        if name is not None and self._target(name, tenant) is None:
            raise Unprocessable(f"there is no webhook {name[:100]!r}", field="alert.webhook")

    def send(self, alert: AlertEvent) -> None:
        """Send an alert soon. It is dropped, and counted, where its webhook is unknown or too much waits."""
        name = alert.webhook or ""
        target = self._target(name, tenant_of(alert.session))
        if target is None:  # an imported session may name one of another server
            self._metrics.webhooks_dropped += 1
            return
        queue = self._queues.get(name)
        if queue is None:
            if self._http is None:
                # An address is reached as it is written: no proxy of the environment, and no redirect.
                self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
            queue = self._queues[name] = _Queue(name, target, self._http, self._metrics)
        queue.put(alert)

    async def close(self, seconds: float) -> None:
        """Send what waits, for no longer than this; the rest is dropped and logged."""
        tasks = [queue.task for queue in self._queues.values() if not queue.task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for name, queue in self._queues.items():
            queue.task.cancel()
            if queue.waiting:
                self._metrics.webhooks_dropped += len(queue.waiting)
                log.warning("%d alerts for the webhook %s were not sent", len(queue.waiting), name)
        if self._http is not None:
            await self._http.aclose()

    def _target(self, name: str, tenant: str) -> Target | None:
        target = self._targets.get(name)
        return target if target is not None and target.tenant in (None, tenant) else None


class _Queue:
    """The alerts that wait for one webhook."""

    def __init__(self, name: str, target: Target, http: httpx.AsyncClient, metrics: Metrics) -> None:
        self.waiting: deque[AlertEvent] = deque()
        self._name, self._target, self._http, self._metrics = name, target, http, metrics
        self._start()

    def put(self, alert: AlertEvent) -> None:
        if len(self.waiting) >= MAX_WAITING:
            self._metrics.webhooks_dropped += 1
            return
        self.waiting.append(alert)
        if self.task.done():
            self._start()

    def _start(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._send_all(), name="webhook")

    async def _send_all(self) -> None:
        while self.waiting:
            await self._deliver(self.waiting[0])
            self.waiting.popleft()

    async def _deliver(self, alert: AlertEvent) -> None:
        event = alert.event
        body = orjson.dumps({"type": f"session.{event['event']}", "timestamp": event["time"], "data": event})
        pause = FIRST_PAUSE
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)
            if await self._post(event["id"], body):
                self._metrics.webhooks_sent += 1
                return
            self._metrics.webhooks_failed += 1
        self._metrics.webhooks_dropped += 1
        log.error("the webhook %s did not take an alert in %d attempts", self._name, ATTEMPTS)

    async def _post(self, number: str, body: bytes) -> bool:
        headers = sign(self._target.key, number, body, time.time)
        try:
            async with self._http.stream("POST", self._target.url, content=body, headers=headers) as answer:
                return answer.status_code // 100 * 100 == HTTPStatus.OK
        except Exception:  # noqa: BLE001  (whatever it is, it is tried again, and the alerts behind it are sent)
            return False


def sign(key: bytes, number: str, body: bytes, clock: Callable[[], float]) -> dict[str, str]:
    """The headers of a delivery: its id, its time, and the HMAC-SHA256 of `id.time.body`."""
    now = str(int(clock()))
    signature = hmac.digest(key, f"{number}.{now}.".encode() + body, sha256)
    return {
        "content-type": "application/json",
        "user-agent": "carryover",
        "webhook-id": number,
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
