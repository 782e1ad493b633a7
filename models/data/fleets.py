"""Many series made ready for one network: each has its own scale, and all have the same columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from models.arrays import Doubles
from models.data.dataset import Dataset
from models.data.scaling import Scaling
from models.errors import BadData

MOST_WINDOWS = 200  # of a series, by which the growth of its spread is measured
MOST_GROWTH = 100.0


def check_alike(datasets: Mapping[str, Dataset]) -> None:
    """Refuse series that one network cannot have.

    Raises
    ------
    BadData
        Two of them have other columns, or other steps between their rows.
    """
    first, *others = datasets.items()
    for name, dataset in others:
        if dataset.names != first[1].names:
            raise BadData(
                f"the series {first[0]!r} has the columns {', '.join(first[1].names)}, "
                f"{name!r} has {', '.join(dataset.names)}; name the ones to use: --columns"
            )
        if dataset.interval_seconds != first[1].interval_seconds:
            raise BadData(
                f"the series {first[0]!r} has a row every {first[1].interval_seconds} s, "
                f"{name!r} every {dataset.interval_seconds} s; time features need one step: --resample"
            )


def fleet_scaling(scalings: Sequence[Scaling]) -> Scaling:
    """The scale of a series of which nothing is known: the median level, and the spread of all series."""
    means, stds = np.stack([each.mean for each in scalings]), np.stack([each.std for each in scalings])
    return Scaling(np.median(means, axis=0), np.sqrt(np.square(stds).mean(axis=0) + means.var(axis=0)))


def spread_growth(datasets: Sequence[Dataset], rows: int) -> float:
    """How many times the standard deviation of so few rows in a row that of the whole training part is.

    The median over the columns of all series and over rows all along their training parts; at least 1.
    """
    ratios = [_ratios(dataset.truth[: dataset.split.train].double().numpy(), rows) for dataset in datasets]
    found = np.concatenate(ratios)
    return float(f"{np.clip(np.median(found), 1, MOST_GROWTH):.4g}") if len(found) else 1.0


def _ratios(values: Doubles, rows: int) -> Doubles:
    """Of scaled values [rows, columns], whose standard deviation as a whole is about 1."""
    if len(values) < rows:
        return np.empty(0)
    every = max(1, (len(values) - rows + 1) // MOST_WINDOWS)
    windows = np.lib.stride_tricks.sliding_window_view(values, rows, axis=0)[::every]
    spreads = windows.std(axis=2)  # NaN where a value is missing
    whole = np.broadcast_to(np.nanstd(values, axis=0), spreads.shape)
    return np.asarray((whole[spreads > 0] / spreads[spreads > 0]).ravel())


def stream_sizes(datasets: Sequence[Dataset], streams: int) -> tuple[int, int]:
    """Passes of an epoch, and steps of its streams: together about as many as there are training rows.

    Raises
    ------
    BadData
        No series has 2 steps.
    """
    pairs = [dataset.split.train - 1 for dataset in datasets]
    steps = min(max(pairs), max(2, sum(pairs) // streams))
    if steps < 2:
        raise BadData("the training parts are too short to learn from")
    return max(1, round(sum(pairs) / (streams * steps))), steps


def draw_streams(datasets: Sequence[Dataset], streams: int, steps: int) -> tuple[Tensor, Tensor]:
    """Draw streams of training rows: a series by its length, and rows in it, by torch's generator.

    Returns
    -------
    observations, truth
        [streams, steps, inputs] and [streams, steps, outputs]; truth is one step ahead. A series that is too
        short goes on with its last observation, and with NaN as truth.
    """
    pairs = torch.tensor([dataset.split.train - 1 for dataset in datasets])
    drawn = torch.multinomial(pairs.double(), streams, replacement=True).tolist()
    observations, truth = [], []
    for which in drawn:
        dataset = datasets[which]
        count = min(steps, dataset.split.train - 1)
        start = int(torch.randint(dataset.split.train - count, ()))
        seen, ahead = (
            dataset.observations[start : start + count],
            dataset.truth[start + 1 : start + count + 1],
        )
        if count < steps:
            seen = torch.cat([seen, seen[-1:].expand(steps - count, -1)])
            ahead = torch.cat([ahead, torch.full((steps - count, ahead.shape[1]), torch.nan)])
        observations.append(seen)
        truth.append(ahead)
    return torch.stack(observations), torch.stack(truth)
