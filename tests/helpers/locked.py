"""A server with keys: who has which, and requests and sockets that send one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.access import keys
from app.access.quotas import Quota


class Keys:
    """A keys' file; `token` by name. A name is its key's tenant, unless said otherwise."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.token: dict[str, str] = {}
        self._keys: list[keys.Key] = []
        self.write()

    def add(self, name: str, role: keys.Role = "stream", tenant: str | None = None, **limits: Any) -> None:
        key, self.token[name] = keys.made(name, tenant, role, limits=Quota(**limits))
        self._keys.append(key)
        self.write()

    def remove(self, name: str) -> None:
        self._keys = [key for key in self._keys if key.name != name]
        self.write()

    def write(self) -> None:
        keys.write(self.path, self._keys)

    def headers(self, name: str, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token[name]}"} | more


def alike(told: Any, *names: str) -> Any:
    """An answer without what differs from one session to the next: so two answers can be compared."""
    if isinstance(told, dict):
        drawn = ("epoch", "epochs", "created", "updated", "expires")
        return {key: alike(value, *names) for key, value in told.items() if key not in drawn}
    if isinstance(told, list):
        return [alike(one, *names) for one in told]
    if isinstance(told, str):
        for name in names:
            told = told.replace(name, "<session>")
    return told
