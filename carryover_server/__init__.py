"""The package that a wheel installs: `app` and `models` are inside it, so site-packages gets neither name.

In a clone they are beside it. Either way the program imports them as `app` and `models`, once `activate` has
said where they are.
"""

from __future__ import annotations

import sys
from pathlib import Path


def activate() -> None:
    """Make `app` and `models` importable, ahead of any other modules of these names."""
    here = Path(__file__).resolve().parent
    root = str(here if (here / "app").is_dir() else here.parent)
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)
