"""Every session there is: which slab and row it has, and what comes in from the store or leaves for it.

Reading here is free; every change is either one that no client can see (a session that moves between
slab and store) or is first staged in a `Wave`.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Literal

import numpy as np

from app.config import Settings
from app.engine import exactly_once, extra_outputs
from app.engine.inputs import check_asked
from app.engine.wave import Late, Wave, touch
from app.engine.withdraw import resting, withdraw
from app.errors import (
    CarryoverError,
    OtherModel,
    OverLimit,
    StoreFailed,
    TooManySessions,
    UnknownModel,
    Unprocessable,
)
from app.jobs.answers import SessionView
from app.jobs.jobs import AdvanceMany, Job
from app.jobs.session_list import Names
from app.observability.metrics import Metrics
from app.session.names import shown, tenant_of
from app.session.rows import Floats, Ints, Rows, pack, scalar, unpack
from app.session.slab import Slab
from app.stores import NONE_LOST, Block, Lost, Record, SharedStore, Store, Tombstone
from models.errors import BadArtifact
from models.forecaster import KIND, Forecaster

log = logging.getLogger("carryover.engine")

NEVER = float("inf")
NOBODY: frozenset[str] = frozenset()
SLAB_BYTES = 2**36  # of address space: a covariance a session must not ask for more than there is
CENSUS_PAGE = 10_000
SHARE_SECONDS = 60  # after which a tenant that has its share of sessions may ask again

CallStore = Callable[..., Awaitable[Any]]


class Sessions:
    """The slabs, one a model, over the store.

    Parameters
    ----------
    forecasters : the models, one a name; the first is the default unless settings name one
    store : where sessions rest that are not resident
    older : networks that sessions may still run on, and no new one gets
    call : how to call the store: at once, or from a thread
    metrics : where it counts what happens

    Raises
    ------
    UnknownModel : the default is not among them
    """

    def __init__(
        self,
        forecasters: Sequence[Forecaster],
        store: Store,
        settings: Settings,
        call: CallStore,
        older: Sequence[Forecaster] = (),
        metrics: Metrics | None = None,
    ) -> None:
        self.store = store
        self.shared = store if isinstance(store, SharedStore) else None
        self.settings = settings
        self.slabs: dict[str, Slab] = {}  # by fingerprint
        self.current: dict[str, Slab] = {}  # by model name
        self.metrics = metrics or Metrics()
        self.census: Counter[str] = Counter()  # sessions of each tenant, those about to be born, too
        self.shares: Mapping[
            str, int
        ] = {}  # the most that a tenant may have, where that is less than we have
        self._call = call
        for forecaster in forecasters:
            self.adopt(forecaster)
        for forecaster in older:
            self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        self.default_model = settings.default_model or next(iter(self.current))
        self.slab_of(self.default_model)

    def __len__(self) -> int:
        return len(self.store) if self.store.writes_through else len(self.store) + self.resident

    @property
    def resident(self) -> int:
        return sum(map(len, self.slabs.values()))

    def slab_of(self, model: str | None) -> Slab:
        """The slab that new sessions of this model go to.

        Raises
        ------
        UnknownModel
        """
        name = model if model is not None else self.default_model
        try:
            return self.current[name]
        except KeyError:
            known = sorted(self.current)
            raise UnknownModel(
                f"there is no model {name!r}; there are: {', '.join(known)}", models=known
            ) from None

    def adopt(self, forecaster: Forecaster) -> bool:
        """Give new sessions this network; those under way keep theirs until they are reset.

        Returns whether it is another network than the one before.
        """
        artifact = forecaster.artifact
        before = self.current.get(artifact.name)
        slab = self.slabs.get(forecaster.fingerprint)
        if slab is None:
            slab = self.slabs[forecaster.fingerprint] = self._slab(forecaster)
        self.current[artifact.name] = slab
        return slab is not before

    def retire(self, model: str) -> None:
        """Give no new session a network of this name; those under way keep theirs.

        Raises
        ------
        UnknownModel
        """
        self.slab_of(model)
        del self.current[model]

    def newest(
        self, session: str, slab: Slab, row: int, wave: Wave, staying: Iterable[str]
    ) -> tuple[Slab, int]:
        """Slab and row of a session that starts anew: of an older network nothing is needed any more."""
        newest = self.successor(slab)
        if newest is slab:
            return slab, row
        before = slab.headers[row].copy()
        carries = newest.forecaster.welcomed(slab.forecaster, slab.carries[row : row + 1])
        wave.leaving[session] = slab
        row = self.born(session, newest, None, wave, staying)
        for name in ("position", "epoch", "created", "ttl"):
            newest.headers[name][row] = before[name]
        newest.carries[row] = carries[0]
        return newest, row

    def successor(self, slab: Slab) -> Slab:
        """The slab of the newest network of this name, for sessions that learn as those of `slab` do."""
        newest = self.current.get(slab.forecaster.artifact.name, slab)
        kind = slab.forecaster.learning.kind
        if newest.forecaster.artifact.fingerprint == slab.forecaster.artifact.fingerprint:
            return slab
        if slab.forecaster.artifact.learning.kind == kind:
            return newest  # they never chose: the newest network's own way is theirs
        try:
            return self._of_kind(newest, kind)
        except BadArtifact:  # it cannot learn so
            return newest

    def chosen(
        self, model: str | None, learning: Mapping[str, Any], level: float | None
    ) -> tuple[Slab, Floats]:
        """The slab of a new session that chooses how it learns, and its carry, [carry_size].

        Parameters
        ----------
        learning : arguments of `Learning.chosen`
        level : of the intervals that it wants with every chunk; it keeps some, then

        Raises
        ------
        UnknownModel
        Unprocessable : its model cannot learn so, or keeps no intervals of that level
        """
        slab = self.slab_of(model)
        try:
            wanted = {"intervals": True} if level is not None else {}
            chosen = slab.forecaster.artifact.learning.chosen(**{**wanted, **learning})
            slab = self._of_kind(slab, chosen.kind)
        except BadArtifact as error:
            raise Unprocessable(str(error), field="learning") from None
        if level is not None:
            check_asked(level, slab.forecaster)
        carry = slab.forecaster.beginning(chosen)
        if level is not None:
            slab.forecaster.level(carry[None])[:] = level
        return slab, carry

    def _of_kind(self, slab: Slab, kind: str) -> Slab:
        """The slab of the same artifact's sessions that learn so.

        Raises
        ------
        BadArtifact : they cannot
        """
        for known in self.of(slab):
            if known.forecaster.learning.kind == kind:
                return known
        forecaster = slab.forecaster.of_kind(kind)
        self.slabs[forecaster.fingerprint] = made = self._slab(forecaster)
        return made

    def of(self, slab: Slab) -> list[Slab]:
        """The slabs of the same artifact, one for each kind of learning, this among them."""
        artifact = slab.forecaster.artifact.fingerprint
        return [one for one in self.slabs.values() if one.forecaster.artifact.fingerprint == artifact]

    def older(self, model: str) -> list[Slab]:
        """The slabs of networks that had this name before, with sessions that still run on them."""
        return [
            slab
            for slab in list(self.slabs.values())  # its successor may be a new one
            if slab.forecaster.artifact.name == model and self.successor(slab) is not slab
        ]

    def outdated(self) -> list[Slab]:
        """The slabs of networks that a newer one of the same name has replaced."""
        return [slab for name in self.current for slab in self.older(name)]

    def slab_by(self, fingerprint: str) -> Slab:
        """The slab of the model that a state belongs to.

        Raises
        ------
        OtherModel
        """
        slab = self._known(fingerprint)
        if slab is None:
            raise OtherModel(
                f"the state belongs to model {fingerprint[:12]}, which is not loaded", fingerprint=fingerprint
            )
        return slab

    def _known(self, fingerprint: str) -> Slab | None:
        """The slab of what a carry belongs to, if its artifact is loaded."""
        artifact, _, kind = fingerprint.partition(KIND)
        if fingerprint in self.slabs or artifact not in self.slabs:
            return self.slabs.get(fingerprint)
        try:
            return self._of_kind(self.slabs[artifact], kind)
        except BadArtifact:
            return None

    def find(self, session: str) -> tuple[Slab, int] | None:
        """Slab and row of a resident session."""
        for slab in self.slabs.values():
            row = slab.index.get(session)
            if row is not None:
                return slab, row
        return None

    def together(self, job: AdvanceMany, now: float) -> tuple[Slab, Ints] | None:
        """Slab and rows of the job's sessions, all resident in one, of its model and not expired; or None."""
        found = self.find(job.sessions[0])
        if found is None:
            return None
        slab = found[0]
        if job.model is not None and job.model != slab.forecaster.artifact.name:
            return None
        try:
            rows = job.sessions.rows(slab.index, slab.edition)
        except KeyError:
            return None
        return None if slab.deadline(rows) < now else (slab, rows)

    def here(
        self, session: str, wave: Wave, at: int | None = None, epoch: int | None = None
    ) -> tuple[Slab, int]:
        """Slab and row of a session that must be there, in step with the client.

        Raises
        ------
        UnknownSession, SessionGone, OutOfStep
        Late : it has expired and must be buried first
        """
        found = self.find(session)
        if found is None:
            raise exactly_once.absent(session, wave.tombstones.get(session))
        slab, row = found
        if slab.headers["deadline"][row] < wave.now:
            raise Late
        position = scalar(slab.headers, "position", row)
        exactly_once.check_epoch(session, scalar(slab.headers, "epoch", row), epoch, position)
        exactly_once.check_at(session, position, at)
        return slab, row

    async def bring_in(self, jobs: Iterable[Job], sessions: Names, wave: Wave) -> None:
        """Give every session of the wave that rests in the store a row; fetch the tombstones of the gone."""
        absent = sessions
        for job in jobs:
            if type(job) is AdvanceMany and (found := self.together(job, wave.now)) is not None:
                wave.together[id(job)] = found  # they stay, however many come in
                named = job.sessions.once
                absent = absent - named if absent is not named else NOBODY
        for slab in self.slabs.values():
            absent = absent.difference(slab.index)  # for a dict, a look-up for each session of the wave
        if not absent:
            return
        wave.fetched = absent
        records, wave.tombstones = await self._call(self.store.load, absent)
        by_model: dict[str, list[Record]] = {}
        for record in records:
            by_model.setdefault(record.fingerprint, []).append(record)
        for fingerprint, some in by_model.items():
            known = self._known(fingerprint)
            if known is not None:
                self._restore(known, some, sessions)
            else:
                wave.tombstones |= {record.session: _not_loaded(record) for record in some}

    def make_room(self, slab: Slab, count: int, staying: Iterable[str]) -> None:
        """See to free rows. Who has to leave goes to the store, and is none of those who stay."""
        if slab.room >= count:
            return
        rows = [row for session in staying if (row := slab.index.get(session)) is not None]
        slab.pin(rows)
        leaving = slab.least_used(count - slab.room + slab.capacity // 256)
        slab.release(rows)
        if not self.store.writes_through:
            self.store.commit([block(slab, leaving, slab.read(slab.rows_of(leaving)))], [])
        if self.shared is not None:
            self.shared.forget(leaving)
        self.metrics.evicted += len(leaving)
        for session in leaving:
            slab.remove(session)

    def born(
        self, session: str, slab: Slab, ttl_seconds: float | None, wave: Wave, staying: Iterable[str]
    ) -> int:
        """A row for a new session, to be published with the wave.

        Raises
        ------
        TooManySessions
        """
        return int(self.born_many((session,), slab, ttl_seconds, wave, staying)[0])

    def born_many(
        self,
        sessions: Sequence[str],
        slab: Slab,
        ttl_seconds: float | None,
        wave: Wave,
        staying: Iterable[str],
    ) -> Ints:
        """Rows for new sessions, to be published with the wave.

        Raises
        ------
        TooManySessions, OverLimit
        SessionDamaged, StoreFailed : one of them is there, and cannot be read
        """
        for session in sessions if wave.tombstones else ():
            if isinstance(why := wave.tombstones.get(session), CarryoverError):
                raise why
        self._check_room(sessions, wave)
        self.make_room(slab, len(sessions), staying)
        rows = np.array([slab.take() for _ in sessions])
        self.census.update(map(tenant_of, sessions))
        headers = np.zeros(len(rows), slab.headers.dtype)
        # Zero stands for no epoch where clients claim one.
        headers["epoch"] = np.frombuffer(secrets.token_bytes(8 * len(rows)), np.uint64) | 1
        headers["created"] = wave.now
        headers["ttl"] = ttl_seconds if ttl_seconds is not None else self.settings.ttl_seconds
        touch(headers, wave.now)
        slab.headers[rows] = headers
        wave.born.update(zip(sessions, zip(repeat(slab), rows.tolist()), strict=False))
        return rows

    def _check_room(self, sessions: Sequence[str], wave: Wave) -> None:
        """Refuse more than the server keeps, or than the share of the one tenant whose they all are."""
        coming = len(sessions)
        if wave.leaving:  # who takes the place of one that is there is no one more
            coming -= len(wave.leaving.keys() & set(sessions))
        if coming and len(self) + len(wave.born) + coming > self.settings.max_sessions:
            raise TooManySessions(f"the server keeps at most {self.settings.max_sessions} sessions")
        tenant = tenant_of(sessions[0])
        most = self.shares.get(tenant)
        if most is not None and coming and self.census[tenant] + coming > most:
            raise OverLimit(
                f"this key may have at most {most} sessions", SHARE_SECONDS, quota="sessions", limit=most
            )

    def bury(
        self, session: str, slab: Slab, row: int, why: Literal["expired", "deleted"], wave: Wave
    ) -> None:
        position = scalar(slab.headers, "position", row)
        wave.buried.append((slab, Tombstone(session, position, why, wave.now)))

    async def commit(self, wave: Wave, touched: Collection[str]) -> None:
        """Tell the store of the wave: the only point of no return.

        Where other replicas write to the store, too, a session that one of them has moved on leaves the wave.

        Raises
        ------
        StoreFailed : nothing was kept, or in a store that is shared: nobody knows what was
        """
        if self.shared is None:
            await self._commit(wave)
            return
        try:
            await self._confirm(resting(wave, touched), wave)
            self._withdraw(await self._commit(wave), wave)
        except StoreFailed:
            self._drop(touched)
            raise

    async def _confirm(self, sessions: Collection[str], wave: Wave) -> None:
        """What is answered without a commit is answered of rows that are still what the store has."""
        doubtful = [session for session in sessions if self.find(session) is not None]
        if doubtful and self.shared is not None:
            self._withdraw(await self._call(self.shared.confirm, doubtful), wave)

    def _withdraw(self, lost: Lost, wave: Wave) -> None:
        if lost:
            ahead = sum(why is None for why in lost.values())
            log.warning("%d sessions were moved on by another replica: they are loaded again", ahead)
            self.metrics.fenced += ahead
            withdraw(wave, lost)
            self._drop(lost)

    def _drop(self, sessions: Collection[str]) -> None:
        """These are not what the store has, or may not be: whoever asks next loads them."""
        for session in sessions:
            found = self.find(session)
            if found is not None:
                found[0].remove(session)
        if self.shared is not None:
            self.shared.forget(sessions)

    async def _commit(self, wave: Wave) -> Lost:
        tombstones = [tombstone for _, tombstone in wave.buried]
        kept: list[Block] = []
        if self.store.writes_through:
            kept = [block(staged.slab, staged.sessions, staged.after) for staged in wave.staged]
        if kept and tombstones:  # a last chunk is staged, too
            gone = {tombstone.session for tombstone in tombstones}
            kept = [rest for one in kept if (rest := one.without(gone))]
        if not kept and not tombstones:
            return NONE_LOST
        self.metrics.stored_bytes += sum(sum(map(len, one.bodies)) for one in kept)
        lost: Lost = await self._call(self.store.commit, kept, tombstones)
        return lost

    def publish(self, wave: Wave) -> None:
        """Make the wave resident. Called only when its commit has succeeded; nothing in here can fail."""
        for staged in wave.staged:
            staged.slab.write(staged.rows, staged.after)
            if wave.born:
                for session in staged.sessions:
                    if session in wave.born:
                        self._publish_born(session, wave)
        for slab, tombstone in wave.buried:
            slab.remove(tombstone.session)
            self.census[tenant_of(tombstone.session)] -= 1
            if tombstone.why == "deleted":
                self.metrics.deleted += 1
            else:
                self.metrics.expired += 1

    def _publish_born(self, session: str, wave: Wave) -> None:
        slab, row = wave.born.pop(session)
        if session in wave.leaving:  # who takes its place is the same session
            wave.leaving.pop(session).remove(session)
            self.census[tenant_of(session)] -= 1
        else:
            self.metrics.created += 1
        slab.publish(session, row)

    async def take_census(self) -> None:
        """Count the sessions of each tenant that the store has kept: once, before the first tick."""
        after = ""
        while names := await self._call(self.store.names, after, CENSUS_PAGE):
            self.census.update(tenant_of(name) for name, _ in names)
            after = names[-1][0]

    def abandon(self, wave: Wave) -> None:
        """Give back the rows of sessions that were not born after all."""
        for session, (slab, row) in wave.born.items():
            slab.give_back(row)
            self.census[tenant_of(session)] -= 1
        wave.born.clear()
        if self.shared is not None and wave.fetched:
            self.shared.forget([session for session in wave.fetched if self.find(session) is None])

    def view(self, session: str, slab: Slab, rows: Rows) -> SessionView:
        """The session at the front of `rows` as people see it."""
        header = dict(zip(rows.headers.dtype.names or (), rows.headers[0].tolist(), strict=True))
        artifact = slab.forecaster.artifact
        return SessionView(
            session=session,
            model=artifact.name,
            fingerprint=artifact.fingerprint,
            learning=slab.forecaster.learns(rows.carries[0]),
            level=extra_outputs.chosen(rows.carries[0], slab.forecaster),
            errors=slab.forecaster.errors(rows.carries[:1]) if slab.forecaster.learning.judges else None,
            position=header["position"],
            epoch=header["epoch"],
            since_reset=header["since_reset"],
            last_prediction=slab.forecaster.latest(rows.carries)[0] if header["since_reset"] else None,
            created=header["created"],
            seen=header["seen"],
            expires=header["deadline"] if header["deadline"] != NEVER else None,
            ttl_seconds=header["ttl"] if header["ttl"] != NEVER else None,
        )

    async def names(
        self, after: str, limit: int, model: str | None = None, prefix: str = ""
    ) -> list[tuple[str, str]]:
        """(name, model) of up to `limit` sessions behind `after` that begin with `prefix`, in order."""
        found: list[tuple[str, str]] = []
        while len(found) < limit:
            page = await self._page(after, limit)
            mine = [(session, name) for session, name in page if session.startswith(prefix)]
            found += [(session, name) for session, name in mine if model is None or name == model]
            if len(page) < limit or len(mine) < len(page):
                break
            after = page[-1][0]
        return found[:limit]

    async def _page(self, after: str, limit: int) -> list[tuple[str, str]]:
        stored = await self._call(self.store.names, after, limit)
        found = [(session, self._model_by(print_)) for session, print_ in stored]
        if not self.store.writes_through:
            for slab in self.slabs.values():
                resident = zip(slab.names.irange(after, inclusive=(False, True)), range(limit), strict=False)
                found += [(session, slab.forecaster.artifact.name) for session, _ in resident]
        return sorted(found)[:limit]

    def _model_by(self, fingerprint: str) -> str:
        slab = self.slabs.get(fingerprint.partition(KIND)[0])
        return slab.forecaster.artifact.name if slab is not None else f"not loaded: {fingerprint[:12]}"

    def _slab(self, forecaster: Forecaster) -> Slab:
        fitting = max(2 * self.settings.wave_sessions, SLAB_BYTES // (4 * forecaster.carry_size))
        return Slab(forecaster, min(self.settings.resident_sessions, fitting), self.settings.recent_chunks)

    def _restore(self, slab: Slab, some: Sequence[Record], staying: Iterable[str]) -> None:
        self.make_room(slab, len(some), staying)
        values = unpack([record.body for record in some], slab.recent_chunks, slab.forecaster)
        self.metrics.restored += len(some)
        rows = np.array([slab.take() for _ in some])
        slab.write(rows, values)
        for record, row in zip(some, rows.tolist(), strict=True):
            slab.publish(record.session, row)


def block(slab: Slab, sessions: Sequence[str], rows: Rows) -> Block:
    """What the store keeps of these sessions."""
    positions, deadlines = rows.headers["position"].tolist(), rows.headers["deadline"].tolist()
    return Block(slab.forecaster.fingerprint, sessions, positions, deadlines, pack(rows))


def _not_loaded(record: Record) -> StoreFailed:
    return StoreFailed(
        f"session {shown(record.session)!r} belongs to model {record.fingerprint[:12]}, which is not loaded",
        fingerprint=record.fingerprint,
    )
