"""How many sessions there are and may be, on the server and of each tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from app.errors import OverLimit, TooManySessions
from app.session.names import tenant_of

RETRY_SECONDS = 60  # after which a tenant at its limit may try again


class SessionCounts:
    """Sessions of each tenant, those included that the batch under way creates.

    Parameters
    ----------
    max_sessions : that the server keeps
    """

    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.per_tenant: Counter[str] = Counter()
        self.limits: Mapping[str, int] = {}  # by tenant, where a tenant may have fewer than the server

    def add(self, sessions: Iterable[str]) -> None:
        self.per_tenant.update(map(tenant_of, sessions))

    def discard(self, session: str) -> None:
        self.per_tenant[tenant_of(session)] -= 1

    def check_room(self, tenant: str, coming: int, present: int) -> None:
        """Refuse more sessions than there may be.

        Parameters
        ----------
        coming : how many are to be created
        present : how many the server has

        Raises
        ------
        TooManySessions, OverLimit
        """
        if coming and present + coming > self.max_sessions:
            raise TooManySessions(f"the server keeps at most {self.max_sessions} sessions")
        limit = self.limits.get(tenant)
        if limit is not None and coming and self.per_tenant[tenant] + coming > limit:
            raise OverLimit(
                f"this key may have at most {limit} sessions", RETRY_SECONDS, quota="sessions", limit=limit
            )
