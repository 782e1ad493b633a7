"""Pin the base images by digest, where a registry can be reached: `python deploy/pin.py`.

Every `image:` of the compose files and the Kubernetes manifests, and the Dockerfile's, keeps its version and
gets the digest that the registry has for it now. Run it again after raising a version. Needs `docker buildx`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("Dockerfile", "compose*.yaml", "deploy/kubernetes/**/*.yaml")
IMAGE = re.compile(
    r"(?P<key>^ARG PYTHON=|^[ -]*image: )(?P<name>[\w./\-]+:[\w.\-]+)(?:@sha256:[0-9a-f]{64})?$", re.MULTILINE
)
OURS = "carryover"  # is built here, and in no registry


def main() -> int:
    """Write the digests. Returns the exit status."""
    for path in files():
        text = path.read_text(encoding="utf-8")
        try:
            path.write_text(pinned(text, digest), encoding="utf-8")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"{path.relative_to(ROOT)}: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            return 1
    return 0


def files() -> list[Path]:
    """Where base images are named."""
    return sorted(path for place in PLACES for path in ROOT.glob(place))


def pinned(text: str, digest_of: Callable[[str], str]) -> str:
    """The text with the digest behind each base image's version."""

    def with_digest(found: re.Match[str]) -> str:
        name = found["name"]
        return found[0] if name.startswith(f"{OURS}:") else f"{found['key']}{name}@{digest_of(name)}"

    return IMAGE.sub(with_digest, text)


def digest(name: str) -> str:
    """The digest of an image of all platforms, as its registry has it.

    Raises
    ------
    OSError, subprocess.CalledProcessError : there is no docker here, or no registry
    """
    command = ["docker", "buildx", "imagetools", "inspect", name, "--format", "{{.Manifest.Digest}}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
