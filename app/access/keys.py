"""API keys: what a file of them says, and which of them a token is.

A token is 256 random bits, so one SHA-256 of it is all that is kept: there is no password to guess, and
nothing in the file opens a door. A token that comes in is hashed and looked up by its digest, which nobody
can choose, and the digests are compared in constant time.

The file is JSON, written by `carryover keys add`, and read anew when it changes:

    {"keys": [{"name": "pump-house", "tenant": "acme", "role": "stream", "sha256": "9f86d0...",
               "created": "2026-11-23T21:00:00Z", "limits": {"sessions": 1000}}]}
"""

from __future__ import annotations

import hashlib
import hmac
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
LONGEST_TOKEN = 256


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One key as the file has it.

    tenant : whose sessions it opens; several keys may open the same, to be changed one after the other
    role : `read` looks and forecasts; `stream` does all that a client does; `admin` reloads models and enters
        every tenant, too; `monitor` reads /metrics and nothing else
    """

    name: Annotated[str, msgspec.Meta(pattern=rf"^{NAME.pattern}\Z")]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    tenant: Annotated[str, msgspec.Meta(pattern=rf"^({TENANT.pattern})?\Z")]
    role: Role = "stream"
    created: str = ""
    limits: Quota = Quota()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


class KeyRing:
    """The keys of a file, as it is now.

    Raises
    ------
    ConfigError : the file is not there, or not such a file
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[bytes, Key] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read the file if it is another one than before. Returns whether it was.

        Raises
        ------
        ConfigError : the keys stay as they were, and the same file is not looked at again
        """
        seen = _stamp(self.path)
        if seen is not None and seen == self._seen:
            return False
        self._seen = seen
        self._keys = {bytes.fromhex(key.sha256): key for key in read(self.path)}
        return True

    def find(self, token: bytes) -> Key | None:
        """The key that this token is."""
        if len(token) > LONGEST_TOKEN:
            return None
        digest = hashlib.sha256(token).digest()
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(bytes.fromhex(key.sha256), digest):
            return None
        return key

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())


def made(
    name: str,
    tenant: str | None = None,
    role: Role = "stream",
    created: str = "",
    limits: Quota | None = None,
) -> tuple[Key, str]:
    """A new key, and its token, which is kept nowhere.

    Raises
    ------
    ConfigError : a name or a tenant that cannot be one
    """
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    tenant = name if tenant is None else tenant
    for what, text, empty in (("key", name, False), ("tenant", tenant, True)):
        if not (empty and not text) and NAME.fullmatch(text) is None:
            raise ConfigError(f"{text!r:.80} is no name of a {what}: 1 to 64 characters of A-Z a-z 0-9 . _ -")
    digest = hashlib.sha256(token.encode()).hexdigest()
    key = Key(name=name, sha256=digest, tenant=tenant, role=role, created=created, limits=limits or Quota())
    return key, token


def read(path: Path) -> list[Key]:
    """The keys in a file.

    Raises
    ------
    ConfigError : naming what is wrong with it, and no key
    """
    try:
        keys = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except OSError as error:
        raise ConfigError(f"the keys' file {path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the keys' file {path} is not one: {error}") from None
    for what, told in (("names", [key.name for key in keys]), ("digests", [key.sha256 for key in keys])):
        if len(set(told)) < len(told):
            raise ConfigError(f"the keys' file {path} has two keys of the same {what[:-1]}")
    return keys


def write(path: Path, keys: Iterable[Key]) -> None:
    """Put these keys in the file, all at once, for its owner's eyes only.

    Raises
    ------
    OSError
    """
    told = msgspec.json.format(msgspec.json.encode(_File(list(keys))), indent=2)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(told + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if path.exists():  # the server may run as another user, who was let in on purpose
            Path(name).chmod(path.stat().st_mode & 0o777)
        Path(name).replace(path)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_ino, told.st_size
