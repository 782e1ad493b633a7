"""Keys for a server under test, and the headers that send them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.access import keys
from app.access.quotas import Quota


class Keys:
    """A file of keys; `token` holds them by name. Without a `tenant`, a key's name is its tenant."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keys.json"
        self.token: dict[str, str] = {}
        self._keys: list[keys.Key] = []
        self.write()

    def add(self, name: str, role: keys.Role = "stream", tenant: str | None = None, **limits: Any) -> None:
        key, self.token[name] = keys.generate_key(name, tenant, role, limits=Quota(**limits))
        self._keys.append(key)
        self.write()

    def remove(self, name: str) -> None:
        self._keys = [key for key in self._keys if key.name != name]
        self.write()

    def write(self) -> None:
        keys.write(self.path, self._keys)

    def headers(self, name: str, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token[name]}"} | more


def alike(answer: Any, *names: str) -> Any:
    """Remove everything from an answer that differs between sessions, so that two answers can be compared."""
    if isinstance(answer, dict):
        drawn = ("epoch", "epochs", "created", "updated", "expires")
        return {key: alike(value, *names) for key, value in answer.items() if key not in drawn}
    if isinstance(answer, list):
        return [alike(item, *names) for item in answer]
    if isinstance(answer, str):
        for name in names:
            answer = answer.replace(name, "<session>")
    return answer
