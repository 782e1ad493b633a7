"""`docs/reference/settings.md`: every setting, from `app/config.py`."""

from __future__ import annotations

from app.config import describe_settings
from tools.docs.markdown import table

INTRODUCTION = """# Settings

This page is written by `make reference` from `app/config.py`.

Every setting is an environment variable: `CARRYOVER_PORT=9000 make serve`. A variable whose name begins
with `CARRYOVER_` and is not in this table stops the server at start, so that a misspelt name is noticed. The
server reads its settings once, at start. An option of [`carryover serve`](cli.md#carryover-serve) wins over
its variable.
"""


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{setting.variable}`", setting.default, setting.description) for setting in describe_settings()
    ]
    return "\n".join([INTRODUCTION, *table(("variable", "default", "meaning"), rows)]).rstrip() + "\n"
