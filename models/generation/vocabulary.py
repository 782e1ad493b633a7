"""The pieces of text that the tokens of a model stand for: token `i` is the piece `pieces[i]`.

The pieces are characters, or longer pieces such as those of byte-pair encoding. A text is cut from left to
right into the longest pieces that fit, which for characters is one token each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from models.errors import BadArtifact

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""The piece that stands for every character that a vocabulary does not have. It is never drawn."""

SAMPLES = ("The sea ", "the sea ")
MAX_PIECES = 32_768
MAX_PIECE = 256  # characters


class Vocabulary:
    """The pieces of a model.

    Parameters
    ----------
    pieces : the text of each token, all different

    Raises
    ------
    BadArtifact : there are fewer than two, one is empty, too long or no text, or two are the same
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        check_pieces(pieces)
        self.pieces = tuple(pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def unknown(self) -> int | None:
        """The token of the characters that have no piece of their own; None if there is none."""
        return self._tokens.get(UNKNOWN)

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.pieces))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text.

        Raises
        ------
        ValueError : the text has a character that the vocabulary does not have
        """
        tokens, start = [], 0
        while start < len(text):
            token, size = self._first(text, start)
            tokens.append(token)
            start += size
        return tokens

    def _first(self, text: str, start: int) -> tuple[int, int]:
        """The token that the text goes on with, and how many characters it stands for."""
        for size in range(min(self._longest, len(text) - start), 0, -1):
            token = self._tokens.get(text[start : start + size])
            if token is not None:
                return token, size
        if self.unknown is None:
            raise ValueError(f"the model does not know the character {text[start]!r} (at {start})")
        return self.unknown, 1

    @property
    def sample(self) -> str:
        """A short text without unknown characters, for examples: words if possible, or a piece."""
        for text in SAMPLES:
            with contextlib.suppress(ValueError):
                if self.unknown not in self.encode(text):
                    return text
        known = [piece for piece in self.pieces if piece != UNKNOWN]
        return next(filter(str.isprintable, known), known[0])

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of these tokens."""
        return "".join(self.pieces[token] for token in tokens)


@dataclass(frozen=True, slots=True)
class TextOutput:
    """How the next observation of a model of text is made: a token is drawn from the logits.

    token : the name of the input
    logits : the name of the output
    start : where the logits begin among the numbers of a prediction; there is one for each piece
    """

    token: str
    logits: str
    start: int
    vocabulary: Vocabulary


def check_pieces(pieces: Sequence[object]) -> None:
    """Refuse what cannot be the pieces of a vocabulary.

    Raises
    ------
    BadArtifact
    """
    if not 2 <= len(pieces) <= MAX_PIECES:
        raise BadArtifact(f"vocabulary must have 2 to {MAX_PIECES} pieces, not {len(pieces)}")
    for token, piece in enumerate(pieces):
        if not isinstance(piece, str) or not 1 <= len(piece) <= MAX_PIECE:
            raise BadArtifact(f"vocabulary[{token}] must be text of 1 to {MAX_PIECE} characters")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in piece):
            raise BadArtifact(f"vocabulary[{token}] is half of a surrogate pair, which is no text")
    if len(set(pieces)) != len(pieces):
        raise BadArtifact("vocabulary has a piece twice")
