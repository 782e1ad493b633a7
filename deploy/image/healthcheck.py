"""Whether the server in this container is ready: exit status 0 or 1. What HEALTHCHECK runs."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

TIMEOUT_SECONDS = 2


def address(environment: Mapping[str, str]) -> str:
    """Where to ask the server that was started with this environment."""
    port = environment.get("CARRYOVER_PORT", "").strip()
    scheme = "https" if environment.get("CARRYOVER_TLS_CERTIFICATE") else "http"
    # Docker may put the address of another service into CARRYOVER_PORT, which the server ignores, too.
    return f"{scheme}://127.0.0.1:{port if port.isdecimal() else 8000}/health/ready"


def ready(url: str) -> bool:
    """Ask; the certificate is the public name's, so it is not checked against the loopback address."""
    context = ssl._create_unverified_context() if url.startswith("https:") else None
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context) as answer:
            return bool(answer.status == 200)
    except OSError as error:
        print(error, file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(not ready(address(os.environ)))
