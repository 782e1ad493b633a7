"""Who: the engine as one caller sees it, and the door that tells who is calling.

Every way in (HTTP, the hot route, bulk, sockets, /v2) holds a `Caller` in place of the engine. It is the
only one that turns a client's session id into the engine's name, so isolation is by construction: a way in
that forgets about tenants cannot reach another's session, because it cannot name it.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol
from weakref import WeakValueDictionary

from app.access.keys import Key, KeyRing, Role
from app.access.quotas import Quota, TokenBucket, quota_error
from app.config import Settings
from app.engine.engine import Engine
from app.engine.fair_share import TenantShare
from app.errors import CarryoverError, ConfigError, Forbidden, Overloaded, TooLarge, Unauthorized
from app.jobs.jobs import Advance, AdvanceMany, Export, Forecast, Fork, Inspect, Job, submit_and_wait
from app.session import names

log = logging.getLogger("carryover.tenancy")

BEARER = b"bearer "
RANK: dict[Role, int] = {"monitor": 0, "read": 1, "stream": 2, "admin": 3}
READ_ONLY_JOBS = (Inspect, Forecast, Export)  # jobs that move nothing
ALL_TENANTS = "*"


class Revocable(Protocol):
    """A connection that lasts, and ends when its key does."""

    def revoke(self) -> None:
        """Close: the key is no longer good."""


class Caller:
    """The engine as the clients of one key see it: their own sessions by their own ids, within their quota.

    Parameters
    ----------
    tenant : whose sessions; `*` for an admin who lists everybody's
    key : None where the server has no keys
    quota : what the key may use; None where the server has no keys
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
        self.prefix = names.prefix(tenant)
        self.rank = RANK[key.role] if key is not None else RANK["admin"]
        self.usage = (
            usage if usage is not None else Usage(settings, TenantShare(engine.fair_share, tenant), key)
        )
        self._streams = self.rank >= RANK["stream"] and tenant != ALL_TENANTS
        self.max_bytes = self.usage.quota.body_bytes or settings.body_bytes

    def require_role(self, role: Role) -> None:
        """Nothing, for a caller of this role or a higher one.

        Raises
        ------
        Forbidden
        """
        if self.rank < RANK[role]:
            have = self.key.role if self.key is not None else "admin"
            raise Forbidden(f"this needs a key of the role {role}; this one's is {have}", role=role)

    @property
    def sees_all_tenants(self) -> bool:
        """Whether it may know what the server does as a whole, which tells one tenant about the others."""
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
        if type(job) is Advance:  # nearly every job: the engine counts it out, with others of its wave
            if not self._streams:
                self._check_role(job)
            job.session = self.prefix + job.session
            usage.check(job, 1)
            job.usage = usage
            self.engine.submit(job)
            usage.in_flight += 1  # `acquire`, by one call less
            usage.share.acquire(1)
        else:
            self._submit_other(job, usage)

    def _submit_other(self, job: Job, usage: Usage) -> None:
        if self.key is not None:
            self._check_role(job)
            self._rename(job)
        count = len(job.sessions)
        usage.check(job, count)
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

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : what the job was refused with
        """
        return await submit_and_wait(self.submit, job)

    async def list_sessions(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(id, model) of up to `limit` sessions behind `after` whose ids begin with `prefix`, in order.

        Raises
        ------
        Forbidden
        """
        self.require_role("read")
        if self.tenant == ALL_TENANTS:
            self.require_role("admin")
            return await self.engine.names(max(after, names.cursor_before(prefix)), limit, model, prefix)
        after = self.prefix + max(after, names.cursor_before(prefix))
        found = await self.engine.names(after, limit, model, self.prefix + prefix)
        return [(name[len(self.prefix) :], told) for name, told in found]

    def __len__(self) -> int:
        """How many sessions there are, as far as the caller may know."""
        sessions = self.engine.residents
        if self.key is None or self.tenant == ALL_TENANTS:
            return len(sessions)
        return sessions.sessions_per_tenant[self.tenant]

    def internal_name(self, session: str) -> str:
        """What the engine calls this session of the caller's."""
        return self.prefix + session

    def _check_role(self, job: Job) -> None:
        self.require_role("read" if type(job) in READ_ONLY_JOBS else "stream" if job.sessions else "admin")
        if self.tenant == ALL_TENANTS and job.sessions:
            raise Forbidden("name one tenant: a session is one tenant's")

    def _rename(self, job: Job) -> None:
        prefix = self.prefix
        if not job.sessions:  # of a model, not of a session
            return
        if isinstance(job, AdvanceMany):
            job.sessions = job.sessions.with_prefix(prefix)
            return
        # A job with no session raises here: what cannot be named for its tenant is not passed on.
        job.session = prefix + job.session  # type: ignore[union-attr]
        if isinstance(job, Fork):
            job.target = prefix + job.target


