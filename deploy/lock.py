"""Pin every package that the image installs by hash, and list their licences: `make lock`.

Writes `requirements.lock` by uv, for every platform, at the versions of `constraints.txt`; and
`docs/reference/licences.md` of what the metadata of the installed packages says. torch is left out, and
what it brings for CUDA: the image takes its wheel from an index of its own (TORCH_INDEX), with other hashes
than PyPI's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, files, metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, LICENCES = ROOT / "requirements.lock", ROOT / "docs" / "reference" / "licences.md"
EXTRAS = ("train", "grpc", "mqtt", "onnx", "redis", "traces")
OF_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)")
ELSEWHERE = {"colorama", "async-timeout", "setuptools"}  # of Windows, of an older Python, of building
INTRODUCTION = """\
# Licences

Carryover has the licence Apache-2.0 (file LICENSE). The folder app/dashboard/static/vendor has
JavaScript libraries for the web pages: uPlot (MIT) and Swagger UI (Apache-2.0). `make lock` wrote this
table from the metadata of the packages in the container image:

| package | version | licence |
|---|---|---|
"""
HEAD = """\
# Every package of the image but torch, at the versions that the tests ran with, by hash: `make lock`.
"""


def main() -> None:
    """Write both files."""
    left_out: set[str] = set()
    while True:
        locked = compiled(left_out)
        unwanted = {
            name for name in pinned(locked) if OF_TORCH.fullmatch(name) or name in ELSEWHERE
        } - left_out
        if not unwanted:
            break
        left_out |= unwanted
    LOCK.write_text(HEAD + locked, encoding="utf-8")
    LICENCES.write_text(licences(pinned(locked)), encoding="utf-8")
    print(f"{LOCK.name}: {len(pinned(locked))} packages")


def needs() -> list[str]:
    """What pyproject.toml lists, with the extras that a server may use; the client comes from its folder."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = project["dependencies"] + [need for name in EXTRAS for need in extras.get(name, ())]
    return [need for need in required if not need.startswith("carryover-client")]


def compiled(left_out: set[str]) -> str:
    """What uv makes of them."""
    words = (
        "pip compile - --quiet --generate-hashes --universal --no-annotate --no-header --python-version 3.11"
    )
    command = [sys.executable, "-m", "uv", *words.split(), "--constraint", "constraints.txt"]
    command += [part for name in sorted(left_out) for part in ("--no-emit-package", name)]
    done = subprocess.run(
        command, input="\n".join(needs()), capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout


def pinned(locked: str) -> dict[str, str]:
    """Versions by name."""
    return dict(re.findall(r"^([\w.\-]+)==([\w.+]+)", locked, re.M))


def licences(pins: dict[str, str]) -> str:
    """A table of what each package says of its licence."""
    rows = "\n".join(f"| {name} | {version} | {licence(name)} |" for name, version in sorted(pins.items()))
    torch = f"| torch | {metadata('torch')['Version'].partition('+')[0]} | {licence('torch')} |"
    return f"{INTRODUCTION}{rows}\n{torch}\n"


def licence(name: str) -> str:
    """An SPDX expression, or the classifiers', or the first line of its text."""
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    if fields["License-Expression"]:
        return fields["License-Expression"]
    classified = [
        one.rpartition(" :: ")[2] for one in fields.get_all("Classifier", []) if one.startswith("License ::")
    ]
    text = fields["License"] or _licence_file(name)
    return ", ".join(classified) or text.strip().splitlines()[0].strip().replace("|", "/")


def _licence_file(name: str) -> str:
    for file in files(name) or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE):
            return file.read_text()
    return "see its files"


if __name__ == "__main__":
    main()
