"""Checks of a request's `Origin` and `Host`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from app.errors import Misdirected

TENANT_HEADER = "carryover-tenant"
HOST = re.compile(r"(?:\[([0-9a-f.:]+)\]|([^\[\]:]+))(?::[0-9]*)?", re.IGNORECASE)  # RFC 9110, section 7.2


def is_allowed_origin(origin: str | None, host: str | None, allowed: Iterable[str]) -> bool:
    """Whether a page of this origin may call a server addressed as `host`. Programs send no origin."""
    return origin is None or origin in allowed or origin.partition("://")[2] == host


def check_host(host: str | None, names: frozenset[str] | None) -> None:
    """Check that a request may address this server by this name. Browsers always send `Host`.

    Parameters
    ----------
    names : accepted names in lower case; IP addresses are accepted, too; None accepts any

    Raises
    ------
    Misdirected
    """
    if host is None or names is None:
        return
    match = HOST.fullmatch(host)
    name = (match[1] or match[2]).lower() if match is not None else ""
    if name in names:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise Misdirected(
            f"a server without keys accepts localhost and IP addresses as Host, not {host!r:.100}: "
            "see CARRYOVER_ALLOWED_HOSTS"
        ) from None
