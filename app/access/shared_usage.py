"""What workers of one server tell each other about use, so that a limit holds for the server as a whole.

Each worker counts on its own, and reports to the others several times a second. So a limit can be passed by
what happens between two reports. A rate makes up for it: what the others have granted beyond it is deducted
afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from app.access.callers import Authenticator


class UsageReport(msgspec.Struct, array_like=True):
    """What a worker has in use.

    sessions : that it owns
    connections, sockets : that are open
    granted : observations since the last report, of all keys
    tenants : sessions by tenant, where there are keys
    keys : by the digest of the key: open sockets, and observations granted since the last report
    """

    sessions: int
    connections: int
    sockets: int
    granted: int
    tenants: dict[str, int]
    keys: dict[str, tuple[int, int]]


class SharedUsage:
    """Reports the use of this worker, and takes the reports of the others.

    Parameters
    ----------
    authenticator : knows the use of every key
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def report(self) -> UsageReport:
        """What this worker has in use, and has granted since the last call."""
        authenticator, residents = self._authenticator, self._authenticator.engine.residents
        server_bucket = authenticator.server_bucket
        keys = {}
        for key, caller in authenticator.callers():
            bucket = caller.usage.bucket
            granted = 0 if bucket is None else bucket.take_granted()
            if granted or caller.usage.sockets:
                keys[key.sha256] = (len(caller.usage.sockets), granted)
        return UsageReport(
            len(residents),
            authenticator.connections.open,
            len(authenticator.sockets),
            0 if server_bucket is None else server_bucket.take_granted(),
            {} if authenticator.key_ring is None else dict(+residents.counts.per_tenant),
            keys,
        )

    def deduct(self, report: UsageReport) -> None:
        """Deduct what another worker has granted since its last report."""
        authenticator = self._authenticator
        if report.granted and authenticator.server_bucket is not None:
            authenticator.server_bucket.deduct(report.granted)
        for key, caller in authenticator.callers():
            if key.sha256 in report.keys and caller.usage.bucket is not None:
                caller.usage.bucket.deduct(report.keys[key.sha256][1])

    def count_elsewhere(self, reports: Collection[UsageReport]) -> None:
        """Count what is open at the other workers.

        Parameters
        ----------
        reports : the last of each
        """
        authenticator, counts = self._authenticator, self._authenticator.engine.residents.counts
        authenticator.connections.elsewhere = sum(report.connections for report in reports)
        authenticator.sockets.elsewhere = sum(report.sockets for report in reports)
        counts.elsewhere = sum(report.sessions for report in reports)
        tenants: Counter[str] = Counter()
        sockets: Counter[str] = Counter()
        for report in reports:
            tenants.update(report.tenants)
            sockets.update({key: open_ for key, (open_, _) in report.keys.items()})
        counts.per_tenant_elsewhere = tenants
        for key, caller in authenticator.callers():
            caller.usage.sockets_elsewhere = sockets[key.sha256]
