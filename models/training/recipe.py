"""A recipe: all that decides a training besides the data, as one value."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from models.artifact.artifact import PredictionMode
from models.artifact.learning import Learning
from models.errors import BadRecipe

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
    judge_every
        Epochs from one look at the validation error to the next.
    streams, piece
        Contiguous streams in parallel, and steps between two cuts of the graph (truncated back-propagation
        through time: Williams and Peng, 1990). The carry goes on from piece to piece, detached.
    shuffled
        Begin each stream at a random row, anew in each epoch, instead of laying them side by side.
    drift
        Move each stream's targets, as inputs and as truth, by a random level of this spread and stretch them
        by a random factor, in scaled units: what a series does once it is no longer the one learnt from
        (such changes of whole series: Um et al., ICMI 2017). 0: never.
    dropout, weight_decay
        Share of the hidden features that the readout does without at each step (Srivastava et al., JMLR
        2014), and decoupled decay of the weights (Loshchilov and Hutter, 2019).
    closed_loop
        After each piece, run freely for so many steps and learn from those errors too (0: never).
    learning_rate, schedule, clip
        Adam's rate at the start, what becomes of it (`cosine`: falls towards zero, Loshchilov and Hutter,
        2017), and the largest norm of a gradient (0: any).
    scaled
        Whether to scale by mean and standard deviation of the training part, or leave the data's own units.
    seed
        Of the first weights, and of all that is drawn while training; nothing else is random.
    learning
        What a session of the trained network learns of its own stream. Where it corrects the readout, the
        epoch is chosen by the validation error with that correction at work.
    """

    hidden_size: int = 64
    num_layers: int = 1
    predicts: PredictionMode = "level"
    epochs: int = 50
    patience: int = 10
    judge_every: int = 1
    streams: int = 4
    piece: int = 50
    shuffled: bool = False
    drift: float = 0.0
    dropout: float = 0.0
    weight_decay: float = 0.0
    closed_loop: int = 0
    learning_rate: float = 0.01
    schedule: Schedule = "cosine"
    clip: float = 1.0
    scaled: bool = True
    seed: int = 0
    learning: Learning = field(default_factory=Learning)

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "epochs", "judge_every", "streams", "piece"):
            if getattr(self, name) < 1:
                raise BadRecipe(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("patience", "closed_loop", "clip", "seed", "drift", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise BadRecipe(f"{name} must not be below 0, as {getattr(self, name)} is")
        if not 0 <= self.dropout < 1:
            raise BadRecipe(f"dropout must be 0 or more and below 1, not {self.dropout}")
        if not 0 < self.learning_rate < math.inf:
            raise BadRecipe(f"learning_rate must be above 0, not {self.learning_rate}")

    def learning_rate_at(self, epoch: int) -> float:
        """Adam's learning rate in an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def as_dict(self) -> dict[str, Any]:
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

# For data that drifts away from what was learnt, a few months of hourly readings being enough: the change
# from the last observation is learnt, from streams moved to levels that were never seen, and each session
# corrects its own readout. Chosen on the validation rows of one series (docs/explanation/learning.md),
# kept for others.
DRIFTING = Recipe(
    predicts="change",
    epochs=150,
    patience=40,
    judge_every=5,
    streams=8,
    piece=24,
    shuffled=True,
    drift=1.0,
    dropout=0.1,
    weight_decay=0.01,
    learning_rate=0.005,
    learning=Learning(readout="rls", inputs=True, forgetting=0.999, prior=1.0, levels=(0.5, 0.8, 0.9, 0.95)),
)

RECIPES = {"textbook": TEXTBOOK, "drifting": DRIFTING}
