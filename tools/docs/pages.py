"""The pages of `docs/reference` that are written from the code, by name."""

from __future__ import annotations

from collections.abc import Callable

from tools.docs import api, cli, settings

PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "cli.md": cli.page,
    "settings.md": settings.page,
}
