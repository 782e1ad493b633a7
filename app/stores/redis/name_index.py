"""The names of all sessions, in order, by model: a page of them costs what the page holds.

Each model's names are a sorted set. In a cluster a session and its name are on different servers, so that
no script can write both. A name is added before its session is committed, and removed after the session is
gone. A name without a session is left out of a page, and removed a while later. A name that was lost with a
server is added again by the walk over all keys.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from app.stores.redis import values
from app.stores.redis.connections import Servers, all_keys
from app.stores.redis.scripting import ScriptResults, run_script
from app.stores.redis.scripts import (
    ADD_MODELS,
    ADD_NAMES,
    COUNTS,
    HEADS,
    MEMBERS,
    NAMES,
    NAMES_DOWN,
    REMOVE_NAMES,
    Script,
)

log = logging.getLogger("carryover.store")

STALE_SECONDS = 60.0  # a name that is older has no session that is just being committed
MAX_STALE = 10_000  # names without a session that are remembered
NAMES_PER_CALL = 500  # of one model


class NamesFailed(Exception):
    """The index could not be read; says why."""


class NameIndex:
    """The names of the sessions that these servers have."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._known_models: set[str] = set()  # that are in the set of models
        self._stale: dict[tuple[str, str], float] = {}  # (fingerprint, name) without a session: since when

    def add(self, names: Mapping[str, Sequence[str]]) -> None:
        """Add names, by fingerprint. What fails is done by the walk over all keys."""
        new = [fingerprint for fingerprint in names if fingerprint not in self._known_models]
        if new:
            added = run_script(self._servers, ADD_MODELS, [values.MODELS], [_encode(new)])
            if not added.failures:
                self._known_models.update(new)
        self._write(ADD_NAMES, _by_key(names))

    def repair(self, names: Mapping[str, Sequence[str]]) -> None:
        """Add names that the walk over all keys has found, and their models, where they were lost."""
        self._known_models.difference_update(names)
        self.add(names)

    def add_labels(self, names: Mapping[str, Sequence[str]]) -> None:
        """Add names, by label."""
        self._write(ADD_NAMES, {values.label_key(label): group for label, group in names.items()})

    def remove_labels(self, names: Mapping[str, Sequence[str]]) -> None:
        """Remove names, by label. What fails is left out of every page."""
        self._write(REMOVE_NAMES, {values.label_key(label): group for label, group in names.items()})

    def labelled(self, label: str, start: str, end: str, limit: int, *, descending: bool) -> list[str]:
        """The first `limit` names with this label between `start` and `end`, in this direction.

        Raises
        ------
        NamesFailed
        """
        bounds = [start.encode(), end.encode(), b"%d" % limit]
        script = NAMES_DOWN if descending else NAMES
        results = run_script(self._servers, script, [values.label_key(label)], bounds)
        _check(results)
        return [name.decode() for _, reply in results.replies for page in reply for name in page]

    def remove(self, names: Mapping[str, Sequence[str]]) -> None:
        """Remove names, by fingerprint. What fails is left out of every page."""
        self._write(REMOVE_NAMES, _by_key(names))

    def models(self) -> list[str]:
        """The fingerprints of all sessions, and maybe of others.

        Raises
        ------
        NamesFailed
        """
        results = run_script(self._servers, MEMBERS, [values.MODELS])
        _check(results)
        return [name.decode() for _, reply in results.replies for page in reply for name in page]

    def page(
        self, models: Sequence[str], start: str, end: str, limit: int, *, descending: bool
    ) -> dict[str, list[str]]:
        """The first `limit` names between `start` and `end`, in this direction: by name, its models.

        Raises
        ------
        NamesFailed
        """
        keys = [values.names_key(fingerprint) for fingerprint in models]
        bounds = [start.encode(), end.encode(), b"%d" % limit]
        script = NAMES_DOWN if descending else NAMES
        results = run_script(self._servers, script, keys, bounds * len(keys))
        _check(results)
        found: defaultdict[str, list[str]] = defaultdict(list)
        for indexes, reply in results.replies:
            for i, page in zip(indexes, reply, strict=True):
                for name in page:
                    found[name.decode()].append(models[i])
        return {name: found[name] for name in sorted(found, reverse=descending)[:limit]}

    def count(self) -> int:
        """How many names there are.

        Raises
        ------
        NamesFailed
        """
        keys = [values.names_key(fingerprint) for fingerprint in self.models()]
        results = run_script(self._servers, COUNTS, keys)
        _check(results)
        return sum(count for _, reply in results.replies for count in reply)

    def suspect(self, fingerprint: str, name: str) -> None:
        """This name has no session of this model, unless one is just being committed."""
        if len(self._stale) < MAX_STALE:
            self._stale.setdefault((fingerprint, name), time.monotonic())

    def remove_stale(self) -> None:
        """Remove suspected names that still have no session after a while."""
        before = time.monotonic() - STALE_SECONDS
        old = [entry for entry, since in self._stale.items() if since < before][:NAMES_PER_CALL]
        if not old:
            return
        results = run_script(self._servers, HEADS, [values.key(name) for _, name in old])
        gone: defaultdict[str, list[str]] = defaultdict(list)
        for indexes, reply in results.replies:
            for i, head in zip(indexes, reply, strict=True):
                fingerprint, name = old[i]
                session = values.peek(head)
                if session is None or session[0] != fingerprint:
                    gone[fingerprint].append(name)
                del self._stale[old[i]]
        self.remove(gone)

    def build(self) -> None:
        """Add the sessions of a version that kept no index, once.

        Raises
        ------
        RedisError, NamesFailed
        """
        (marker,) = self._servers.groups([values.INDEXED], [0])
        if marker.link.ask("EXISTS", values.INDEXED):
            return
        log.info("the names of all sessions are being listed: once, at the first start of this version")
        for link in self._servers.primaries():
            for keys in all_keys(link, values.key("*")):
                self._add_sessions([values.session_of(key) for key in keys])
        marker.link.ask("SET", values.INDEXED, 1)

    def _add_sessions(self, sessions: Sequence[str]) -> None:
        results = run_script(self._servers, HEADS, [values.key(session) for session in sessions])
        _check(results)
        names: defaultdict[str, list[str]] = defaultdict(list)
        for indexes, reply in results.replies:
            for i, head in zip(indexes, reply, strict=True):
                if (session := values.peek(head)) is not None:
                    names[session[0]].append(sessions[i])
        self.add(names)

    def _write(self, script: Script, names: Mapping[str, Sequence[str]]) -> None:
        calls = [
            (key, _encode(group[start : start + NAMES_PER_CALL]))
            for key, group in names.items()
            for start in range(0, len(group), NAMES_PER_CALL)
        ]
        if calls:
            run_script(self._servers, script, [key for key, _ in calls], [part for _, part in calls])


def _by_key(names: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {values.names_key(fingerprint): group for fingerprint, group in names.items()}


def _encode(names: Iterable[str]) -> bytes:
    return json.dumps(list(names)).encode()


def _check(results: ScriptResults) -> None:
    if results.failures:
        raise NamesFailed(next(iter(results.failures.values())))