class TracedCaller(Caller):
    """A caller whose jobs are followed by spans."""

    def submit(self, job: Job) -> None:
        """Queue a job; its span ends with its answer, or at once where it is refused."""
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


class Usage:
    """What a key has in use; shared by all who call with it.

    Parameters
    ----------
    lane : its tenant's
    server : what everybody's observations together are taken from
    everybodys : the sockets that are open, whoever's they are
    """

    def __init__(
        self,
        settings: Settings,
        share: TenantShare,
        key: Key | None = None,
        server_bucket: TokenBucket | None = None,
        all_sockets: set[Revocable] | None = None,
    ) -> None:
        self.share = share
        self.tenant = share.tenant
        self.quota = key.limits.within(settings) if key is not None else Quota()
        self._most_in_flight = self.quota.in_flight or settings.queue_jobs
        self._longest_chunk = self.quota.chunk_observations or settings.chunk_observations
        self._most_sockets = settings.sockets
        self._all_sockets = all_sockets if all_sockets is not None else set()
        self.owner = f"key {key.name!r}" if key is not None else "the server"
        rate = self.quota.observations_per_second
        self.bucket = TokenBucket(rate) if rate and key is not None else None
        self.server_bucket = server_bucket
        self.is_limited = key is not None or server_bucket is not None
        self.in_flight = 0
        self.sockets: set[Revocable] = set()

    def check(self, job: Job, count: int) -> None:
        """Whether a job of so many sessions may be queued; its observations are taken off the second's.

        Raises
        ------
        OverLimit, TooLarge, Overloaded
        """
        most = self._most_in_flight
        if self.in_flight and self.in_flight + count > most:
            raise quota_error("in_flight", most, self.owner)
        if type(job) is Advance:
            self._take(len(job.observations), len(job.observations))
        elif type(job) is AdvanceMany:
            self._take(len(job.observations), int(job.lengths.max()))

    def acquire(self, count: int) -> None:
        """So many sessions' turns of it were queued."""
        self.in_flight += count
        self.share.acquire(count)

    def release(self, count: int) -> None:
        """So many were answered."""
        self.in_flight -= count
        self.share.release(count)

    def check_socket(self) -> None:
        """Whether one socket more may be opened.

        Raises
        ------
        OverLimit, Overloaded
        """
        most = self.quota.sockets
        if most is not None and len(self.sockets) >= most:
            raise quota_error("sockets", most, self.owner)
        if len(self._all_sockets) >= self._most_sockets:
            raise Overloaded(
                f"{self._most_sockets} sockets are open already", quota="sockets", limit=self._most_sockets
            )

    def add_socket(self, socket: Revocable) -> None:
        """Count a socket in."""
        self.sockets.add(socket)
        self._all_sockets.add(socket)

    def remove_socket(self, socket: Revocable) -> None:
        """Count a socket out."""
        self.sockets.discard(socket)
        self._all_sockets.discard(socket)

    def _take(self, count: int, longest: int) -> None:
        most = self._longest_chunk
        if longest > most:
            raise TooLarge(
                f"a chunk of {self.owner} has at most {most} observations, this one has {longest}",
                limit=most,
                quota="chunk_observations",
            )
        if self.bucket is not None and (seconds := self.bucket.take(count)):
            raise quota_error("observations_per_second", self.bucket.rate, self.owner, seconds)
        if self.server_bucket is not None and self.server_bucket.take(count):
            raise Overloaded(
                f"the server takes at most {self.server_bucket.rate:g} observations a second",
                quota="observations_per_second",
                limit=self.server_bucket.rate,
            )


