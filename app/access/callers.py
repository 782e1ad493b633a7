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
from app.access.quotas import Bucket, Quota, over
from app.config import Settings
from app.engine.engine import Engine
from app.engine.fair_share import Lane
from app.errors import CarryoverError, ConfigError, Forbidden, Overloaded, TooLarge, Unauthorized
from app.jobs.jobs import Advance, AdvanceMany, Export, Forecast, Fork, Inspect, Job, answer_to
from app.session import names

log = logging.getLogger("carryover.tenancy")

BEARER = b"bearer "
RANK: dict[Role, int] = {"monitor": 0, "read": 1, "stream": 2, "admin": 3}
LOOKS = (Inspect, Forecast, Export)  # jobs that move nothing
EVERY_TENANT = "*"


class Revocable(Protocol):
    """A connection that lasts, and ends when its key does."""

    def revoked(self) -> None:
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
        use: Use | None = None,
    ) -> None:
        self.engine = engine
        self.tenant = tenant
        self.key = key
        self.prefix = names.prefix(tenant)
        self.rank = RANK[key.role] if key is not None else RANK["admin"]
        self.use = use if use is not None else Use(settings, Lane(engine.lanes, tenant), key)
        self._streams = self.rank >= RANK["stream"] and tenant != EVERY_TENANT
        self.most_bytes = self.use.quota.body_bytes or settings.body_bytes

    def may(self, role: Role) -> None:
        """Nothing, for a caller of this role or a higher one.

        Raises
        ------
        Forbidden
        """
        if self.rank < RANK[role]:
            have = self.key.role if self.key is not None else "admin"
            raise Forbidden(f"this needs a key of the role {role}; this one's is {have}", role=role)

    @property
    def sees_everybody(self) -> bool:
        """Whether it may know what the server does as a whole, which tells one tenant about the others."""
        return self.key is None or self.key.role in {"monitor", "admin"}

    def submit(self, job: Job) -> None:
        """Queue a job under the engine's names; its `reply` is called exactly once.

        Raises
        ------
        Forbidden, OverLimit, TooLarge, Stopping, Overloaded : not queued, and `reply` is not called
        """
        use = self.use
        if not use.bounded:
            self.engine.submit(job)
            return
        if type(job) is Advance:  # nearly every job: the engine counts it out, with others of its wave
            if not self._streams:
                self._check_role(job)
            job.session = self.prefix + job.session
            use.check(job, 1)
            job.use = use
            self.engine.submit(job)
            use.in_flight += 1  # `accepted`, by one call less
            use.lane.enter(1)
        else:
            self._submit_other(job, use)

    def _submit_other(self, job: Job, use: Use) -> None:
        if self.key is not None:
            self._check_role(job)
            self._rename(job)
        count = len(job.sessions)
        use.check(job, count)
        reply = job.reply

        def answered(outcome: Any) -> None:
            use.answered(count)
            reply(outcome)

        job.reply = answered
        try:
            self.engine.submit(job)
        except CarryoverError:
            job.reply = reply
            raise
        use.accepted(count)

    async def ask(self, job: Job) -> Any:
        """Queue a job and wait for its answer.

        Raises
        ------
        CarryoverError : what the job was refused with
        """
        return await answer_to(self.submit, job)

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(id, model) of up to `limit` sessions behind `after` whose ids begin with `prefix`, in order.

        Raises
        ------
        Forbidden
        """
        self.may("read")
        if self.tenant == EVERY_TENANT:
            self.may("admin")
            return await self.engine.names(max(after, names.before(prefix)), limit, model, prefix)
        after = self.prefix + max(after, names.before(prefix))
        found = await self.engine.names(after, limit, model, self.prefix + prefix)
        return [(name[len(self.prefix) :], told) for name, told in found]

    def __len__(self) -> int:
        """How many sessions there are, as far as the caller may know."""
        sessions = self.engine.sessions
        if self.key is None or self.tenant == EVERY_TENANT:
            return len(sessions)
        return sessions.census[self.tenant]

    def name(self, session: str) -> str:
        """What the engine calls this session of the caller's."""
        return self.prefix + session

    def _check_role(self, job: Job) -> None:
        self.may("read" if type(job) in LOOKS else "stream" if job.sessions else "admin")
        if self.tenant == EVERY_TENANT and job.sessions:
            raise Forbidden("name one tenant: a session is one tenant's")

    def _rename(self, job: Job) -> None:
        prefix = self.prefix
        if not job.sessions:  # of a model, not of a session
            return
        if isinstance(job, AdvanceMany):
            job.sessions = job.sessions.under(prefix)
            return
        # A job with no session raises here: what cannot be named for its tenant is not passed on.
        job.session = prefix + job.session  # type: ignore[union-attr]
        if isinstance(job, Fork):
            job.into = prefix + job.into


class TracedCaller(Caller):
    """A caller whose jobs are followed by spans."""

    def submit(self, job: Job) -> None:
        """Queue a job; its span ends with its answer, or at once where it is refused."""
        tracing = self.engine.tracing
        if tracing is None:
            super().submit(job)
            return
        end = tracing.follow(job)
        try:
            super().submit(job)
        except CarryoverError as error:
            end(error)
            raise


