"""A recipe: everything besides the data that decides a training, as one value."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from models.artifact.artifact import PredictionMode
from models.artifact.learning import Learning
from models.errors import BadArtifact, BadRecipe
from models.nets.architecture import Architecture, Cell, HeadLayer

Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class CommonRecipe:
    """What the recipe of every training has.

    Attributes
    ----------
    hidden_size, num_layers, cell
        The network; see `RecurrentNetwork`.
    epochs, patience
        Passes over the training part; training stops after `patience` passes without improvement (0: never).
    streams, piece
        Contiguous streams in parallel, and steps per piece: the carry passes from piece to piece, detached
        (truncated back-propagation through time: Williams and Peng, 1990).
    dropout, weight_decay
        Share of the features dropped at each step between layers and before the readout (Srivastava et al.,
        JMLR 2014), and decoupled decay of the weights (Loshchilov and Hutter, 2019).
    learning_rate, schedule, clip
        Adam's initial rate, its schedule (`cosine`: falls towards zero, Loshchilov and Hutter, 2017), and the
        largest norm of a gradient (0: unlimited).
    seed
        Of the initial weights and of everything random during training.
    """

    hidden_size: int = 64
    num_layers: int = 1
    cell: Cell = "lstm"
    epochs: int = 50
    patience: int = 10
    streams: int = 4
    piece: int = 50
    dropout: float = 0.0
    weight_decay: float = 0.0
    learning_rate: float = 0.01
    schedule: Schedule = "cosine"
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_at_least(1, "hidden_size", "num_layers", "epochs", "streams", "piece")
        self._check_at_least(0, "patience", "clip", "seed", "weight_decay")
        if not 0 <= self.dropout < 1:
            raise BadRecipe(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if not 0 < self.learning_rate < math.inf:
            raise BadRecipe(f"learning_rate must be above 0, not {self.learning_rate}")

    def learning_rate_at(self, progress: float) -> float:
        """Adam's learning rate where this share of the training is done, from 0 to 1."""
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * min(progress, 1))) / 2

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values."""
        return asdict(self)

    def _check_at_least(self, bound: int, *names: str) -> None:
        for name in names:
            if not bound <= getattr(self, name) < math.inf:
                raise BadRecipe(f"{name} must be at least {bound}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Recipe(CommonRecipe):
    """How to train on tables; see `CommonRecipe`.

    Attributes
    ----------
    predicts, head
        Of the network, see `RecurrentNetwork`: what it predicts, and the outputs of linear layers, each
        followed by ReLU, between the last hidden state and the readout.
    judge_every
        Epochs from one measurement of the validation error to the next.
    shuffled
        Start each stream at a random row in each epoch, instead of cutting the part into equal streams.
    drift
        Shift the targets of each stream, as inputs and as truth, by a random level of this standard deviation
        in scaled units, and stretch them by a random factor: as series do that have moved away from the
        training data (augmentation of whole series: Um et al., ICMI 2017). 0: never.
    closed_loop
        Steps to run freely after each piece; those errors are learned from, too (0: never).
    scaled
        Whether to scale by mean and standard deviation of the training part, or keep the data's own units.
    learning
        What sessions of the trained network learn of their own streams. If that includes the readout, the
        validation error is measured with sessions that correct it.

    Raises
    ------
    BadRecipe
        If a value is out of its bounds.
    """

    predicts: PredictionMode = "level"
    head: tuple[int, ...] = ()
    judge_every: int = 1
    shuffled: bool = False
    drift: float = 0.0
    closed_loop: int = 0
    scaled: bool = True
    learning: Learning = field(default_factory=Learning)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least(1, "judge_every")
        self._check_at_least(0, "closed_loop", "drift")
        try:
            _ = self.architecture
        except BadArtifact as error:
            raise BadRecipe(str(error)) from error

    @property
    def architecture(self) -> Architecture:
        """The layers of the network."""
        layers: list[HeadLayer] = []
        for size in self.head:
            layers += [size, "relu"]
        return Architecture(self.cell, tuple(layers))


# The textbook example of a stateful LSTM: one stream, pieces of 50, ten epochs, Adam at 0.01, unscaled data.
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

# For data that drifts away from the training part; a few months of hourly readings are enough. The network
# learns the change from the last observation, on streams shifted to levels that the data never had, and each
# session corrects its own readout. Chosen on the validation rows of one series, then used unchanged for
# others.
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
