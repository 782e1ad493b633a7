"""What the tests of several stores use."""

from __future__ import annotations

import pytest

from app.stores.redis.connections import Link


@pytest.fixture
def waits(monkeypatch) -> list[Link]:
    """The links on which a call has waited in vain. None is tried again within the test, however slow."""
    found: list[Link] = []
    shun = Link._shun

    def counted(link: Link) -> None:
        shun(link)
        link._shunned_until += 1000
        found.append(link)

    monkeypatch.setattr(Link, "_shun", counted)
    return found
