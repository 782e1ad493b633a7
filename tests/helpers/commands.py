"""Commands as people type them."""

from __future__ import annotations

import asyncio
from typing import Any

from app.cli import run


async def ran(service: Any, *arguments: object) -> int:
    """Run a command against the service, off its event loop; returns its exit status."""
    url = ["--url", f"http://127.0.0.1:{service.port}"]
    return await asyncio.to_thread(run, [*map(str, arguments), *url])
