"""The dashboard and the page of the API: the files in `static/`; `vendor/` has those of other projects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

STATIC = Path(__file__).parent / "static"
VENDOR = STATIC / "vendor"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    media_type: str
    etag: str  # RFC 9110, section 8.8.3: changes when the body does

    @classmethod
    def read(cls, path: Path) -> Asset:
        """The file at this path."""
        body = path.read_bytes()
        return cls(body, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def load_assets() -> dict[str, Asset]:
    """Every file by its name, without its folder; the pages are `index.html` and `docs.html`."""
    return {path.name: Asset.read(path) for path in STATIC.rglob("*") if path.suffix in MEDIA_TYPES}
