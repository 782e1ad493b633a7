"""Alerts by `alarms_per_week`: moves the detectors of sessions on, and says in words what they found.

A detector is part of the session's record, as whether an alert is raised is: so a chunk that is sent again, a
restart and a move to another replica count nothing twice, and no rate is learned anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.errors import Unprocessable
from app.session.notes import DAY, NO_NOTES, Alert, AlertState, Notes, parse_duration
from models.adaptation import alarms
from models.adaptation.alarm_kernels import CALM, CLEARED, RAISED
from models.adaptation.alarms import Alarms, Cause
from models.adaptation.learner import Scores
from models.arrays import Doubles, Ints
from models.forecaster import Forecaster

REFRACTORY = "6h"
VALUE = alarms.KIND_NAMES[0]
UNITS = ((DAY, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


class Change(NamedTuple):
    """An alert that a session raised or cleared.

    i : index of the session
    offset : of the observation in its chunk
    kind : `alert` or `clear`
    details : what its event says besides
    """

    i: int
    offset: int
    kind: str
    details: dict[str, Any]


def check_step(alert: Alert, forecaster: Forecaster) -> None:
    """Check that it is known how many observations are a week.

    Raises
    ------
    Unprocessable
    """
    if step_seconds(alert, forecaster) is None:
        raise Unprocessable(
            "the model does not say how far apart observations are, so the alert must: "
            'add a step, such as "step": "10min"',
            field="alert.step",
        )


def step_seconds(alert: Alert, forecaster: Forecaster) -> float | None:
    """Seconds from one observation to the next; None where nothing says it."""
    if alert.step is not None:
        return parse_duration(alert.step, "alert.step")
    return forecaster.artifact.interval_seconds


def follow(
    forecaster: Forecaster,
    rules: dict[int, Alert],
    notes: dict[int, Notes],
    lengths: Ints,
    scores: Scores,
) -> list[Change]:
    """Move detectors on by chunks, and write them to the notes, in place.

    Parameters
    ----------
    rules : of the sessions at these indexes, which have one
    notes : by index
    lengths : [batch], of the chunks of all sessions
    scores : of their observations
    """
    steps = {i: step_seconds(rule, forecaster) for i, rule in rules.items()}
    followed = [(i, rules[i], step) for i, step in sorted(steps.items()) if step is not None]
    detectors = forecaster.alarms
    if not followed or detectors is None:
        return []
    which = np.array([i for i, _, _ in followed])
    states = _states(detectors, [notes.get(i, NO_NOTES).state for i in which.tolist()])
    rates = np.array([alarms.rates(rule.kind or alarms.ANY, _rate(rule), step) for _, rule, step in followed])
    refractory = np.array([_refractory(rule, step) for _, rule, step in followed])
    if len(which) < len(lengths):
        scores = scores.pick(np.repeat(np.isin(np.arange(len(lengths)), which), lengths))
    periods = np.array([alarms.period(step) for _, _, step in followed])
    found = detectors.follow(states, lengths[which], scores, rates, refractory, periods)
    for i, state in zip(which.tolist(), states, strict=True):
        calm = int(state[CALM])
        alert_state = AlertState(calm >= 0, max(calm, 0), state.tobytes())
        notes[i] = msgspec.structs.replace(notes.get(i, NO_NOTES), state=alert_state)
    ends = lengths[which].cumsum()
    changes = []
    for place in np.flatnonzero(found.changes).tolist():
        j = int(np.searchsorted(ends, place, side="right"))
        i, rule, step = followed[j]
        details: dict[str, Any] = {"alarms_per_week": rule.alarms_per_week}
        if found.changes[place] == RAISED:
            details |= _described(found.cause(place), forecaster, detectors.band, step)
            details["score"] = round(float(found.scores[place]), 3)
        kind = "clear" if found.changes[place] == CLEARED else "alert"
        changes.append(Change(i, place - int(ends[j] - lengths[i]), kind, details))
    return changes


def _states(detectors: Alarms, kept: Sequence[AlertState]) -> Doubles:
    """[batch, size]; the state of a session is new where it has none, or that of another model."""
    new = detectors.new_state
    states = np.repeat(new[None], len(kept), axis=0)
    for state, alert_state in zip(states, kept, strict=True):
        if len(alert_state.detector) == new.nbytes:
            state[:] = np.frombuffer(alert_state.detector, "<f8")
        state[CALM] = alert_state.calm if alert_state.raised else -1
    return states


def _rate(rule: Alert) -> float:
    return rule.alarms_per_week or 0.0


def _refractory(rule: Alert, step: float) -> int:
    """Observations in the refractory time, at least 1."""
    return max(1, round(parse_duration(rule.refractory or REFRACTORY, "alert.refractory") / step))


def _described(cause: Cause, forecaster: Forecaster, band: float, step: float) -> dict[str, Any]:
    """The cause in numbers and in words."""
    name = forecaster.artifact.targets[cause.output]
    seconds = cause.steps * step
    side = "above" if cause.above else "below"
    if cause.of_values:
        words = (
            f"{name} {cause.size:.1f} sd of its values {side} its usual level, over about {in_words(seconds)}"
        )
    elif cause.kind == VALUE and cause.steps > 1:
        words = f"{name} {cause.size:.1f} sd from its predictions, over about {in_words(seconds)}"
    elif cause.beyond > 0:
        words = f"{name} {cause.beyond:.1f} sd {side} its {100 * band:g} % band"
    else:
        words = f"{name} {cause.size:.1f} sd {side} its prediction"
    if cause.kind != VALUE and not cause.of_values:
        words += f" for {in_words(seconds)}, on average"
    return {
        "kind": cause.kind,
        "cause": words,
        "output": name,
        "side": side,
        "deviations": round(cause.size, 3),
        "beyond_band": round(max(cause.beyond, 0.0), 3),
        "seconds": seconds,
        "expected_per_week": round(cause.expected * alarms.WEEK / step, 6),
    }


def in_words(seconds: float) -> str:
    """A time in its largest whole unit, such as 4 h or 2.5 d."""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds / size:.3g} {unit}"
