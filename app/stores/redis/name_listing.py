"""Which model lists each session that this replica holds, and the pages of names that have a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.stores import Block, Conflicts, NamePage, NamesQuery
from app.stores.redis.name_index import NameIndex, NamesFailed
from app.stores.redis.session_keys import SessionKeys


class NameListing:
    """Keeps the index of names in step with the sessions of this replica."""

    def __init__(self, index: NameIndex, keys: SessionKeys) -> None:
        self._index = index
        self._keys = keys
        self._models: dict[str, str] = {}  # the fingerprint that lists each session loaded or committed last

    def note(self, session: str, fingerprint: str) -> None:
        """Remember the model of a session that was loaded."""
        self._models[session] = fingerprint

    def forget(self, session: str) -> None:
        self._models.pop(session, None)

    def add(self, blocks: Sequence[Block]) -> dict[str, list[str]]:
        """List the sessions that are new or have moved to another model: before they are committed.

        Returns the names to remove after that, by the model that listed them before.
        """
        new: dict[str, list[str]] = {}
        moved: dict[str, list[str]] = {}
        for block in blocks:
            models, fingerprint = self._models, block.fingerprint
            if set(map(models.get, block.sessions)) == {fingerprint}:
                continue
            for session in block.sessions:
                before = models.get(session)
                if before == fingerprint:
                    continue
                new.setdefault(fingerprint, []).append(session)
                if before is not None:
                    moved.setdefault(before, []).append(session)
        if new:
            self._index.add(new)
            for fingerprint, sessions in new.items():
                self._models.update(dict.fromkeys(sessions, fingerprint))
        return moved

    def remove(self, moved: dict[str, list[str]], gone: Sequence[str], lost: Conflicts) -> None:
        """Remove the names of sessions that are gone or have moved: after that was committed."""
        for session in gone:
            if session not in lost and (fingerprint := self._models.pop(session, None)) is not None:
                moved.setdefault(fingerprint, []).append(session)
        names = {model: [name for name in group if name not in lost] for model, group in moved.items()}
        if names:
            self._index.remove(names)

    def page(self, query: NamesQuery) -> NamePage:
        """See `Store.names`.

        Raises
        ------
        StoreFailed
        """
        found: list[tuple[str, str]] = []
        try:
            models = list(filter(query.fingerprint_filter, self._index.models()))
            rest = query
            while models and rest.limit:
                page = self._index.page(models, *rest.span, rest.limit, descending=query.descending)
                if not page:
                    break
                found += sorted(self._with_sessions(page, models), reverse=query.descending)
                rest = replace(query, after=next(reversed(page)), limit=query.limit - len(found))
        except NamesFailed as error:
            raise self._keys.failed(str(error)) from error
        return NamePage.of(found, query.limit, None)

    def _with_sessions(
        self, page: Mapping[str, Sequence[str]], models: Sequence[str]
    ) -> list[tuple[str, str]]:
        """Of these names, each with the models that list it, those that have a session, and its model."""
        found = []
        for session, seen in self._keys.peek(list(page)):
            fingerprint = seen[0] if seen else ""
            if fingerprint in models:
                found.append((session, fingerprint))
            for listed in page[session]:
                if listed != fingerprint:
                    self._index.suspect(listed, session)
        return found
