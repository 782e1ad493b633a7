"""What every training has: its rounds, the steps of its optimizer, and the best weights so far."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.errors import TrainingDiverged
from models.nets.recurrent import RecurrentNetwork
from models.training.recipe import CommonRecipe

Weights = dict[str, Tensor]


R = TypeVar("R")


class RoundTraining(ABC, Generic[R]):
    """A training, a round at a time; `state` and `restore` let another process resume it.

    Attributes
    ----------
    best_weights
        Of the round with the lowest validation error; None before there is one.
    diverged
        Why the training ended early; None if it did not.
    """

    round_name: ClassVar[str] = "round"
    result_type: type[R]

    def __init__(self, network: RecurrentNetwork, recipe: CommonRecipe, device: str) -> None:
        self.network, self.recipe, self.device = network.to(device), recipe, device
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.history: list[R] = []
        self.best_error = math.inf
        self.best_weights: Weights | None = None
        self.diverged: str | None = None

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether no round is left."""

    @property
    @abstractmethod
    def data_digest(self) -> str:
        """SHA-256 (hex) over all that is learned from."""

    @abstractmethod
    def run_round(self) -> R:
        """Train for a round, then measure the validation part.

        Raises
        ------
        TrainingDiverged
            The loss is NaN or infinite: the present weights are useless, those of `best_network` are not.
        """

    def run(self) -> Iterator[R]:
        """Train to the end, yielding each round; a caller that stops iterating stops between two rounds.

        A training that diverges ends with the best weights of the earlier rounds.

        Raises
        ------
        TrainingDiverged
            No earlier round left weights that were found good.
        """
        while not self.finished:
            try:
                result = self.run_round()
            except TrainingDiverged as error:
                if self.best_weights is None:
                    raise
                self.diverged = str(error)
                return
            yield result

    def best_network(self) -> RecurrentNetwork:
        """The network with the best weights, or the last where none was found good; eval mode, CPU."""
        network = copy.deepcopy(self.network).cpu()
        network.load_state_dict(self.best_weights or network.state_dict())
        return network.eval()

    def state(self) -> dict[str, Any]:
        """Everything that the next round depends on, as plain values and tensors."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [vars(result) for result in self.history],
            "best_error": self.best_error,
            "best_weights": self.best_weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to `state`, which was taken under the same recipe and data."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [self.result_type(**result) for result in state["history"]]
        self.best_error, self.best_weights = state["best_error"], state["best_weights"]

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _descend(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()

    def _finite(self, loss: Tensor) -> float:
        """The loss as a number.

        Raises
        ------
        TrainingDiverged
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._divergence(f"the loss is {value}")
        return value

    def _check_weights(self) -> None:
        """The last step of a round has no loss after it that would show the divergence."""
        if not all(bool(weight.isfinite().all()) for weight in self.network.parameters()):
            raise self._divergence("a weight is NaN or infinite")

    def _divergence(self, reason: str) -> TrainingDiverged:
        where = f"{self.round_name} {len(self.history) + 1}"
        return TrainingDiverged(f"{where}: {reason}; try a smaller learning rate")

    def _keep_if_best(self, validation: float | None) -> bool:
        """Whether this validation error is the lowest so far; if so, the weights are kept."""
        if validation is None or validation >= self.best_error:
            return False
        self.best_error = validation
        self.best_weights = {
            name: weight.detach().cpu().clone() for name, weight in self.network.state_dict().items()
        }
        return True
