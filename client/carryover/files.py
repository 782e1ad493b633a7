"""Files that are written as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path


def replace_file(path: str | Path, content: bytes) -> None:
    """Write a file. Whatever interrupts it leaves the file that was there, and its permissions stay."""
    target = Path(path).resolve()  # a link stays a link
    if target.exists() and not target.is_file():
        target.write_bytes(content)  # a device or a pipe cannot be replaced
        return
    part = target.with_name(target.name + ".part")
    try:
        part.touch()
        if target.exists():
            shutil.copymode(target, part)
        part.write_bytes(content)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
