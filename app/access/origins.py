"""Which origins and hosts a request may name."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from app.errors import Misdirected

TENANT_HEADER = "carryover-tenant"
HOST = re.compile(r"(?:\[([0-9a-f.:]+)\]|([^\[\]:]+))(?::[0-9]*)?", re.IGNORECASE)  # RFC 9110, section 7.2


def is_allowed_origin(origin: str | None, host: str | None, allowed: Iterable[str]) -> bool:
    """Whether a page of this origin, or who is none, may call a server that was asked for as `host`."""
    return origin is None or origin in allowed or origin.partition("://")[2] == host


def check_host(host: str | None, names: frozenset[str] | None) -> None:
    """Nothing, for a request that may call this server so. One without a `Host` is no browser's.

    Raises
    ------
    Misdirected
    """
    if host is None or names is None:
        return
    told = HOST.fullmatch(host)
    name = (told[1] or told[2]).lower() if told is not None else ""
    if name in names:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Misdirected(
            f"without keys this server answers to localhost and to addresses, not to {host!r:.100}: "
            "see CARRYOVER_ALLOWED_HOSTS"
        ) from None
