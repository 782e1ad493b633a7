"""The engine as a caller may use it, and the authenticator that finds the caller of a request.

Every protocol (HTTP, bulk requests, sockets, the Open Inference Protocol) gets a `Caller` in place of the
engine. Only a `Caller` turns a client's session id into the engine's name. So a protocol that forgets about
tenants still cannot reach another tenant's session: it has no way to name that session.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from app.access.connection_limit import ConnectionLimit
from app.access.keys import Key, KeyRing, Role
from app.access.quotas import TokenBucket
from app.access.usage import OpenSockets, Usage
from app.config import Settings
from app.engine.engine import Engine
from app.engine.fair_share import TenantShare
from app.errors import CarryoverError, ConfigError, Forbidden, Unauthorized
from app.jobs.jobs import (
    Advance,
    AdvanceMany,
    Client,
    Export,
    Forecast,
    Fork,
    Inspect,
    Job,
    ReadHistory,
    Watch,
    Write,
    submit_and_wait,
)
from app.jobs.session_query import Cursor, SessionPage, SessionQuery
from app.session import names

log = logging.getLogger("carryover.tenancy")

BEARER = b"bearer "
RANK: dict[Role, int] = {"monitor": 0, "read": 1, "stream": 2, "admin": 3}
READ_ONLY_JOBS = (Inspect, ReadHistory, Watch, Forecast, Export)  # jobs that change no session
ALL_TENANTS = "*"
CLIENT: ContextVar[Client | None] = ContextVar("client", default=None)
"""The client whose request the current task answers."""


class Caller:
    """The engine as the clients of one key see it: their own sessions, by their own ids, in their quota.

    Parameters
    ----------
    tenant : owner of the sessions; `*` for an admin who lists the sessions of all tenants
    key : None where the server has no keys
    usage : what the key has in use; None where the server has no keys
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        tenant: str = "",
        key: Key | None = None,
        usage: Usage | None = None,
    ) -> None:
        self.engine = engine
        self.tenant = tenant
        self.key = key
        self.is_revoked = False  # the key was removed
        self.prefix = names.prefix(tenant)
        self.rank = RANK[key.role] if key is not None else RANK["admin"]
        self.usage = (
            usage if usage is not None else Usage(settings, TenantShare(engine.fair_share, tenant), key)
        )
        self._streams = self.rank >= RANK["stream"] and tenant != ALL_TENANTS
        self.max_bytes = self.usage.quota.body_bytes or settings.body_bytes

    def require_role(self, role: Role) -> None:
        """Check that the caller has this role or a higher role.

        Raises
        ------
        Forbidden
        """
        if self.rank < RANK[role]:
            have = self.key.role if self.key is not None else "admin"
            raise Forbidden(f"this needs a key of the role {role}; this key has the role {have}", role=role)

    @property
    def sees_all_tenants(self) -> bool:
        """Whether the caller may see figures of the whole server, which reveal facts about other tenants."""
        return self.key is None or self.key.role in {"monitor", "admin"}

    def submit(self, job: Job) -> None:
        """Queue a job under the engine's names; its `reply` is called exactly once.

        Raises
        ------
        Forbidden, OverLimit, TooLarge, Stopping, Overloaded : not queued, and `reply` is not called
        """
        usage = self.usage
        if not usage.is_limited:
            self.engine.submit(job)
            return
        if self.key is not None:
            self._check_role(job)
            self._rename(job)
        count = len(job.sessions)
        usage.check(job, count)
        try:
            self._submit_counted(job, usage, count)
        except CarryoverError:
            usage.give_back(job)
            raise

    def _submit_counted(self, job: Job, usage: Usage, count: int) -> None:
        """Queue a job, and count it as in flight until it is answered."""
        if isinstance(job, Advance | AdvanceMany):
            self._submit_chunks(job, usage, count)
            return
        reply = job.reply

        def release(outcome: Any) -> None:
            usage.release(count)
            reply(outcome)

        job.reply = release
        try:
            self.engine.submit(job)
        except CarryoverError:
            job.reply = reply
            raise
        usage.acquire(count)

    def _submit_chunks(self, job: Advance | AdvanceMany, usage: Usage, count: int) -> None:
        """Queue chunks. The engine releases them when they are answered, possibly within this call."""
        job.usage = usage
        usage.acquire(count)
        try:
            self.engine.submit(job)
        except Exception:
            usage.release(count)
            raise

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : the job was refused
        """
        if isinstance(job, Advance | AdvanceMany | Forecast | Export | Write):
            job.client = CLIENT.get()
        return await submit_and_wait(self.submit, job)

    async def list_sessions(self, query: SessionQuery, after: Cursor | None, limit: int) -> SessionPage:
        """List up to `limit` of the caller's sessions, with ids in place of names.

        Parameters
        ----------
        after : `next` of the page before; None for the first

        Raises
        ------
        Forbidden
        """
        self.require_role("read")
        scope = self.prefix
        if self.tenant == ALL_TENANTS:
            self.require_role("admin")
            scope = ""
        query = query._replace(prefix=scope + query.prefix)
        page = await self.engine.list_sessions(
            query, scope + after if isinstance(after, str) else after, limit
        )
        found = [(name[len(scope) :], model) for name, model in page.found]
        return SessionPage(found, page.next[len(scope) :] if isinstance(page.next, str) else page.next)

    async def count_sessions(self) -> int:
        """Number of the caller's sessions. Without keys, and for an admin of all tenants: of all sessions."""
        is_everything = self.key is None or self.tenant == ALL_TENANTS
        return await self.engine.count_sessions(None if is_everything else self.tenant)

    def internal_name(self, session: str) -> str:
        """The engine's name of this session of the caller."""
        return self.prefix + session

    def _check_role(self, job: Job) -> None:
        is_read_only = type(job) in READ_ONLY_JOBS or (type(job) is Write and not job.keep)
        self.require_role("read" if is_read_only else "stream" if job.sessions else "admin")
        if self.tenant == ALL_TENANTS and job.sessions:
            raise Forbidden("name a tenant in Carryover-Tenant: a session belongs to one tenant")

    def _rename(self, job: Job) -> None:
        prefix = self.prefix
        if not job.sessions:  # the job concerns a model, not a session
            return
        if isinstance(job, AdvanceMany):
            job.sessions = job.sessions.with_prefix(prefix)
            return
        # Any other job has a `session`. If not, this raises, and the job does not reach the engine.
        job.session = prefix + job.session  # type: ignore[union-attr]
        if isinstance(job, Fork):
            job.target = prefix + job.target


