"""How many sessions there are and may be, on the server and of each tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from app.errors import OverLimit, TooManySessions
from app.session.names import tenant_of

RETRY_SECONDS = 60  # `Retry-After` for a tenant that has as many sessions as it may have


class SessionCounts:
    """How many sessions each tenant has, including those that the current batch creates.

    Parameters
    ----------
    max_sessions : limit for the whole server
    """

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.per_tenant: Counter[str] = Counter()
        # Of other workers of the server, a moment ago. So a limit can be passed by what is created meanwhile.
        self.elsewhere = 0
        self.per_tenant_elsewhere: Counter[str] = Counter()
        self.limits: Mapping[str, int] = {}  # limits by tenant; only tenants with a limit below the server's

    def add(self, sessions: Iterable[str]) -> None:
        self.per_tenant.update(map(tenant_of, sessions))

    def discard(self, session: str) -> None:
        self.per_tenant[tenant_of(session)] -= 1

    def check_room(self, tenant: str, new_count: int, existing_count: int) -> None:
        """Refuse more sessions than there may be.

        Parameters
        ----------
        new_count : sessions to create
        existing_count : sessions that this engine has

        Raises
        ------
        TooManySessions, OverLimit
        """
        if new_count and existing_count + self.elsewhere + new_count > self.max_sessions:
            raise TooManySessions(f"the server keeps at most {self.max_sessions} sessions")
        limit = self.limits.get(tenant)
        existing = self.per_tenant[tenant] + self.per_tenant_elsewhere[tenant]
        if limit is not None and new_count and existing + new_count > limit:
            raise OverLimit(
                f"this key may have at most {limit} sessions", RETRY_SECONDS, quota="sessions", limit=limit
            )
