"""What clients note on a session beside its stream: labels, and an alert.

Few sessions have notes, and chunks do not change labels. So notes are no column of the sessions: they are
objects that never change, which the rows of labelled sessions share.

A label is `name:value`, such as `site:north`. A name holds no colon, so the text says where the name ends.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from app.errors import Unprocessable
from models.adaptation.alarms import ANY, KIND_NAMES
from models.data.resampling import parse_step
from models.errors import BadData

Labels = tuple[str, ...]
"""`name:value` of each label, in the order of their names."""

MAX_LABELS = 16  # of one session
MAX_CLEAR_AFTER = 1_000_000  # observations
MAX_ALARMS_PER_WEEK = 1000
DAY = 86_400.0  # seconds
MAX_DURATION = 366 * DAY
MAX_LABEL_BYTES = 128  # of a value, as UTF-8
LABEL_NAME = re.compile(r"[A-Za-z0-9._\-]{1,64}", re.ASCII)


class Alert(msgspec.Struct, frozen=True, array_like=True):
    """When a session raises an alert.

    Either at an observation that crosses a limit, of which at least one is set:

    score_above : a surprise above this
    outside : a value outside its interval of this level
    clear_after : observations in a row with none of these, after which the alert is cleared

    or as often as this (`models.adaptation.alarms`):

    alarms_per_week : at what is so rare that there are so many a week
    kind : one of KIND_NAMES, or any of them; None: any
    refractory : time without anything as rare, after which the alert is cleared, such as 6h; None: that
    step : time from one observation to the next, such as 10min; None: that of the model

    webhook : name of the webhook that gets it, if any
    """

    score_above: float | None = None
    outside: float | None = None
    clear_after: int = 1
    webhook: str | None = None
    alarms_per_week: float | None = None
    kind: str | None = None
    refractory: str | None = None
    step: str | None = None


class AlertState(msgspec.Struct, frozen=True, array_like=True):
    """Whether the alert is raised, and for how many observations none of its limits was crossed since.

    detector : of `alarms_per_week`, `models.adaptation.alarms.Alarms` as bytes; empty before the first chunk
    """

    raised: bool = False
    calm: int = 0
    detector: bytes = b""


QUIET = AlertState()


class Notes(msgspec.Struct, frozen=True, array_like=True):
    """The notes of one session.

    alert : of its own; None where that of its model applies, if there is one
    """

    labels: Labels = ()
    alert: Alert | None = None
    state: AlertState = QUIET

    def __bool__(self) -> bool:
        return bool(self.labels) or self.alert is not None or self.state != QUIET

    def quiet(self) -> Notes:
        """The same, and no alert is raised, and nothing is known of the stream."""
        return msgspec.structs.replace(self, state=QUIET)

    def lowered(self) -> Notes:
        """The same, and no alert is raised. What is known of the stream is kept."""
        return msgspec.structs.replace(self, state=AlertState(detector=self.state.detector))


NO_NOTES = Notes()


def parse_alert(alert: Alert) -> Alert:
    """Return an alert unchanged.

    Raises
    ------
    Unprocessable : it has no limit and no rate, or both, or one out of range
    """
    _check_rate(alert)
    if alert.alarms_per_week is None and alert.score_above is None and alert.outside is None:
        raise Unprocessable("an alert needs score_above or outside, or alarms_per_week", field="alert")
    if alert.score_above is not None and not 0 <= alert.score_above < 1:
        raise Unprocessable("score_above must be at least 0 and below 1", field="alert.score_above")
    if alert.outside is not None and not 0 < alert.outside < 1:
        raise Unprocessable("outside must be above 0 and below 1", field="alert.outside")
    if not 1 <= alert.clear_after <= MAX_CLEAR_AFTER:
        raise Unprocessable(f"clear_after must be 1 to {MAX_CLEAR_AFTER}", field="alert.clear_after")
    if alert.webhook is not None and LABEL_NAME.fullmatch(alert.webhook) is None:
        raise Unprocessable(f"there is no webhook {alert.webhook[:100]!r}", field="alert.webhook")
    return alert


def _check_rate(alert: Alert) -> None:
    rate = alert.alarms_per_week
    if rate is None:
        for name in ("kind", "refractory", "step"):
            if getattr(alert, name) is not None:
                raise Unprocessable(f"{name} is for an alert with alarms_per_week", field=f"alert.{name}")
        return
    if alert.score_above is not None or alert.outside is not None or alert.clear_after != 1:
        raise Unprocessable(
            "an alert has alarms_per_week, or score_above, outside and clear_after, not both", field="alert"
        )
    if not 0 < rate <= MAX_ALARMS_PER_WEEK:
        raise Unprocessable(
            f"alarms_per_week must be above 0, and at most {MAX_ALARMS_PER_WEEK}",
            field="alert.alarms_per_week",
        )
    if alert.kind not in (None, ANY, *KIND_NAMES):
        kinds = ", ".join((*KIND_NAMES, ANY))
        raise Unprocessable(f"there is no kind {alert.kind[:80]!r}, only {kinds}", field="alert.kind")
    for name in ("refractory", "step"):
        if getattr(alert, name) is not None:
            parse_duration(getattr(alert, name), f"alert.{name}")


@lru_cache(maxsize=1024)
def parse_duration(text: str, field: str) -> float:
    """The seconds of a time such as `10min` or `6h`.

    Raises
    ------
    Unprocessable : it is none, or longer than MAX_DURATION
    """
    try:
        seconds = parse_step(text)
    except BadData as error:
        raise Unprocessable(f"{field}: {str(error)[:200]}", field=field) from None
    if seconds > MAX_DURATION:
        raise Unprocessable(f"{field} is at most {MAX_DURATION / DAY:.0f} days", field=field)
    return seconds


def parse_labels(given: Mapping[str, str]) -> Labels:
    """The labels of an object such as `{"site": "north"}`.

    Raises
    ------
    Unprocessable : too many, or a name or a value that is not valid
    """
    if len(given) > MAX_LABELS:
        raise Unprocessable(f"a session has at most {MAX_LABELS} labels, not {len(given)}", field="labels")
    return _shared(tuple(_label(name, value) for name, value in sorted(given.items())))


def parse_label(text: str) -> str:
    """A label as a list of sessions names it: `site:north`.

    Raises
    ------
    Unprocessable
    """
    name, colon, value = text.partition(":")
    if not colon:
        raise Unprocessable(f"label is name:value, such as site:north, not {text[:100]!r}", field="label")
    return _label(name, value)


def changed_labels(labels: Labels, changes: Mapping[str, str | None]) -> Labels:
    """Labels after a merge patch (RFC 7396): null removes a label.

    Raises
    ------
    Unprocessable : as `parse_labels`
    """
    merged: dict[str, str | None] = {**labels_by_name(labels), **changes}
    return parse_labels({name: value for name, value in merged.items() if value is not None})


def labels_by_name(labels: Iterable[str]) -> dict[str, str]:
    """The object that `parse_labels` reads."""
    return {name: value for name, _, value in (label.partition(":") for label in labels)}


def _label(name: str, value: str) -> str:
    if LABEL_NAME.fullmatch(name) is None:
        raise Unprocessable(
            f"invalid name of a label {name[:100]!r}: use 1 to 64 characters of A-Z a-z 0-9 . _ -",
            field="labels",
        )
    if not value.isprintable() or len(value.encode("utf-8", "surrogatepass")) > MAX_LABEL_BYTES:
        raise Unprocessable(
            f"the value of label {name!r} must be printable text of at most {MAX_LABEL_BYTES} bytes",
            field="labels",
        )
    return f"{name}:{value}"


@lru_cache(maxsize=4096)
def _shared(labels: Labels) -> Labels:
    """One object for all sessions with these labels: a million of them take no memory for it."""
    return tuple(map(sys.intern, labels))


@lru_cache(maxsize=4096)
def shared_notes(notes: Notes) -> Notes:
    """One object for all sessions with these notes."""
    return msgspec.structs.replace(notes, labels=_shared(tuple(notes.labels)))
