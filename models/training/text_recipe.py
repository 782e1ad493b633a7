"""Everything besides the text that decides the training of a text model, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from models.errors import BadArtifact, BadRecipe
from models.nets.architecture import Architecture, Embedding
from models.training.recipe import CommonRecipe


@dataclass(frozen=True)
class TextRecipe(CommonRecipe):
    """How to train a network on text; see `CommonRecipe`.

    Attributes
    ----------
    streams
        At most: a short text has fewer.
    embedding
        How many numbers stand for a character.
    minutes
        The training also ends after so many (None: no limit). The learning rate falls towards the end that
        is first. The result then depends on the speed of the machine, and not on the seed alone.
    bfloat16
        Whether the products of the layers are computed in bfloat16 while training (Micikevicius et al., ICLR
        2018). The weights stay float32. Faster where the processor has instructions for it.

    Raises
    ------
    BadRecipe
        If a value is out of its bounds.
    """

    hidden_size: int = 256
    epochs: int = 20
    patience: int = 3
    streams: int = 32
    piece: int = 64
    dropout: float = 0.1
    learning_rate: float = 0.003
    embedding: int = 64
    minutes: float | None = None
    bfloat16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least(1, "embedding")
        if self.minutes is not None:
            self._check_at_least(0, "minutes")

    def architecture(self, vocabulary: int) -> Architecture:
        """The layers of a network for so many pieces.

        Raises
        ------
        BadRecipe : the cell is unknown, or the embedding is too wide
        """
        try:
            return Architecture(self.cell, embedding=Embedding(vocabulary, self.embedding))
        except BadArtifact as error:
            raise BadRecipe(str(error)) from error
