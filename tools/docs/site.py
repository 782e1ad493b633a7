"""What the strict build of the documentation site does not look at: `make docs` runs this behind the build.

Zensical refuses links and anchors that lead nowhere. It does not notice a page that is missing from the
navigation, a picture that is missing or has no alternative text, or something that a page would load from
another host.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tools.docs.pages import PAGES

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURE = re.compile(r"!\[(?P<alternative>[^\]]*)\]\((?P<path>[^)\s]+)\)")
SHORTEST_ALTERNATIVE = 10  # characters that say what a picture shows
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


def main() -> None:
    """Print every problem, and exit with status 1 if there are any."""
    found = [*navigation(ROOT), *pictures(ROOT), *outdated(ROOT), *foreign(ROOT / "site")]
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(1 if found else 0)


def navigation(root: Path) -> Iterator[str]:
    """Yield each page that the navigation lacks, and each entry that has no page."""
    project = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = list(entries(project["nav"]))
    pages = {page.relative_to(root / "docs").as_posix() for page in (root / "docs").rglob("*.md")}
    yield from (f"{page}: not in the navigation of zensical.toml" for page in sorted(pages - set(listed)))
    yield from (f"zensical.toml: there is no page {page}" for page in sorted(set(listed) - pages))
    yield from (
        f"zensical.toml: {page} is listed twice" for page in sorted(set(listed)) if listed.count(page) > 1
    )


def entries(nav: Any) -> Iterator[str]:
    """Yield the paths of a navigation, which is a path, a table of titles or a list of either."""
    if isinstance(nav, str):
        yield nav
    else:
        for below in nav.values() if isinstance(nav, dict) else nav:
            yield from entries(below)


def pictures(root: Path) -> Iterator[str]:
    """Yield each picture of README and the pages that is missing, or does not say what it shows."""
    for page in (root / "README.md", *sorted((root / "docs").rglob("*.md"))):
        name = page.relative_to(root)
        for picture in PICTURE.finditer(page.read_text(encoding="utf-8")):
            if not (page.parent / picture["path"]).is_file():
                yield f"{name}: there is no picture {picture['path']}"
            if len(picture["alternative"]) < SHORTEST_ALTERNATIVE:
                yield f"{name}: {picture['path']} needs a text that says what it shows"


def outdated(root: Path) -> Iterator[str]:
    """Yield each generated page that is not what the code says now."""
    for name, page in PAGES.items():
        path = root / "docs" / "reference" / name
        if not path.is_file() or path.read_text(encoding="utf-8") != page():
            yield f"{path.relative_to(root)}: not what the code says; run: make reference"


def foreign(site: Path) -> Iterator[str]:
    """Yield whatever a built page would load from another host."""
    for page in sorted(site.rglob("*.html")):
        loaded = _Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        yield from (f"{page.relative_to(site)}: loads {address}" for address in loaded.addresses)


class _Loaded(HTMLParser):
    """Collects what a page loads from an address with a host."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get(LOADING.get(tag, "")) or ""
        is_reference_only = tag == "link" and attributes.get("rel") in {"canonical", "next", "prev"}
        if re.match(r"(https?:)?//", address) and not is_reference_only:
            self.addresses.append(address)


if __name__ == "__main__":
    main()
