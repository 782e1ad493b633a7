"""API keys: the file that holds them, and the lookup of a token.

A token is 256 random bits, so the file holds only its SHA-256. There is no password to guess, and nobody can
log in with what the file holds. An incoming token is hashed and looked up by its digest, and never compared
with other tokens. The time of the lookup depends on the digest, which nobody can choose. So it reveals
nothing about a token.

The file is JSON, written by `carryover keys add`, and read again when it changes:

    {"keys": [{"name": "pump-house", "tenant": "acme", "role": "stream", "sha256": "9f86d0...",
               "created": "2026-11-23T21:00:00Z", "limits": {"sessions": 1000}}]}
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from app.access.quotas import Quota
from app.errors import ConfigError
from app.session.names import TENANT

Role = Literal["monitor", "read", "stream", "admin"]
NAME = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)
TOKEN_PREFIX = "cyo_"
MAX_TOKEN_BYTES = 256


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One key of the file.

    tenant : owner of the key's sessions; several keys may have the same tenant, to be replaced one by one
    role : `read` inspects and forecasts; `stream` does all that a client does; `admin` also reloads models
        and enters every tenant; `monitor` reads /metrics and nothing else
    """

    name: Annotated[str, msgspec.Meta(pattern=rf"^{NAME.pattern}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    tenant: Annotated[str, msgspec.Meta(pattern=rf"^{TENANT.pattern}\Z")]
    role: Role = "stream"
    created: str = ""
    limits: Quota = Quota()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


class KeyRing:
    """The keys of a file.

    Raises
    ------
    ConfigError : the file is missing or invalid
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[bytes, Key] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the file if it changed. Returns whether it was read.

        Raises
        ------
        ConfigError : the keys are unchanged, and the same file is not read again
        """
        seen = _stamp(self.path)
        if seen is not None and seen == self._seen:
            return False
        self._seen = seen
        self._keys = {bytes.fromhex(key.sha256): key for key in read(self.path)}
        return True

    def find(self, token: bytes) -> Key | None:
        """The key of this token; None if there is none."""
        if len(token) > MAX_TOKEN_BYTES:
            return None
        return self._keys.get(hashlib.sha256(token).digest())

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())


def generate_key(
    name: str,
    tenant: str | None = None,
    role: Role = "stream",
    created: str = "",
    limits: Quota | None = None,
) -> tuple[Key, str]:
    """Generate a new key and its token, which is stored nowhere.

    Raises
    ------
    ConfigError : an invalid name or tenant
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    tenant = name if tenant is None else tenant
    for what, text in (("key", name), ("tenant", tenant)):
        if NAME.fullmatch(text) is None:
            raise ConfigError(f"{text!r:.80} is no name of a {what}: 1 to 64 characters of A-Z a-z 0-9 . _ -")
    digest = hashlib.sha256(token.encode()).hexdigest()
    key = Key(name=name, sha256=digest, tenant=tenant, role=role, created=created, limits=limits or Quota())
    return key, token


def read(path: Path) -> list[Key]:
    """Read the keys in a file.

    Raises
    ------
    ConfigError : says what is wrong with the file, and quotes no key
    """
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except OSError as error:
        raise ConfigError(f"the keys' file {path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the keys' file {path} is invalid: {error}") from None
    for field, values in (("name", [key.name for key in keys]), ("digest", [key.sha256 for key in keys])):
        if len(set(values)) < len(values):
            raise ConfigError(f"the keys' file {path} has two keys of the same {field}")
    return keys


def write(path: Path, keys: Iterable[Key]) -> None:
    """Replace the file's keys, atomically; only its owner may read the file.

    Raises
    ------
    OSError
    """
    text = msgspec.json.format(msgspec.json.encode(_File(list(keys))), indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # the server may run as another user, to whom its owner has given access
            Path(name).chmod(path.stat().st_mode & 0o777)
        Path(name).replace(path)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
