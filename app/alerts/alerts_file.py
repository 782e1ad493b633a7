"""The file of alerts: where they may be sent, and the alerts of models.

{"webhooks": {"ops": {"url": "https://ops.example/hooks", "secret": "whsec_...", "tenant": "acme"}},
 "models": {"sine": {"score_above": 0.999, "clear_after": 10, "webhook": "ops"},
            "pump": {"alarms_per_week": 1, "kind": "any", "refractory": "6h", "webhook": "ops"}}}

Only who runs the server writes addresses. A session names a webhook: a client that could name an address
would have the server call machines that the client cannot reach.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from app.errors import ConfigError, Unprocessable
from app.session.notes import Alert, parse_alert

SECRET_PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A webhook. `tenant` is the only one whose sessions may name it; None: all."""

    url: str
    secret: str
    tenant: str | None = None

    @property
    def key(self) -> bytes:
        """The secret's bytes.

        Raises
        ------
        ValueError
        """
        try:
            key = base64.b64decode(self.secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not self.secret.startswith(SECRET_PREFIX) or len(key) not in SECRET_BYTES:
            raise ValueError(f"its secret must be {SECRET_PREFIX} and 24 to 64 bytes in base64")
        return key


class ModelAlert(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The alert of all sessions of a model that have none of their own; see `Alert`."""

    score_above: float | None = None
    outside: float | None = None
    clear_after: int = 1
    webhook: str | None = None
    alarms_per_week: float | None = None
    kind: str | None = None
    refractory: str | None = None
    step: str | None = None

    @property
    def alert(self) -> Alert:
        """The same, as sessions have it.

        Raises
        ------
        Unprocessable
        """
        return parse_alert(Alert(**msgspec.structs.asdict(self)))


class AlertsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    webhooks: dict[str, Target] = {}
    models: dict[str, ModelAlert] = {}

    def alerts(self) -> dict[str, Alert]:
        """The alerts of models by their names."""
        return {name: model.alert for name, model in self.models.items()}


def read_alerts_file(path: Path | None) -> AlertsFile:
    """The file at `path`, checked; an empty one for None.

    Raises
    ------
    ConfigError
    """
    if path is None:
        return AlertsFile()
    try:
        found = msgspec.json.decode(path.read_bytes(), type=AlertsFile)
    except (OSError, msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"alerts file {path} cannot be read: {error}") from error
    for name, target in found.webhooks.items():
        if not _is_address(target.url):
            raise ConfigError(f"alerts file {path}: webhook {name!r} needs an http:// or https:// URL")
        try:
            target.key  # noqa: B018  (checked here, and not when the first alert comes)
        except ValueError as error:
            raise ConfigError(f"alerts file {path}: webhook {name!r}: {error}") from error
    for model, alert in found.models.items():
        try:
            alert.alert  # noqa: B018  (checked)
        except Unprocessable as error:
            raise ConfigError(f"alerts file {path}: the alert of {model!r}: {error}") from error
        if alert.webhook is not None and alert.webhook not in found.webhooks:
            raise ConfigError(
                f"alerts file {path}: {model!r} names no webhook of the file: {alert.webhook!r}"
            )
    return found


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0  # raises if it is no port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and is_complete and "@" not in parts.netloc
