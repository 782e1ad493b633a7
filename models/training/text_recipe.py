"""Everything besides the text that decides the training of a text model, as one value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from models.errors import BadArtifact, BadRecipe
from models.nets.architecture import Architecture, Cell, Embedding
from models.training.recipe import Schedule


@dataclass(frozen=True)
class TextRecipe:
    """How to train a network on text.

    Attributes
    ----------
    hidden_size, num_layers, cell, embedding
        The network; `embedding` is how many numbers stand for a character.
    epochs, minutes
        The training ends after so many passes over the training part, or after so many minutes (None: no
        limit), whichever is first. The learning rate falls towards that end.
    patience
        The training ends earlier after so many passes without improvement (0: never).
    streams, piece
        Most contiguous streams in parallel, of which a short text has fewer, and characters per piece: the
        carry passes from piece to piece, detached (truncated back-propagation through time: Williams and
        Peng, 1990).
    dropout, weight_decay
        Share of the features dropped at each step between layers and before the readout (Srivastava et al.,
        JMLR 2014), and decoupled decay of the weights (Loshchilov and Hutter, 2019).
    learning_rate, schedule, clip
        Adam's initial rate, its schedule (`cosine`: falls towards zero, Loshchilov and Hutter, 2017), and the
        largest norm of a gradient (0: unlimited).
    bfloat16
        Whether the products of the layers are computed in bfloat16 while training (Micikevicius et al., ICLR
        2018). The weights stay float32. Faster where the processor has instructions for it.
    seed
        Of the initial weights and of everything random during training. With a limit in minutes, the result
        depends on the speed of the machine, too.

    Raises
    ------
    BadRecipe
        If a value is out of its bounds.
    """

    hidden_size: int = 256
    num_layers: int = 1
    cell: Cell = "lstm"
    embedding: int = 64
    epochs: int = 20
    minutes: float | None = None
    patience: int = 3
    streams: int = 32
    piece: int = 64
    dropout: float = 0.1
    weight_decay: float = 0.0
    learning_rate: float = 0.003
    schedule: Schedule = "cosine"
    clip: float = 1.0
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "embedding", "epochs", "streams", "piece"):
            if getattr(self, name) < 1:
                raise BadRecipe(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("patience", "clip", "seed", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadRecipe(f"{name} must be at least 0, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise BadRecipe(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 < self.learning_rate < math.inf:
            raise BadRecipe(f"learning_rate must be above 0, not {self.learning_rate}")
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise BadRecipe(f"minutes must be at least 0, not {self.minutes}")

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

    def learning_rate_at(self, progress: float) -> float:
        """Adam's learning rate where this share of the training is done, from 0 to 1."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * min(progress, 1))) / 2

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)
