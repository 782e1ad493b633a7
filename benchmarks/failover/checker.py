"""Whether every chunk was applied exactly once and in order, judged only by what the clients saw.

A history is JSON Lines, one line for each answer that a client got, or gave up waiting for:

    {"session", "seq", "op": "chunk" | "reset", "at", "observations": [...],
     "outcome": "applied" | "replayed" | "refused" | "unknown", "position", "predictions": [...], "status"}

and one `{"session", "op": "final", "position"}` a session. `seq` numbers what a client wanted, in order; a
client sends the next only when it has an answer to the last, and sends the same again as often as it must.
The checker shares no code with the service but the network itself, which tells what a stream that nobody
interrupted is answered.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Reference = Callable[[Sequence[float]], Sequence[float]]
"""Observations from the beginning, or from a reset, on: the prediction behind each."""

TOLERANCE = 1e-6
ACCEPTED = ("applied", "replayed")


def read(path: Path) -> list[Event]:
    """The events of a history."""
    with path.open() as lines:
        return [json.loads(line) for line in lines]


def check(events: Iterable[Event], reference: Reference, tolerance: float = TOLERANCE) -> list[str]:
    """Everything that contradicts one total order of accepted chunks for each session."""
    by_session: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_session[event["session"]].append(event)
    return [
        f"{session}: {complaint}"
        for session, events in sorted(by_session.items())
        for complaint in _check_session(events, reference, tolerance)
    ]


def _check_session(events: Sequence[Event], reference: Reference, tolerance: float) -> list[str]:
    wanted: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event["op"] != "final":
            wanted[event["seq"]].append(event)
    complaints: list[str] = []
    position = 0
    since_reset: list[float] = []
    answers: list[tuple[int, int, Event]] = []  # where its predictions lie in the segment, and which segment
    segments: list[list[float]] = [since_reset]
    for seq in sorted(wanted):
        complaints += _answered_once(seq, wanted[seq], position)
        event = wanted[seq][0]
        if event["op"] == "reset":
            since_reset = []
            segments.append(since_reset)
            continue
        answers += [
            (len(segments) - 1, len(since_reset), attempt)
            for attempt in wanted[seq]
            if attempt["outcome"] in ACCEPTED
        ]
        since_reset += event["observations"]
        position += len(event["observations"])
    complaints += _predicted(segments, answers, reference, tolerance)
    finals = [event["position"] for event in events if event["op"] == "final"]
    if finals and finals[-1] != position:
        complaints.append(f"is at {finals[-1]} in the end, after {position} acknowledged observations")
    return complaints


def _answered_once(seq: int, tries: Sequence[Event], position: int) -> list[str]:
    """What is wrong with the answers to one chunk or reset, made for `position`."""
    complaints = []
    accepted = [attempt for attempt in tries if attempt["outcome"] in ACCEPTED]
    if not accepted:
        complaints.append(f"{seq} was never acknowledged, and more followed")
    if sum(attempt["outcome"] == "applied" for attempt in accepted) > 1 and tries[0]["op"] == "chunk":
        complaints.append(f"{seq} was applied twice")
    for attempt in tries:
        if attempt["outcome"] == "refused":
            complaints.append(
                f"{seq} was refused ({attempt.get('status')}), the session at {attempt.get('position')}"
            )
        end = position + len(attempt.get("observations", ()))
        if attempt["outcome"] in ACCEPTED and attempt["position"] != end:
            complaints.append(f"{seq} was answered with position {attempt['position']} in place of {end}")
    return complaints


def _predicted(
    segments: Sequence[Sequence[float]],
    answers: Sequence[tuple[int, int, Event]],
    reference: Reference,
    tolerance: float,
) -> list[str]:
    expected = [reference(segment) if segment else [] for segment in segments]
    complaints = []
    for segment, start, event in answers:
        right = expected[segment][start : start + len(event["observations"])]
        worst = max((abs(a - b) for a, b in zip(event["predictions"], right, strict=False)), default=0.0)
        if len(event["predictions"]) != len(right) or not worst <= tolerance:
            complaints.append(
                f"{event['seq']} was answered {worst:.1e} off what an uninterrupted run answers"
            )
    return complaints
