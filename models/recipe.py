"""A recipe: all that decides a training besides the data, as one value."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.errors import BadRecipe
from models.trained import Predicts

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes
    ----------
    hidden_size, num_layers, predicts
        The network; see `StatefulLSTM`.
    epochs, patience
        Passes over the training part, and how many in a row may be no better before stopping (0: any).
    streams, piece
        Contiguous streams in parallel, and steps between two cuts of the graph (truncated back-propagation
        through time: Williams and Peng, 1990). The carry goes on from piece to piece, detached.
    closed_loop
        After each piece, run freely for so many steps and learn from those errors too (0: never).
    learning_rate, schedule, clip
        Adam's rate at the start, what becomes of it (`cosine`: falls towards zero, Loshchilov and Hutter,
        2017), and the largest norm of a gradient (0: any).
    scaled
        Whether to scale by mean and standard deviation of the training part, or leave the data's own units.
    seed
        Of the first weights; everything else is determined.
    """

    hidden_size: int = 64
    num_layers: int = 1
    predicts: Predicts = "level"
    epochs: int = 50
    patience: int = 10
    streams: int = 4
    piece: int = 50
    closed_loop: int = 0
    learning_rate: float = 0.01
    schedule: Schedule = "cosine"
    clip: float = 1.0
    scaled: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "epochs", "streams", "piece"):
            if getattr(self, name) < 1:
                raise BadRecipe(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("patience", "closed_loop", "clip", "seed"):
            if not getattr(self, name) >= 0:
                raise BadRecipe(f"{name} must not be below 0, as {getattr(self, name)} is")
        if not 0 < self.learning_rate < math.inf:
            raise BadRecipe(f"learning_rate must be above 0, not {self.learning_rate}")

    def rate(self, epoch: int) -> float:
        """Adam's learning rate in an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def told(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)


# Section 1 of DESIGN: one stream, pieces of 50, ten epochs, Adam at 0.01, the data as it is, nothing else.
TEXTBOOK = Recipe(
    epochs=10,
    patience=0,
    streams=1,
    piece=50,
    learning_rate=0.01,
    schedule="constant",
    clip=0.0,
    scaled=False,
)
