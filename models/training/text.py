"""A text as numbers: its characters (Unicode code points), of which the rare ones share a piece."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.arrays import Ints
from models.errors import BadData
from models.generation.vocabulary import UNKNOWN

MOST_PIECES = 8192  # of a vocabulary; the rarest characters beyond it are unknown
FEWEST_CHARACTERS = 1000
KEPT = 0.1  # of the text, at its end: it measures the trained network and nothing else
VALIDATION = 0.05  # of the text, before the kept part: it decides which weights are the best
MOST_VALIDATION = 100_000  # characters; more of them would only cost time


@dataclass(frozen=True, eq=False)
class Text:
    """A text, and the parts that training makes of it.

    Attributes
    ----------
    name : the file's
    pieces : the vocabulary; piece 0 is `UNKNOWN`, the others are in the order of their code points
    tokens : [characters], the number of each one's piece
    train, validation : characters of these parts; they are the first, and the kept part is the rest
    """

    name: str
    pieces: tuple[str, ...]
    tokens: Ints
    train: int
    validation: int

    @property
    def validation_rows(self) -> range:
        """The characters of the validation part."""
        return range(self.train, self.train + self.validation)

    @property
    def kept_rows(self) -> range:
        """The characters of the kept part."""
        return range(self.train + self.validation, len(self.tokens))


def read_text(path: Path, encoding: str = "utf-8", fewest: int = 3) -> Text:
    """Read a file of plain text.

    A line end is one character, `\\n`, whichever way the file writes it. A byte order mark is left out.

    Parameters
    ----------
    fewest
        How often a character must occur in the training part to have a piece of its own.

    Raises
    ------
    BadData
        The message names the file, and what is wrong: it cannot be read or decoded, or is too short.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadData(f"{path} cannot be read: {error.strerror}") from error
    try:
        characters = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise BadData(f"there is no encoding {encoding!r}") from error
    except UnicodeError as error:
        where = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise BadData(
            f"{path} is not text in {encoding}{where}: name its encoding with --encoding"
        ) from error
    return make_text(str(path), characters.replace("\r\n", "\n").replace("\r", "\n"), fewest)


def make_text(name: str, characters: str, fewest: int = 3) -> Text:
    """Split a text and find its pieces; see `read_text`.

    Raises
    ------
    BadData
        The text is too short, or its training part has a single character throughout.
    """
    total = len(characters)
    if total < FEWEST_CHARACTERS:
        raise BadData(f"{name} has {total} characters; a training needs at least {FEWEST_CHARACTERS:,}")
    kept, validation = round(KEPT * total), min(round(VALIDATION * total), MOST_VALIDATION)
    train = total - kept - validation
    pieces = _pieces(characters[:train], fewest)
    if len(pieces) < 3:
        raise BadData(f"{name} has fewer than two different characters that occur {fewest} times")
    token_of = {piece: token for token, piece in enumerate(pieces)}
    tokens = np.fromiter((token_of.get(character, 0) for character in characters), np.int64, total)
    return Text(name, pieces, tokens, train, validation)


def _pieces(characters: str, fewest: int) -> tuple[str, ...]:
    counts = Counter(characters)
    frequent = [character for character, count in counts.items() if count >= fewest and character != UNKNOWN]
    frequent.sort(key=lambda character: (-counts[character], character))
    return (UNKNOWN, *sorted(frequent[: MOST_PIECES - 1]))
