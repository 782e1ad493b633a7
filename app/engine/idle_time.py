"""Whether time that passed before this start counts as idle time of the sessions in the store."""

from __future__ import annotations

import logging
import math

from app.config import Settings
from app.stores import Store

log = logging.getLogger("carryover.engine")

LONGEST_STOP = 86_400.0  # seconds, where sessions do not expire by default


def hold_idle_sessions(store: Store, settings: Settings, now: float) -> float:
    """The deadline before which sessions in the store are held; minus infinity where none are.

    A clock that was set wrong, or right again, looks like a long stop of the server. Sessions whose time to
    live ran out meanwhile are kept until `CARRYOVER_EXPIRE_AFTER_JUMP` is set, also by later starts.
    """
    if settings.expire_after_jump:
        if store.hold_deadlines_before is not None:
            store.hold(None)
        return -math.inf
    ttl_seconds = settings.ttl_seconds
    limit = ttl_seconds if ttl_seconds < math.inf else LONGEST_STOP
    last = store.last_saved
    if last is not None and last - now > limit:
        log.warning("the clock is %.0f s earlier than the store's last write", last - now)
    if last is not None and now - last > limit:
        log.warning(
            "the clock is %.0f s later than the store's last write, more than sessions may idle: sessions "
            "that idled meanwhile are kept until the server is started with CARRYOVER_EXPIRE_AFTER_JUMP=true",
            now - last,
        )
        store.hold(now)
    return -math.inf if store.hold_deadlines_before is None else store.hold_deadlines_before