class Authenticator:
    """Tells who is calling.

    Parameters
    ----------
    ring : the keys; None lets everybody in, as one tenant without a name
    """

    def __init__(self, engine: Engine, settings: Settings, key_ring: KeyRing | None = None) -> None:
        self.engine = engine
        self.settings = settings
        self.key_ring = key_ring
        rate = settings.observations_per_second
        self._server_bucket = TokenBucket(rate) if rate else None
        self.sockets: set[Revocable] = set()  # that are open, whoever's they are
        self._made = Caller if engine.tracing is None else TracedCaller
        self._tenant_shares: WeakValueDictionary[str, TenantShare] = (
            WeakValueDictionary()
        )  # by tenant; its keys share it
        self._anyone = self._made(engine, settings, usage=self._usage("", None))
        self._callers: dict[Key, Caller] = {}
        self.key_version = 0  # of the keys: what was found out about one before then is no longer good
        self._set_session_limits()

    def authenticate(self, authorization: bytes | None, tenant: str | None = None) -> Caller:
        """Who comes with this `Authorization`; `tenant` is where an admin wants to be let in.

        Raises
        ------
        Unauthorized, Forbidden
        """
        if self.key_ring is None:
            return self._anyone
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise Unauthorized("send an API key: Authorization: Bearer KEY")
        return self.authenticate_token(authorization[len(BEARER) :].strip(), tenant)

    def authenticate_token(self, token: bytes, tenant: str | None = None) -> Caller:
        """Who holds this token.

        Raises
        ------
        Unauthorized, Forbidden
        """
        key = self.key_ring.find(token) if self.key_ring is not None else None
        if key is None:
            raise Unauthorized("this is no key of this server, or no longer one")
        caller = self._callers.get(key)
        if caller is None:
            usage = self._usage(key.tenant, key)
            caller = self._callers[key] = self._made(self.engine, self.settings, key.tenant, key, usage)
        if tenant is None or tenant == key.tenant:
            return caller
        if key.role != "admin":
            raise Forbidden("only an admin's key enters another tenant", role="admin")
        if tenant and tenant != ALL_TENANTS and names.TENANT.fullmatch(tenant) is None:
            raise Forbidden("that is no tenant's name")
        return self._made(self.engine, self.settings, tenant, key, caller.usage)

    def _usage(self, tenant: str, key: Key | None) -> Usage:
        share = self._tenant_shares.get(tenant)
        if share is None:
            share = self._tenant_shares[tenant] = TenantShare(self.engine.fair_share, tenant)
        return Usage(self.settings, share, key, self._server_bucket, self.sockets)

    def refresh(self) -> None:
        """Take the keys as the file has them now; connections of keys that are gone are closed."""
        if self.key_ring is None:
            return
        try:
            if not self.key_ring.refresh():
                return
        except ConfigError as error:
            log.error("the keys stay as they were: %s", error)
            return
        self.key_version += 1
        good = set(self.key_ring)
        for key in self._callers.keys() - good:
            for socket in list(self._callers.pop(key).usage.sockets):
                socket.revoke()
        self._set_session_limits()
        log.info("keys read anew: %d", len(good))

    def _set_session_limits(self) -> None:
        """Tell the engine how many sessions each tenant may have: the most that one of its keys allows."""
        session_limits: dict[str, int] = {}
        for key in self.key_ring or ():
            most = key.limits.within(self.settings).sessions or 0
            session_limits[key.tenant] = max(session_limits.get(key.tenant, 0), most)
        self.engine.residents.session_limits = session_limits
