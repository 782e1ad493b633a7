"""Truncated back-propagation through time, the carry kept from piece to piece and detached between them.

epoch:  streams laid side by side, or begun anywhere and moved to other levels
        carry = 0;  for each piece:  outputs, carry = network(piece, carry)
                                     loss (+ loss of a free run from here) -> step
                                     carry = detached(carry)
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.data.dataset import Dataset, training_streams
from models.errors import Diverged
from models.nets.lstm import Carry, StatefulLSTM, detached
from models.training.recipe import Recipe
from models.training.rollout import check_runs_freely, closed_loop_error, one_step, run_freely
from models.training.simulation import streaming_error

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to, all in scaled units.

    `loss` is the mean one-step MSE while training, `closed_loop` that of the free runs, `validation` the
    error that decides which weights are kept (None without a validation part).
    """

    number: int
    loss: float
    closed_loop: float | None
    validation: float | None
    learning_rate: float
    best: bool


class Training:
    """One training, an epoch at a time; `state` and `restore` let another process go on with it.

    Parameters
    ----------
    dataset, recipe
        What to learn, and how.
    device
        Where; "cpu" or "cuda".

    Raises
    ------
    BadData
        If the training part is too short, or a closed loop cannot be closed.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, device: str = "cpu") -> None:
        if recipe.closed_loop:
            check_runs_freely(dataset)
        self.dataset, self.recipe, self.device = dataset, recipe, device
        self.network = first_network(dataset, recipe).to(device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        observations, truth = training_streams(dataset, recipe.streams)
        self.observations, self.truth = observations.to(device), truth.to(device)
        self.history: list[Epoch] = []
        self.best_error = math.inf
        self.best_weights: Weights | None = None

    @property
    def finished(self) -> bool:
        """After the last epoch, or after `patience` epochs that were no better."""
        done = len(self.history)
        since_best = done - max((epoch.number for epoch in self.history if epoch.best), default=done)
        return done >= self.recipe.epochs or 0 < self.recipe.patience <= since_best

    def run(self) -> Iterator[Epoch]:
        """Train to the end, telling each epoch; whoever stops listening stops the training between two."""
        while not self.finished:
            yield self.epoch()

    def epoch(self) -> Epoch:
        """One pass over all streams from a zero carry, then the validation error.

        Raises
        ------
        Diverged
            The weights are then useless; a checkpoint from before is not.
        """
        rate = self.recipe.rate(len(self.history))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        number = len(self.history) + 1
        with torch.random.fork_rng(devices=[]):
            # Of the epoch's number alone, so that one gone on with draws what it would have drawn.
            torch.manual_seed(1_000_003 * (self.recipe.seed + 1) + number)
            loss, closed = self._pass(*self._streams())
        judged = number % self.recipe.judge_every == 0 or number == self.recipe.epochs
        validation = validation_error(self.network, self.dataset, self.recipe) if judged else None
        told = Epoch(number, loss, closed, validation, rate, self._is_best(validation))
        self.history.append(told)
        return told

    def trained(self) -> StatefulLSTM:
        """The network with the best weights, or the last ones without a validation part; eval mode, CPU."""
        network = first_network(self.dataset, self.recipe)
        network.load_state_dict(self.best_weights or self.network.state_dict())
        return network.eval()

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, as plain values and tensors."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": [vars(epoch) for epoch in self.history],
            "best_error": self.best_error,
            "best_weights": self.best_weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, under the same recipe and data."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best_error, self.best_weights = state["best_error"], state["best_weights"]

    def _streams(self) -> tuple[Tensor, Tensor]:
        """What this epoch learns from: [streams, steps, inputs] and [streams, steps, outputs]."""
        observations, truth = self.observations, self.truth
        if self.recipe.shuffled:
            streams, steps = truth.shape[:2]
            first = torch.randint(self.dataset.split.train - steps, (streams, 1))
            at = first + torch.arange(steps)  # [streams, steps]
            observations = self.dataset.observations[at].to(self.device)
            truth = self.dataset.truth[at + 1].to(self.device)
        return drifted(observations, truth, self.dataset, self.recipe.drift)

    def _pass(self, observations: Tensor, truth: Tensor) -> tuple[float, float | None]:
        self.network.train()
        losses: list[float] = []
        closed: list[float] = []
        carry: Carry | None = None
        for start in range(0, truth.shape[1], self.recipe.piece):
            end = min(start + self.recipe.piece, truth.shape[1])
            outputs, moved = self.network(observations[:, start:end], carry)
            loss = mean_square(outputs, truth[:, start:end])
            losses.append(self._finite(loss) * (end - start))
            if self.recipe.closed_loop and end < truth.shape[1]:
                ahead = slice(end, end + self.recipe.closed_loop)
                free = self._free_loss(moved, outputs[:, -1], observations[:, ahead], truth[:, ahead])
                closed.append(self._finite(free))
                loss = loss + free
            self._descend(loss)
            carry = detached(moved)
        return sum(losses) / truth.shape[1], sum(closed) / len(closed) if closed else None

    def _free_loss(self, carry: Carry, prediction: Tensor, ahead: Tensor, truth: Tensor) -> Tensor:
        free = run_freely(self.network, carry, prediction, self.dataset.feedback, truth.shape[1], ahead)
        return mean_square(free, truth)

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()

    def _finite(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(f"epoch {len(self.history) + 1}: the loss is {value}; try a smaller learning rate")
        return value

    def _is_best(self, validation: float | None) -> bool:
        if validation is None or validation >= self.best_error:
            return False
        self.best_error = validation
        self.best_weights = {
            name: weight.detach().cpu().clone() for name, weight in self.network.state_dict().items()
        }
        return True


def first_network(dataset: Dataset, recipe: Recipe) -> StatefulLSTM:
    """The network before any training; the seed decides its weights and touches no one else's randomness."""
    change_of = (
        [dataset.names.index(name) for name in dataset.targets] if recipe.predicts == "change" else None
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return StatefulLSTM(
            len(dataset.names),
            recipe.hidden_size,
            recipe.num_layers,
            len(dataset.targets),
            change_of,
            recipe.dropout,
        )


def drifted(observations: Tensor, truth: Tensor, dataset: Dataset, spread: float) -> tuple[Tensor, Tensor]:
    """Each stream's targets at another level and scale, where they are inputs and where they are truth.

    A level is normal of this spread, a scale log-normal of 0.3 times it; both in scaled units, one for each
    stream and target. Targets that are no inputs, and inputs that are no targets, stay.
    """
    if not spread:
        return observations, truth
    seen = [output for output, name in enumerate(dataset.targets) if name in dataset.names]
    into = [dataset.names.index(dataset.targets[output]) for output in seen]
    level = spread * torch.randn(len(truth), 1, len(seen)).to(truth.device)
    scale = torch.exp(0.3 * spread * torch.randn(len(truth), 1, len(seen))).to(truth.device)
    observations, truth = observations.clone(), truth.clone()
    observations[..., into] = observations[..., into] * scale + level
    truth[..., seen] = truth[..., seen] * scale + level
    return observations, truth


def mean_square(outputs: Tensor, truth: Tensor) -> Tensor:
    """The loss: over all that was observed; 0 where nothing was."""
    missing = torch.isnan(truth)
    if not missing.any():
        return nn.functional.mse_loss(outputs, truth)
    errors = torch.where(missing, 0.0, outputs - truth.nan_to_num())
    return errors.square().sum() / (~missing).sum().clamp(min=1)


def validation_error(network: StatefulLSTM, dataset: Dataset, recipe: Recipe) -> float | None:
    """The streaming one-step MSE over the validation part, the carry kept from row 0 on.

    Under a recipe whose sessions correct their readout, with that correction at work.

    Under a closed-loop recipe the mean square error of free runs of that length is added: what is learnt from
    is what is judged by.
    """
    rows = dataset.split.validation_rows
    if not rows:
        return None
    network.eval()
    if recipe.learning.corrects:
        error = streaming_error(network, dataset, recipe, rows)
    else:
        truth = dataset.truth[rows.start : rows.stop]
        error = float((one_step(network, dataset, rows) - truth).square().nanmean())
    if recipe.closed_loop:
        error += closed_loop_error(network, dataset, rows, every=recipe.piece, steps=recipe.closed_loop)
    return error
