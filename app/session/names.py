"""Session names: the id that clients use, and the name that the engine uses.

A key belongs to a tenant, which is a namespace. In the engine, the stores and the queue, session `pump-7` of
tenant `acme` is `acme/pump-7`. An id cannot hold a `/`, so no id reaches a session of another tenant. Without
keys there is one tenant with an empty name, and id and name are the same.
"""

from __future__ import annotations

import re

SEPARATOR = "/"
TENANT = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)


def prefix(tenant: str) -> str:
    """The prefix of the engine's names of this tenant's sessions."""
    return f"{tenant}{SEPARATOR}" if tenant else ""


def tenant_of(name: str) -> str:
    """The tenant of one of the engine's names."""
    return name.rpartition(SEPARATOR)[0]


def id_of(name: str) -> str:
    """The session's id, for answers and errors. They never show the engine's name."""
    return name.rpartition(SEPARATOR)[2]


def cursor_before(prefix: str) -> str:
    """A text that sorts before every id with this prefix, and after every id that sorts before those."""
    return prefix and f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}\x7f"  # no id holds a character above `z`


def name_range(after: str, prefix: str, *, descending: bool = False) -> tuple[str, str]:
    """The names behind `after` that begin with `prefix` sort behind the first text and before the second.

    Where the greatest name is first, those behind `after` sort before it. A list begins behind "".
    """
    first, last = cursor_before(prefix), f"{prefix}\x7f"
    if descending:
        return first, min(after, last) if after else last
    return max(after, first), last
