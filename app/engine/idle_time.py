"""Whether time that passed before this start counts as idle time of the sessions in the store."""

from __future__ import annotations

import logging
import math

from app.config import Settings
from app.stores import Store

log = logging.getLogger("carryover.engine")

LONGEST_STOP = 86_400.0  # seconds; the limit if sessions do not expire by default


def suspend_expiry_after_clock_jump(store: Store, settings: Settings, now: float) -> float:
    """Keep the stored sessions that seem to have expired while the server was stopped, if the clock jumped.

    A clock that was wrong, or was corrected, looks like a long stop of the server. So sessions whose time to
    live ran out meanwhile are kept, also by later starts, until a start with `CARRYOVER_EXPIRE_AFTER_JUMP`.

    Returns the deadline before which stored sessions do not expire; minus infinity if every session may.
    """
    if settings.expire_after_jump:
        if store.no_expiry_before is not None:
            store.save_no_expiry_before(None)
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
        store.save_no_expiry_before(now)
    return -math.inf if store.no_expiry_before is None else store.no_expiry_before
