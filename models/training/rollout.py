"""Run a network along a series: one step ahead, or freely on its own predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.dataset import Dataset
from models.errors import BadData
from models.nets.recurrent import Carry, RecurrentNetwork


@dataclass(frozen=True)
class FreeRun:
    """Predictions over `warmup` observed rows and then `steps` unobserved rows, from a zero carry.

    Attributes
    ----------
    rows
        The rows that are predicted.
    predictions, truth
        [rows, outputs], scaled.
    """

    warmup: int
    steps: int
    rows: range
    predictions: Tensor
    truth: Tensor

    def errors(self) -> Tensor:
        """[steps, outputs], scaled: of the unobserved rows only."""
        return (self.predictions - self.truth)[self.warmup - 1 :]


def one_step(
    network: RecurrentNetwork, dataset: Dataset, rows: range, *, reset_every: int | None = None
) -> Tensor:
    """Predict each row from everything before it; the carry is kept from row 0 on.

    Parameters
    ----------
    rows
        The rows to predict, from row 1 at least: nothing comes before row 0.
    reset_every
        Instead, start at the first of the rows and zero the carry every this many rows.

    Returns
    -------
    Tensor
        [rows, outputs], scaled.
    """
    with torch.no_grad():
        observations = dataset.observations[: rows.stop - 1].to(next(network.parameters()).device)
        if reset_every is None:
            outputs, _ = network(observations[None])
            predictions: Tensor = outputs[0, rows.start - 1 :].cpu()
            return predictions
        pieces = torch.split(observations[rows.start - 1 :], reset_every)
        return torch.cat([network(piece[None])[0][0] for piece in pieces]).cpu()


def run_freely(
    network: RecurrentNetwork,
    carry: Carry,
    prediction: Tensor,
    feedback: Sequence[int | None],
    steps: int,
    ahead: Tensor | None = None,
) -> Tensor:
    """Feed predictions back in.

    Parameters
    ----------
    carry, prediction
        After the last observation; the prediction [batch, outputs] is of the first unobserved row.
    feedback
        For each input the output that predicts it, or None.
    steps
        How many further predictions to make.
    ahead
        [batch, steps, inputs], scaled; read for the inputs without feedback (those known ahead).

    Returns
    -------
    Tensor
        [batch, steps, outputs], scaled, attached to the graph: of the rows after the first unobserved row.
    """
    known = [column for column, output in enumerate(feedback) if output is None]
    outputs: list[Tensor] = []
    for step in range(steps):
        observation = prediction[:, [output or 0 for output in feedback]]  # [batch, inputs]
        if known and ahead is not None:
            observation = observation.index_copy(
                1, torch.tensor(known, device=ahead.device), ahead[:, step, known]
            )
        moved, carry = network(observation[:, None], carry)
        prediction = moved[:, 0]
        outputs.append(prediction)
    return torch.stack(outputs, dim=1) if outputs else prediction[:, None][:, :0]


def free_run(network: RecurrentNetwork, dataset: Dataset, start: int, warmup: int, steps: int) -> FreeRun:
    """Warm up on rows `start` to `start + warmup - 1` from a zero carry, then run freely for `steps` rows.

    Raises
    ------
    BadData
        An input is neither predicted nor known ahead, or the series is too short.
    """
    rows = range(start + 1, start + warmup + steps)
    check_runs_freely(dataset)
    if rows.stop > len(dataset.truth):
        raise BadData(f"a free run to row {rows.stop} is too long for a series of {len(dataset.truth)} rows")
    observations = dataset.observations[start : rows.stop].to(next(network.parameters()).device)[None]
    with torch.no_grad():
        warm, carry = network(observations[:, :warmup])
        ahead = observations[:, warmup:]
        free = run_freely(network, carry, warm[:, -1], dataset.feedback, steps - 1, ahead)
    predictions = torch.cat([warm, free], dim=1)[0].cpu()
    return FreeRun(warmup, steps, rows, predictions, dataset.truth[rows.start : rows.stop])


def closed_loop_error(
    network: RecurrentNetwork, dataset: Dataset, rows: range, *, every: int, steps: int
) -> float:
    """Mean squared error, scaled, of free runs of `steps` rows that start every `every` rows.

    Each run starts from the carry of everything before it, stays within `rows`, and is measured on the rows
    after its first unobserved row.
    """
    device = next(network.parameters()).device
    observations, truth = dataset.observations.to(device)[None], dataset.truth.to(device)[None]
    errors: list[Tensor] = []
    with torch.no_grad():
        outputs, carry = network(observations[:, : rows.start])
        for start in range(rows.start, rows.stop - 1, every):
            end = min(start + steps, rows.stop - 1)
            ahead = observations[:, start:end]
            free = run_freely(network, carry, outputs[:, -1], dataset.feedback, end - start, ahead)
            errors.append((free - truth[:, start + 1 : end + 1]).square().flatten())
            outputs, carry = network(observations[:, start : start + every], carry)
    return float(torch.cat(errors).nanmean()) if errors else 0.0


def check_runs_freely(dataset: Dataset) -> None:
    """Refuse a data set whose network cannot be fed its own predictions.

    Raises
    ------
    BadData
    """
    if dataset.missing:
        raise BadData(f"cannot run freely: no target predicts input {', '.join(dataset.missing)}")


def root_mean_square(errors: Tensor) -> float:
    """RMSE of errors of any shape, without gaps; NaN if there are only gaps."""
    return float(errors.double().square().nanmean().sqrt())