class TracedCaller(Caller):
    """A caller that records a span for each job."""

    def submit(self, job: Job) -> None:
        """Queue a job; its span ends with its answer, or at once if it is refused."""
        tracing = self.engine.tracing
        if tracing is None:
            super().submit(job)
            return
        end = tracing.trace(job)
        try:
            super().submit(job)
        except CarryoverError as error:
            end(error)
            raise


class Authenticator:
    """Finds the caller of a request by its API key.

    Parameters
    ----------
    key_ring : the keys; None if no key is needed; then there is one tenant, without a name
    """

    def __init__(self, engine: Engine, settings: Settings, key_ring: KeyRing | None = None) -> None:
        self.engine = engine
        self.settings = settings
        self.key_ring = key_ring
        rate = settings.observations_per_second
        self.server_bucket = TokenBucket(rate, workers=settings.workers) if rate else None
        self.sockets = OpenSockets()
        self.connections = ConnectionLimit(
            settings.http_connections
        )  # limit of HTTP connections; the gRPC library counts its own
        self._caller_class = Caller if engine.tracing is None else TracedCaller
        self._tenant_shares: WeakValueDictionary[str, TenantShare] = WeakValueDictionary()
        self._keyless_caller = self._caller_class(engine, settings, usage=self._usage("", None))
        self._callers: dict[Key, Caller] = {}
        self.key_version = 0  # changes with the keys; then callers found before must be looked up again
        self._set_session_limits()

    def authenticate(self, authorization: bytes | None, tenant: str | None = None) -> Caller:
        """Find the caller of a request with this `Authorization`.

        Parameters
        ----------
        tenant : the tenant that an admin's request names; None for the key's own

        Raises
        ------
        Unauthorized, Forbidden
        """
        if self.key_ring is None:
            return self._keyless_caller
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise Unauthorized("send an API key: Authorization: Bearer KEY")
        return self.authenticate_token(authorization[len(BEARER) :].strip(), tenant)

    def authenticate_token(self, token: bytes, tenant: str | None = None) -> Caller:
        """Find the caller with this token.

        Parameters
        ----------
        tenant : the tenant that an admin's request names; None for the key's own

        Raises
        ------
        Unauthorized, Forbidden
        """
        key = self.key_ring.find(token) if self.key_ring is not None else None
        if key is None or not key.tenant:  # a key without a tenant would see the sessions of all tenants
            raise Unauthorized("invalid or revoked API key")
        caller = self._callers.get(key)
        if caller is None:
            usage = self._usage(key.tenant, key)
            caller = self._callers[key] = self._caller_class(
                self.engine, self.settings, key.tenant, key, usage
            )
        if tenant is None or tenant == key.tenant:
            return caller
        if key.role != "admin":
            raise Forbidden("only the key of an admin may name another tenant", role="admin")
        if tenant != ALL_TENANTS and names.TENANT.fullmatch(tenant) is None:
            raise Forbidden("Carryover-Tenant: 1 to 64 characters of A-Z a-z 0-9 . _ -, or *")
        return self._caller_class(self.engine, self.settings, tenant, key, caller.usage)

    def callers(self) -> Collection[tuple[Key, Caller]]:
        """The callers that were found so far, and their keys."""
        return self._callers.items()

    def share(self, tenant: str) -> TenantShare:
        """What this tenant has in flight here."""
        share = self._tenant_shares.get(tenant)
        if share is None:
            share = self._tenant_shares[tenant] = TenantShare(self.engine.fair_share, tenant)
        return share

    def _usage(self, tenant: str, key: Key | None) -> Usage:
        return Usage(self.settings, self.share(tenant), key, self.server_bucket, self.sockets)

    def refresh(self) -> None:
        """Read the key file again if it has changed. Close the connections of keys that were removed."""
        if self.key_ring is None:
            return
        try:
            if not self.key_ring.refresh():
                return
        except ConfigError as error:
            log.error("the keys' file was not read; the keys are unchanged: %s", error)
            return
        self.key_version += 1
        current = set(self.key_ring)
        for key in self._callers.keys() - current:
            caller = self._callers.pop(key)
            caller.is_revoked = True
            for socket in list(caller.usage.sockets):
                socket.revoke()
        self._set_session_limits()
        log.info("keys read again: %d", len(current))

    def _set_session_limits(self) -> None:
        """Give the engine each tenant's limit of sessions, which is the highest among its keys."""
        session_limits: dict[str, int] = {}
        for key in self.key_ring or ():
            most = key.limits.within(self.settings).sessions or 0
            session_limits[key.tenant] = max(session_limits.get(key.tenant, 0), most)
        self.engine.residents.counts.limits = session_limits
