"""The dashboard: a page, its style and scripts, as they lie in `static/`, and a chart of another's making.

The chart is uPlot (https://github.com/leeoniya/uPlot, MIT). The package `youplot` carries its release as
published on npm; only that script and its style are read from there, and only if they are the bytes known
here.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CHART_PACKAGE = "youplot"
CHART = {  # SHA-256 of what uPlot 1.6.31 has under dist/ on npm
    "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
    "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    media_type: str
    tag: str  # RFC 9110, section 8.8.3: changes when the body does

    @classmethod
    def read(cls, path: Path) -> Asset:
        """The file at this path."""
        body = path.read_bytes()
        return cls(body, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def assets() -> dict[str, Asset]:
    """Every file of the dashboard by its name, the page as `index.html`.

    Raises
    ------
    ConfigError : the chart's files are not there, or not what they were when they were pinned
    """
    paths = [path for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES]
    return {path.name: Asset.read(path) for path in [*paths, *_chart()]}


def _chart() -> Iterator[Path]:
    found = importlib.util.find_spec(CHART_PACKAGE)  # its code is not run
    for place in (found.submodule_search_locations or []) if found is not None else []:
        for name, digest in CHART.items():
            path = Path(place) / "vendor" / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ConfigError(f"{path} is not uPlot as published: install {CHART_PACKAGE} as pinned")
            yield path
        return
    raise ConfigError(f"the dashboard's chart is missing: pip install {CHART_PACKAGE}")
