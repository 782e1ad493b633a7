"""Where speech starts and ends, from the probability of each frame.

The rules are those of the iterator of the package silero-vad, whose numbers and their names these are; and a
shortest speech, as its `get_speech_timestamps` has it. What they remember is part of the session's carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.errors import BadArtifact

MAX_MS = 60_000.0
HYSTERESIS = 0.15  # between the two thresholds, where only the first is given
SPEECH_START, SPEECH_END = 1, 0
IDLE, CANDIDATE, SPEAKING = 0, 1, 2

Event = tuple[int, int]
"""`SPEECH_START` or `SPEECH_END`, and the sample."""


@dataclass(frozen=True)
class SpeechEvents:
    """When speech is said to start and to end.

    Attributes
    ----------
    output
        Name of the output that is the probability of speech.
    threshold
        A frame with this probability or more is speech.
    negative_threshold
        A frame with less is silence, once there was speech. None: `threshold` less 0.15.
    min_speech_ms
        Shorter speech is left out. A start is then answered once so much speech has come.
    min_silence_ms
        Speech ends after so much silence.
    speech_pad_ms
        By how much each end is moved outwards.
    """

    output: str
    threshold: float = 0.5
    negative_threshold: float | None = None
    min_speech_ms: float = 0.0
    min_silence_ms: float = 100.0
    speech_pad_ms: float = 30.0

    def __post_init__(self) -> None:
        for name in ("threshold", "negative_threshold"):
            value = getattr(self, name)
            if not _is_between(value, 1.0) and not (value is None and name == "negative_threshold"):
                raise BadArtifact(f"events.{name} must be a number from 0 to 1")
        if self.silence_threshold > self.threshold:
            raise BadArtifact("events.negative_threshold must not be above the threshold")
        for name in ("min_speech_ms", "min_silence_ms", "speech_pad_ms"):
            if not _is_between(getattr(self, name), MAX_MS):
                raise BadArtifact(f"events.{name} must be a number from 0 to {MAX_MS:.0f}")

    @property
    def silence_threshold(self) -> float:
        """Below it, a frame is silence."""
        return (
            self.threshold - HYSTERESIS if self.negative_threshold is None else float(self.negative_threshold)
        )


@dataclass(slots=True)
class SpeechState:
    """What is remembered between two frames.

    phase : `IDLE`, `CANDIDATE` while speech may still be too short, or `SPEAKING`
    silent_since : the sample behind the first silent frame; 0: the last frame was no silence
    start : the sample behind the first frame of the speech
    """

    phase: int
    silent_since: int
    start: int


class SpeechDetector:
    """Turns probabilities into events.

    Parameters
    ----------
    frame : samples
    rate : samples a second
    """

    def __init__(self, events: SpeechEvents, frame: int, rate: int) -> None:
        self._threshold, self._silence = events.threshold, events.silence_threshold
        self._min_speech = rate * events.min_speech_ms / 1000
        self._min_silence = rate * events.min_silence_ms / 1000
        self._pad = rate * events.speech_pad_ms / 1000
        self._frame = frame

    def detect(self, probabilities: Sequence[float], first_sample: int, state: SpeechState) -> list[Event]:
        """The events of frames, at most one of each; `state` is moved on.

        Parameters
        ----------
        first_sample : of the first frame
        """
        events: list[Event] = []
        current = first_sample
        for probability in probabilities:
            current += self._frame
            if probability >= self._threshold:
                state.silent_since = 0
                if state.phase == IDLE:
                    state.phase, state.start = CANDIDATE, current
            elif probability < self._silence and state.phase != IDLE:
                state.silent_since = state.silent_since or current
                if current - state.silent_since >= self._min_silence:
                    if state.phase == SPEAKING:
                        events.append((SPEECH_END, int(state.silent_since + self._pad - self._frame)))
                    state.phase = state.silent_since = state.start = 0
            if (
                state.phase == CANDIDATE
                and not state.silent_since
                and current - state.start + self._frame >= self._min_speech
            ):
                state.phase = SPEAKING
                events.append((SPEECH_START, int(max(0, state.start - self._pad - self._frame))))
        return events


def _is_between(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most
