"""When a text is complete: at a token, or where a piece of text has come up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.generation.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Stop:
    """What ends a text.

    Attributes
    ----------
    tokens : any of them
    texts : any of them; the tokens need not be cut where it begins or ends
    """

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()


class StopWatch:
    """Follows a text token by token until it ends.

    Parameters
    ----------
    tokens : of the text so far, without the prompt
    """

    def __init__(self, stop: Stop, vocabulary: Vocabulary, tokens: Sequence[int] = ()) -> None:
        self._stop, self._vocabulary = stop, vocabulary
        self._longest = max(map(len, stop.texts), default=0)
        self._end = ""  # of the text: as much as a stop that is not complete yet may have
        self.stopped = False
        self.add(*tokens)

    def add(self, *tokens: int) -> bool:
        """Add tokens to the text. Returns whether it has ended, with them or before."""
        for token in tokens:
            if self.stopped:
                break
            self.stopped = token in self._stop.tokens
            if self._longest:
                text = self._end + self._vocabulary.pieces[token]
                self.stopped |= any(stop in text for stop in self._stop.texts)
                self._end = text[1 - self._longest :] if self._longest > 1 else ""
        return self.stopped
