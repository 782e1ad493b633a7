"""Writes the pages of `docs/reference` that are made from the code: `make reference`."""

from __future__ import annotations

from pathlib import Path

from tools.docs.pages import PAGES

REFERENCE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference"


def main() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
