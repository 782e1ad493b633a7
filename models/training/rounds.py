"""The loop of a training: round after round, until it is finished or diverges."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from torch import Tensor

from models.errors import TrainingDiverged

R = TypeVar("R")


class HasRounds(Protocol):
    """A training.

    best_weights : of an earlier round; None before one was found good
    diverged : why it ended before it was finished
    """

    best_weights: dict[str, Tensor] | None
    diverged: str | None

    @property
    def finished(self) -> bool:
        """Whether no round is left."""
        ...


def run_rounds(training: HasRounds, run_round: Callable[[], R]) -> Iterator[R]:
    """Yield each round. A training that diverges ends with the best weights of the earlier rounds.

    Raises
    ------
    TrainingDiverged
        There are none.
    """
    while not training.finished:
        try:
            result = run_round()
        except TrainingDiverged as error:
            if training.best_weights is None:
                raise
            training.diverged = str(error)
            return
        yield result
