"""Finds the alerts of a batch. They are part of what it commits, and leave behind the commit.

An alert is raised by the first observation that crosses a limit. It is cleared once so many observations in a
row have crossed none, and only then can another be raised. Whether it is raised is part of the session's
record: so a chunk that is sent again, a restart and a move to another replica raise nothing twice.

An alert with a rate instead of limits is in `app.engine.alarming`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from app.codec.answers import format_rfc3339
from app.engine import alarming
from app.engine.alarming import Change
from app.engine.batch import AlertEvent, Batch
from app.engine.inputs import check_intervals, level_index
from app.errors import Unprocessable
from app.jobs.answers import epoch_token
from app.session.names import id_of
from app.session.notes import NO_NOTES, Alert, AlertState, labels_by_name
from app.session.rows import Rows, scalar
from app.session.slab import Slab
from models.adaptation.learner import Scores
from models.arrays import Bools, Ints
from models.forecaster import Forecaster

MOST_NAMES = 3  # of outputs, in words


def check_alert(alert: Alert | None, forecaster: Forecaster) -> None:
    """Check that sessions of this kind have what the alert looks at.

    Raises
    ------
    Unprocessable
    """
    if alert is None:
        return
    if not forecaster.learning.tracks_errors:
        raise Unprocessable(
            'the session keeps no surprise: create it with {"learning": {"intervals": true}}', field="alert"
        )
    if alert.alarms_per_week is not None:
        alarming.check_step(alert, forecaster)
    check_intervals(alert.outside, forecaster, "alert.outside")


def find_alerts(
    slab: Slab,
    sessions: Sequence[str],
    after: Rows,
    lengths: Ints,
    scores: Scores | None,
    default: Alert | None,
    batch: Batch,
) -> None:
    """Add the alerts of chunks to the batch, and what they leave behind to the notes in `after`.

    Parameters
    ----------
    sessions, after : [batch], the sessions and what they are after their chunks
    lengths : [batch], of the chunks
    scores : [total], of their observations, one chunk after the other; None where nothing is scored
    default : of sessions that have no alert of their own
    """
    if scores is None or not (after.notes or default is not None):
        return
    changes = _changes_by_limit(slab, after, lengths, scores, default)
    changes += _changes_by_rate(slab, after, lengths, scores, default)
    for change in sorted(changes, key=lambda change: (change.i, change.offset)):
        batch.alerts.append(_event(slab, sessions, after, lengths, scores, default, change, batch.now))


def _changes_by_limit(
    slab: Slab, after: Rows, lengths: Ints, scores: Scores, default: Alert | None
) -> list[Change]:
    """What changes at sessions whose alert has limits."""
    ends = lengths.cumsum()
    watched = {i for i, notes in after.notes.items() if _has_limits(notes.alert) or notes.state.raised}
    if default is not None and _has_limits(default):
        crossed = _crossed(default, scores, slab.forecaster)
        watched.update(np.flatnonzero(np.logical_or.reduceat(crossed, ends - lengths)).tolist())
    changes = []
    for i in sorted(watched):
        notes = after.notes.get(i, NO_NOTES)
        alert = notes.alert or default
        if alert is None or not _has_limits(alert):
            continue
        chunk = scores.pick(slice(ends[i] - lengths[i], ends[i]))
        state, found = _follow(
            alert, notes.state, _crossed(alert, chunk, slab.forecaster), ~np.isnan(chunk.scores)
        )
        if state != notes.state:
            after.notes[i] = msgspec.structs.replace(notes, state=state)
        limits = {"score_above": alert.score_above, "outside": alert.outside}
        for offset, kind in found:
            cause = {"cause": _cause(alert, chunk, offset, slab.forecaster)} if kind == "alert" else {}
            changes.append(Change(i, offset, kind, limits | cause))
    return changes


def _changes_by_rate(
    slab: Slab, after: Rows, lengths: Ints, scores: Scores, default: Alert | None
) -> list[Change]:
    """What changes at sessions whose alert has a rate."""
    rules = {i: notes.alert for i, notes in after.notes.items() if notes.alert is not None}
    if default is not None and not _has_limits(default):
        rules = dict.fromkeys(range(len(lengths)), default) | rules
    rules = {i: rule for i, rule in rules.items() if not _has_limits(rule)}
    return alarming.follow(slab.forecaster, rules, after.notes, lengths, scores)


def _has_limits(alert: Alert | None) -> bool:
    return alert is not None and alert.alarms_per_week is None


def _crossed(alert: Alert, scores: Scores, forecaster: Forecaster) -> Bools:
    """[total], whether each observation crosses a limit; one that was not scored crosses none."""
    crossed: Bools = np.zeros(len(scores.scores), np.bool_)
    if alert.score_above is not None:
        crossed |= scores.scores > alert.score_above
    if alert.outside is not None:
        crossed |= (scores.missed[:, level_index(alert.outside, forecaster)] > 0).any(axis=1)
    return crossed


def _cause(alert: Alert, scores: Scores, offset: int, forecaster: Forecaster) -> str:
    """Which limits an observation crosses, in words."""
    words = []
    score = scores.scores[offset]
    if alert.score_above is not None and score > alert.score_above:
        words.append(f"surprise {score:.6g}, above {alert.score_above:g}")
    if alert.outside is not None:
        missed = np.flatnonzero(scores.missed[offset, level_index(alert.outside, forecaster)] > 0).tolist()
        names = [forecaster.artifact.targets[output] for output in missed[:MOST_NAMES]]
        if len(missed) > MOST_NAMES:
            names.append(f"{len(missed) - MOST_NAMES} more")
        if names:
            words.append(f"{', '.join(names)} outside the {100 * alert.outside:g} % interval")
    return "; ".join(words)


def _follow(
    alert: Alert, state: AlertState, crossed: Bools, scored: Bools
) -> tuple[AlertState, list[tuple[int, str]]]:
    """The state after a chunk, and by index of the observation what has changed: `alert` or `clear`."""
    if not state.raised and not crossed.any():
        return state, []
    raised, calm = state.raised, state.calm
    changes: list[tuple[int, str]] = []
    for i, (is_crossed, is_scored) in enumerate(zip(crossed.tolist(), scored.tolist(), strict=True)):
        if is_crossed:
            if not raised:
                changes.append((i, "alert"))
            raised, calm = True, 0
        elif raised and is_scored:
            calm += 1
            if calm >= alert.clear_after:
                changes.append((i, "clear"))
                raised, calm = False, 0
    return AlertState(raised, calm), changes


def _event(
    slab: Slab, sessions: Sequence[str], after: Rows, lengths: Ints, scores: Scores, default: Alert | None,
    change: Change, now: float,
) -> AlertEvent:  # fmt: skip
    i, name, kind = change.i, sessions[change.i], change.kind
    epoch = epoch_token(scalar(after.headers, "epoch", i))
    position = scalar(after.headers, "position", i) - int(lengths[i]) + 1 + change.offset
    score = float(scores.scores[int(lengths[:i].sum()) + change.offset])
    notes = after.notes.get(i, NO_NOTES)
    alert = notes.alert or default
    event = {
        "event": kind,
        "id": f"{kind}-{epoch}-{position}",  # the same whenever and wherever it is found
        "session": id_of(name),
        "model": slab.forecaster.artifact.name,
        "position": position,
        "epoch": epoch,
        "time": format_rfc3339(now),
        "score": None if np.isnan(score) else round(score, 6),
        **change.details,
        "labels": labels_by_name(notes.labels),
    }
    return AlertEvent(name, None if alert is None else alert.webhook, event)
