"""Session names: what clients call a session, and what the engine calls it.

A key owns a namespace, its tenant. Within the engine, the stores and the queue a session of tenant `acme` is
`acme/pump-7`; a client's id can hold no `/`, so no id, however it was made up, reaches another tenant's
session. Without keys there is one tenant, the nameless one, and both names are the same.
"""

from __future__ import annotations

import re

SEPARATOR = "/"
TENANT = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)


def prefix(tenant: str) -> str:
    """What the engine's names of this tenant's sessions begin with."""
    return f"{tenant}{SEPARATOR}" if tenant else ""


def tenant_of(name: str) -> str:
    """The tenant of one of the engine's names."""
    return name.rpartition(SEPARATOR)[0]


def shown(name: str) -> str:
    """What its own clients call a session: answers and errors name it so, never the engine's way."""
    return name.rpartition(SEPARATOR)[2]


def before(prefix: str) -> str:
    """A text that sorts before every id with this prefix, and behind every id that sorts before those."""
    return prefix and f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}\x7f"  # no id holds a character above `z`
