"""The folder of an artifact, whatever kind it is: its files are written whole and read within limits."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors.numpy
from safetensors import SafetensorError

from models.arrays import AnyArray
from models.errors import BadArtifact

MAX_JSON_BYTES = 2**22
FORMAT = "carryover-artifact"
NEWEST_VERSION = 3
FILES = ("weights.safetensors", "graph.onnx", "initial.safetensors", "model.json")


def write_folder(contents: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of an artifact, in this order; a new folder appears whole or not at all.

    In an existing folder the files are replaced one after the other (a mounted volume cannot be renamed).
    A reader in between gets an error, because the fingerprint does not match, and never a mixture.

    Raises
    ------
    BadArtifact
        If the folder holds other files and no artifact.
    """
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder if folder.exists() else folder.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=beside))
    try:
        temporary.chmod(0o755)
        for file, content in contents.items():
            _write(temporary / file, content)
        if not _becomes(temporary, folder):
            for file in contents:
                (temporary / file).replace(folder / file)
            for file in set(FILES) - set(contents):
                (folder / file).unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def artifact_folders(path: Path) -> list[Path]:
    """The artifact at this path, or those in the folder, by name.

    Hidden folders are left out: there an artifact is being written, or the write was killed.
    """
    if (path / "model.json").exists():
        return [path]
    return [found for found in sorted(path.glob("[!.]*")) if (found / "model.json").exists()]


def _becomes(temporary: Path, folder: Path) -> bool:
    """Rename a folder, unless there is one of that name, which others may have written meanwhile."""
    try:
        if not folder.exists():
            temporary.rename(folder)
            return True
    except OSError:
        if not folder.exists():
            raise
    return False


def check_folder(folder: Path) -> None:
    """Refuse to write an artifact where there is a file, a folder of other files, or nothing can be written.

    Raises
    ------
    BadArtifact
    """
    if folder.exists() and not folder.is_dir():
        raise BadArtifact(f"{folder} is not a folder")
    if folder.exists() and not (folder / "model.json").exists() and any(folder.iterdir()):
        raise BadArtifact(f"{folder} is not empty and holds no artifact: choose another folder")
    check_writable(folder)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be created, or written to, before the work whose result it is to hold.

    Raises
    ------
    BadArtifact
    """
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise BadArtifact(f"{path} cannot be written: {existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise BadArtifact(f"{path} cannot be written: there is no permission to write {existing}")


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a plain file of at most so many bytes.

    Raises
    ------
    BadArtifact
    """
    # Only a plain file is opened: a pipe would block, a device might never end.
    if not path.is_file():
        if not path.parent.exists():
            raise BadArtifact(f"there is no folder {path.parent}")
        raise BadArtifact(f"{path.name} is {'not a plain file' if path.exists() else 'missing'}")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise BadArtifact(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise BadArtifact(f"{path.name} is larger than the {most} bytes that it may have")
    return content


def read_tensors(path: Path, most: int) -> dict[str, AnyArray]:
    """Arrays by name, of a safetensors file of at most so many bytes.

    Raises
    ------
    BadArtifact
    """
    content = read_bounded(path, most)
    try:
        return dict(safetensors.numpy.load(content))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path.name} is damaged or truncated: {error}") from error


def read_description(path: Path) -> dict[str, Any]:
    """The document of a model.json, of a version that is known.

    Raises
    ------
    BadArtifact
    """
    try:
        description = json.loads(read_bounded(path, MAX_JSON_BYTES), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadArtifact):
            raise
        raise BadArtifact(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BadArtifact(f"{path.name} does not describe a {FORMAT}")
    if type(description.get("version")) is not int or not 1 <= description["version"] <= NEWEST_VERSION:
        version = str(description.get("version"))[:40]
        raise BadArtifact(f"version {version} is unknown; this program reads versions 1 to {NEWEST_VERSION}")
    return description


def _no_constant(word: str) -> NoReturn:
    raise BadArtifact(f"model.json holds {word}, which is not a number")
