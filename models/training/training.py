"""Truncated back-propagation through time: the carry passes from piece to piece, detached.

epoch:  the training part as equal streams, or streams that start anywhere and are shifted to other levels
        carry = 0;  for each piece:  outputs, carry = network(piece, carry)
                                     loss (+ loss of a free run from here) -> optimizer step
                                     carry = detach_carry(carry)
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from models.data.dataset import Dataset, can_be_judged, training_streams
from models.data.fleets import draw_streams, stream_sizes
from models.errors import BadData
from models.nets.recurrent import Carry, RecurrentNetwork, detach_carry
from models.training.recipe import Recipe
from models.training.rollout import check_runs_freely, closed_loop_error, one_step, run_freely
from models.training.rounds import RoundTraining
from models.training.simulation import build_artifact, streaming_error

MOST_JUDGED = 16  # series of a fleet on which an epoch is judged


@dataclass(frozen=True)
class Epoch:
    """The result of one epoch; errors are in scaled units.

    Attributes
    ----------
    loss
        Mean one-step MSE while training.
    closed_loop
        The same of the free runs; None without them.
    validation
        The error that decides which weights are kept; None when it was not measured in this epoch, or there
        is nothing to measure it on.
    best
        Whether it is the lowest so far.
    """

    number: int
    loss: float
    closed_loop: float | None
    validation: float | None
    learning_rate: float
    best: bool


class Training(RoundTraining[Epoch]):
    """A training on tables, whose rounds are epochs.

    Parameters
    ----------
    dataset, recipe
        What to learn, and how. Several datasets are series of one network: each has its own scale, and all
        have the same columns. Streams then start at random rows, in series drawn by their length.
    device
        "cpu" or "cuda".

    Attributes
    ----------
    datasets
        All of them; `dataset` is the first.
    steps
        Of all streams together in an epoch.

    Raises
    ------
    BadData
        The training part is too short, or the recipe needs free runs and an input is neither predicted nor
        known ahead.
    BadArtifact
        The artifact of this training would be refused: a column name, a rank, targets that are not inputs.
    """

    recipe: Recipe
    round_name = "epoch"
    result_type = Epoch

    def __init__(self, dataset: Dataset | Sequence[Dataset], recipe: Recipe, device: str = "cpu") -> None:
        self.datasets = (dataset,) if isinstance(dataset, Dataset) else tuple(dataset)
        dataset = self.datasets[0]
        if recipe.closed_loop:
            check_runs_freely(dataset)
        network = initial_network(dataset, recipe)
        # Everything that the artifact refuses is refused now: afterwards it would cost the whole training.
        build_artifact(network, dataset, recipe)
        super().__init__(network, recipe, device)
        self.dataset = dataset
        if len(self.datasets) == 1:
            observations, truth = training_streams(dataset, recipe.streams)
            self.observations, self.truth = observations.to(device), truth.to(device)
            self.steps = truth.shape[0] * truth.shape[1]
        else:
            self._passes, self._length = stream_sizes(self.datasets, recipe.streams)
            self.steps = self._passes * self._length * recipe.streams

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or `patience` epochs in a row brought no improvement."""
        done = len(self.history)
        since_best = done - max((epoch.number for epoch in self.history if epoch.best), default=done)
        return done >= self.recipe.epochs or 0 < self.recipe.patience <= since_best

    def run_round(self) -> Epoch:
        """One pass over all streams from a zero carry, then the validation error.

        Raises
        ------
        TrainingDiverged
            The loss is NaN or infinite: the present weights are useless, those of `best_network` are not.
        """
        rate = self.recipe.learning_rate_at(len(self.history) / self.recipe.epochs)
        self._set_learning_rate(rate)
        number = len(self.history) + 1
        with torch.random.fork_rng(devices=[]):
            # The seed depends on the number of the epoch only, so that a resumed training draws the same.
            torch.manual_seed(1_000_003 * (self.recipe.seed + 1) + number)
            losses, free = zip(*[self._pass(*streams) for streams in self._streams()], strict=True)
        loss = sum(losses) / len(losses)
        ran = [error for error in free if error is not None]
        closed = sum(ran) / len(ran) if ran else None
        self._check_weights()
        due = number % self.recipe.judge_every == 0 or number == self.recipe.epochs
        validation = fleet_validation_error(self.network, self.datasets, self.recipe) if due else None
        epoch = Epoch(number, loss, closed, validation, rate, self._keep_if_best(validation))
        self.history.append(epoch)
        return epoch

    @property
    def data_digest(self) -> str:
        """SHA-256 (hex) over the datasets."""
        digest = hashlib.sha256()
        for dataset in self.datasets:
            digest.update(repr((dataset.names, dataset.targets, astuple(dataset.split))).encode())
            for values in (dataset.observations, dataset.truth):
                digest.update(values.numpy().tobytes())
        return digest.hexdigest()

    def _streams(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each pass of this epoch the inputs and the truth, [streams, steps, inputs or outputs]."""
        if len(self.datasets) == 1:
            yield self._streams_of_one()
            return
        for _ in range(self._passes):
            observations, truth = draw_streams(self.datasets, self.recipe.streams, self._length)
            yield add_drift(
                observations.to(self.device), truth.to(self.device), self.dataset, self.recipe.drift
            )

    def _streams_of_one(self) -> tuple[Tensor, Tensor]:
        observations, truth = self.observations, self.truth
        if self.recipe.shuffled:
            streams, steps = truth.shape[:2]
            starts = torch.randint(self.dataset.split.train - steps, (streams, 1))
            at = starts + torch.arange(steps)  # [streams, steps]
            observations = self.dataset.observations[at].to(self.device)
            truth = self.dataset.truth[at + 1].to(self.device)
        return add_drift(observations, truth, self.dataset, self.recipe.drift)

    def _pass(self, observations: Tensor, truth: Tensor) -> tuple[float, float | None]:
        self.network.train()
        losses: list[float] = []
        closed: list[float] = []
        carry: Carry | None = None
        for start in range(0, truth.shape[1], self.recipe.piece):
            end = min(start + self.recipe.piece, truth.shape[1])
            outputs, moved = self.network(observations[:, start:end], carry)
            loss = mean_squared_error(outputs, truth[:, start:end])
            losses.append(self._finite(loss) * (end - start))
            if self.recipe.closed_loop and end < truth.shape[1]:
                ahead = slice(end, end + self.recipe.closed_loop)
                free = self._free_loss(moved, outputs[:, -1], observations[:, ahead], truth[:, ahead])
                closed.append(self._finite(free))
                loss = loss + free
            self._descend(loss)
            carry = detach_carry(moved)
        return sum(losses) / truth.shape[1], sum(closed) / len(closed) if closed else None

    def _free_loss(self, carry: Carry, prediction: Tensor, ahead: Tensor, truth: Tensor) -> Tensor:
        free = run_freely(self.network, carry, prediction, self.dataset.feedback, truth.shape[1], ahead)
        return mean_squared_error(free, truth)


def initial_network(dataset: Dataset, recipe: Recipe) -> RecurrentNetwork:
    """The network before training, whose weights the seed decides; torch's global generator is restored.

    Raises
    ------
    BadData
        It is to predict changes, and a target is not an input.
    """
    change_of = _change_of(dataset) if recipe.predicts == "change" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return RecurrentNetwork(
            len(dataset.names),
            recipe.hidden_size,
            recipe.num_layers,
            len(dataset.targets),
            change_of,
            recipe.dropout,
            recipe.architecture,
        )


def _change_of(dataset: Dataset) -> list[int]:
    for name in dataset.targets:
        if name not in dataset.names:
            raise BadData(
                f"a network that predicts changes needs its targets as inputs; {name!r} is not an input"
            )
    return [dataset.names.index(name) for name in dataset.targets]


def add_drift(observations: Tensor, truth: Tensor, dataset: Dataset, spread: float) -> tuple[Tensor, Tensor]:
    """Shift and stretch the targets of each stream, as inputs and as truth.

    For each stream and target, the shift is normal with standard deviation `spread`, in scaled units, and the
    factor is log-normal with 0.3 times that. Targets that are not inputs, and inputs that are not targets,
    are unchanged.

    Parameters
    ----------
    observations, truth
        [streams, steps, inputs] and [streams, steps, outputs], scaled; not written to.
    """
    if not spread:
        return observations, truth
    moved = [output for output, name in enumerate(dataset.targets) if name in dataset.names]
    into = [dataset.names.index(dataset.targets[output]) for output in moved]
    level = spread * torch.randn(len(truth), 1, len(moved)).to(truth.device)
    scale = torch.exp(0.3 * spread * torch.randn(len(truth), 1, len(moved))).to(truth.device)
    observations, truth = observations.clone(), truth.clone()
    observations[..., into] = observations[..., into] * scale + level
    truth[..., moved] = truth[..., moved] * scale + level
    return observations, truth


def mean_squared_error(outputs: Tensor, truth: Tensor) -> Tensor:
    """The loss: MSE over everything that was observed; 0 if nothing was."""
    missing = torch.isnan(truth)
    if not missing.any():
        return nn.functional.mse_loss(outputs, truth)
    errors = torch.where(missing, 0.0, outputs - truth.nan_to_num())
    return errors.square().sum() / (~missing).sum().clamp(min=1)


def fleet_validation_error(
    network: RecurrentNetwork, datasets: Sequence[Dataset], recipe: Recipe
) -> float | None:
    """The mean of `validation_error` over the series that have one, or over `MOST_JUDGED` of the series.

    None if no series has one, or if one is infinite.
    """
    judged = [dataset for dataset in datasets if can_be_judged(dataset)]
    judged = judged[:: -(-len(judged) // MOST_JUDGED) or 1]
    errors = [validation_error(network, dataset, recipe) for dataset in judged]
    known = [error for error in errors if error is not None]
    return sum(known) / len(known) if known and len(known) == len(errors) else None


def validation_error(network: RecurrentNetwork, dataset: Dataset, recipe: Recipe) -> float | None:
    """The streaming one-step MSE, scaled, over the validation part; the carry is kept from row 0 on.

    If sessions correct their readout, it is measured with that correction. If the recipe has free runs, their
    mean squared error is added, as it is to the loss. None if there is no validation part, if nothing was
    observed in it, or if the error is infinite.
    """
    rows = dataset.split.validation_rows
    if not rows:
        return None
    network.eval()
    if recipe.learning.adapts_readout:
        error = streaming_error(network, dataset, recipe, rows)
    else:
        truth = dataset.truth[rows.start : rows.stop]
        error = float((one_step(network, dataset, rows) - truth).square().nanmean())
    if recipe.closed_loop:
        error += closed_loop_error(network, dataset, rows, every=recipe.piece, steps=recipe.closed_loop)
    return error if math.isfinite(error) else None
