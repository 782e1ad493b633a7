"""The alerts of all sessions of a server, for those who read `/events`: a bounded past, and what comes.

Each worker keeps the alerts of all workers, so a reader may come back to another worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from app.alerts.webhooks import Webhooks
from app.engine.batch import AlertEvent
from app.observability.metrics import Metrics

REMEMBERED = 1000  # alerts of all tenants
BEFORE_ALL = "0"  # no alert's id
MAX_UNREAD = 256  # alerts that wait for one reader; a slower reader is disconnected


class Reader:
    """Who reads alerts, of the sessions whose names begin with `prefix`.

    begins_behind : the id of the last alert before those that it gets, `BEFORE_ALL` where none is remembered;
        None where the reader named it itself
    """

    def __init__(self, prefix: str, begins_behind: str | None = None) -> None:
        self.prefix = prefix
        self.begins_behind = begins_behind
        self.is_closed = False
        self._unread: deque[AlertEvent] = deque()
        self._room = MAX_UNREAD  # alerts that may wait
        self._awake = asyncio.Event()

    def put(self, alert: AlertEvent) -> None:
        """Take an alert; a reader who has not fetched `MAX_UNREAD` of them is closed."""
        if not alert.session.startswith(self.prefix):
            return
        if len(self._unread) >= self._room:
            self.close()
            return
        self._unread.append(alert)
        self._awake.set()

    def remember(self, alerts: Iterable[AlertEvent]) -> None:
        """Take alerts of the past, before any other; it has as much room for new ones as without them."""
        self._unread.extend(alert for alert in alerts if alert.session.startswith(self.prefix))
        if self._unread:
            self._room = MAX_UNREAD + len(self._unread)
            self._awake.set()

    def close(self) -> None:
        """Send nothing more."""
        self.is_closed = True
        self._awake.set()

    revoke = close  # the key was removed

    async def wait(self, seconds: float) -> list[AlertEvent]:
        """The alerts that have come; empty where none has come for so long, or the reader is closed."""
        try:
            async with asyncio.timeout(seconds):
                await self._awake.wait()
        except TimeoutError:
            return []
        self._awake.clear()
        alerts, self._unread, self._room = list(self._unread), deque(), MAX_UNREAD
        if self.is_closed:
            self._awake.set()
        return [] if self.is_closed else alerts


class AlertHub:
    """Takes alerts from the engine and from other workers, and hands them out.

    Parameters
    ----------
    webhooks : get the alerts of this worker's sessions
    """

    def __init__(self, webhooks: Webhooks, metrics: Metrics) -> None:
        self._webhooks = webhooks
        self._metrics = metrics
        self._past: deque[AlertEvent] = deque(maxlen=REMEMBERED)
        self._readers: set[Reader] = set()
        self.forward: Callable[[Sequence[AlertEvent]], None] = lambda _: None  # to the other workers

    def publish(self, alerts: Sequence[AlertEvent]) -> None:
        """Take alerts that the engine has committed."""
        self._metrics.alerts += sum(alert.event["event"] == "alert" for alert in alerts)
        self.receive(alerts)
        self.forward(alerts)
        for alert in alerts:
            if alert.webhook is not None:
                self._webhooks.send(alert)

    def receive(self, alerts: Sequence[AlertEvent]) -> None:
        """Take alerts that another worker has committed."""
        self._past.extend(alerts)
        for reader in list(self._readers):
            for alert in alerts:
                reader.put(alert)

    def open(self, prefix: str, last_id: str | None = None) -> Reader:
        """A reader of what comes; where it names the last alert that it has, of what came since, too.

        An alert that is not remembered any more says nothing of what came since: then all are sent that are.
        """
        if last_id is None:
            newest = (alert.event["id"] for alert in reversed(self._past) if alert.session.startswith(prefix))
            reader = Reader(prefix, next(newest, BEFORE_ALL))
        else:
            reader = Reader(prefix)
            past = list(self._past)
            known = [i for i, alert in enumerate(past) if alert.event["id"] == last_id]
            reader.remember(past[known[-1] + 1 :] if known else past)
        self._readers.add(reader)
        return reader

    def forget(self, reader: Reader) -> None:
        """Send nothing more to a reader."""
        self._readers.discard(reader)

    def close(self) -> None:
        """End all readers, because the server stops."""
        for reader in list(self._readers):
            reader.close()
