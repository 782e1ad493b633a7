"""The dashboard and the page of the API: what lies in `static/`, and two parts of others' making.

The chart is uPlot (https://github.com/leeoniya/uPlot, MIT), the page of the API is Swagger UI
(https://github.com/swagger-api/swagger-ui, Apache-2.0). A Python package carries each as published on npm;
only a script and a style are read from there, and only if they are the bytes known here.
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


@dataclass(frozen=True)
class Carried:
    """Files of another project that a Python package carries in a folder, by their SHA-256."""

    name: str
    package: str
    folder: str
    files: dict[str, str]

    def paths(self) -> Iterator[Path]:
        """Where they lie, each as it was published.

        Raises
        ------
        ConfigError
        """
        found = importlib.util.find_spec(self.package)  # its code is not run
        if found is None or not found.submodule_search_locations:
            raise ConfigError(f"{self.name} is missing: pip install {self.package.replace('_', '-')}")
        for name, digest in self.files.items():
            path = Path(found.submodule_search_locations[0]) / self.folder / name
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise ConfigError(f"{path} is not {self.name} as published: install {self.package} as pinned")
            yield path


CHART = Carried(  # uplot 1.6.31 on npm
    "uPlot",
    "youplot",
    "vendor",
    {
        "uplot.iife.min.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
        "uplot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    },
)
API_PAGE = Carried(  # swagger-ui-dist 5.32.6 on npm
    "Swagger UI",
    "fastapi_offline",
    "static",
    {
        "swagger-ui-bundle.js": "4b5a9b35a1adf37f00d39c0bae23cdb37007e2946240ef035137cc85b4d55349",
        "swagger-ui.css": "ca238f7d7c2cf4480c1e77a9c3b9da915ab216e96ffd354e69076560c650c6de",
    },
)


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
    """Every file by its name; the pages are `index.html` and `docs.html`.

    Raises
    ------
    ConfigError : files of another's making are not there, or not what they were when they were pinned
    """
    paths = [path for path in STATIC.iterdir() if path.suffix in MEDIA_TYPES]
    return {path.name: Asset.read(path) for path in [*paths, *CHART.paths(), *API_PAGE.paths()]}