class Use:
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
        lane: Lane,
        key: Key | None = None,
        server: Bucket | None = None,
        everybodys: set[Revocable] | None = None,
    ) -> None:
        self.lane = lane
        self.quota = key.limits.within(settings) if key is not None else Quota()
        self._most_in_flight = self.quota.in_flight or settings.queue_jobs
        self._longest_chunk = self.quota.chunk_observations or settings.chunk_observations
        self._most_sockets = settings.sockets
        self._everybodys = everybodys if everybodys is not None else set()
        self.whose = f"key {key.name!r}" if key is not None else "the server"
        rate = self.quota.observations_per_second
        self.bucket = Bucket(rate) if rate and key is not None else None
        self.server = server
        self.bounded = key is not None or server is not None
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
            raise over("in_flight", most, self.whose)
        if type(job) is Advance:
            self._take(len(job.observations), len(job.observations))
        elif type(job) is AdvanceMany:
            self._take(len(job.observations), int(job.lengths.max()))

    def accepted(self, count: int) -> None:
        """So many sessions' turns of it were queued."""
        self.in_flight += count
        self.lane.enter(count)

    def answered(self, count: int) -> None:
        """So many were answered."""
        self.in_flight -= count
        self.lane.leave(count)

    def check_socket(self) -> None:
        """Whether one socket more may be opened.

        Raises
        ------
        OverLimit, Overloaded
        """
        most = self.quota.sockets
        if most is not None and len(self.sockets) >= most:
            raise over("sockets", most, self.whose)
        if len(self._everybodys) >= self._most_sockets:
            raise Overloaded(
                f"{self._most_sockets} sockets are open already", quota="sockets", limit=self._most_sockets
            )

    def opened(self, socket: Revocable) -> None:
        """Count a socket in."""
        self.sockets.add(socket)
        self._everybodys.add(socket)

    def closed(self, socket: Revocable) -> None:
        """Count a socket out."""
        self.sockets.discard(socket)
        self._everybodys.discard(socket)

    def _take(self, count: int, longest: int) -> None:
        most = self._longest_chunk
        if longest > most:
            raise TooLarge(
                f"a chunk of {self.whose} has at most {most} observations, this one has {longest}",
                limit=most,
                quota="chunk_observations",
            )
        if self.bucket is not None and (seconds := self.bucket.take(count)):
            raise over("observations_per_second", self.bucket.rate, self.whose, seconds)
        if self.server is not None and self.server.take(count):
            raise Overloaded(
                f"the server takes at most {self.server.rate:g} observations a second",
                quota="observations_per_second",
                limit=self.server.rate,
            )


class Door:
    """Tells who is calling.

    Parameters
    ----------
    ring : the keys; None lets everybody in, as one tenant without a name
    """

    def __init__(self, engine: Engine, settings: Settings, ring: KeyRing | None = None) -> None:
        self.engine = engine
        self.settings = settings
        self.ring = ring
        rate = settings.observations_per_second
        self._server = Bucket(rate) if rate else None
        self.sockets: set[Revocable] = set()  # that are open, whoever's they are
        self._made = Caller if engine.tracing is None else TracedCaller
        self._lanes: WeakValueDictionary[str, Lane] = WeakValueDictionary()  # by tenant; its keys share it
        self._anyone = self._made(engine, settings, use=self._use("", None))
        self._callers: dict[Key, Caller] = {}
        self.changes = 0  # of the keys: what was found out about one before then is no longer good
        self._share()

    def caller(self, authorization: bytes | None, tenant: str | None = None) -> Caller:
        """Who comes with this `Authorization`; `tenant` is where an admin wants to be let in.

        Raises
        ------
        Unauthorized, Forbidden
        """
        if self.ring is None:
            return self._anyone
        if authorization is None or authorization[: len(BEARER)].lower() != BEARER:
            raise Unauthorized("send an API key: Authorization: Bearer KEY")
        return self.holder(authorization[len(BEARER) :].strip(), tenant)

    def holder(self, token: bytes, tenant: str | None = None) -> Caller:
        """Who holds this token.

        Raises
        ------
        Unauthorized, Forbidden
        """
        key = self.ring.find(token) if self.ring is not None else None
        if key is None:
            raise Unauthorized("this is no key of this server, or no longer one")
        caller = self._callers.get(key)
        if caller is None:
            use = self._use(key.tenant, key)
            caller = self._callers[key] = self._made(self.engine, self.settings, key.tenant, key, use)
        if tenant is None or tenant == key.tenant:
            return caller
        if key.role != "admin":
            raise Forbidden("only an admin's key enters another tenant", role="admin")
        if tenant and tenant != EVERY_TENANT and names.TENANT.fullmatch(tenant) is None:
            raise Forbidden("that is no tenant's name")
        return self._made(self.engine, self.settings, tenant, key, caller.use)

    def _use(self, tenant: str, key: Key | None) -> Use:
        lane = self._lanes.get(tenant)
        if lane is None:
            lane = self._lanes[tenant] = Lane(self.engine.lanes, tenant)
        return Use(self.settings, lane, key, self._server, self.sockets)

    def refresh(self) -> None:
        """Take the keys as the file has them now; connections of keys that are gone are closed."""
        if self.ring is None:
            return
        try:
            if not self.ring.refresh():
                return
        except ConfigError as error:
            log.error("the keys stay as they were: %s", error)
            return
        self.changes += 1
        good = set(self.ring)
        for key in self._callers.keys() - good:
            for socket in list(self._callers.pop(key).use.sockets):
                socket.revoked()
        self._share()
        log.info("keys read anew: %d", len(good))

    def _share(self) -> None:
        """Tell the engine how many sessions each tenant may have: the most that one of its keys allows."""
        shares: dict[str, int] = {}
        for key in self.ring or ():
            most = key.limits.within(self.settings).sessions or 0
            shares[key.tenant] = max(shares.get(key.tenant, 0), most)
        self.engine.sessions.shares = shares
