"""Figures, drawn without a display and without matplotlib's global state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from models.arrays import Doubles, Times

TRUTH, ONE_STEP, FREE, OTHER = "#9aa3ad", "#1f6fb4", "#d1495b", "#8d6a9f"
MOST_PANELS = 4
MANY_ROWS = 1000  # beyond them lines and dots are drawn finer


def draw_training(
    path: Path,
    title: str,
    targets: Sequence[str],
    rows: range,
    truth: Doubles,
    one_step: Doubles,
    free: Doubles | None,
    warmup: int,
) -> None:
    """The true wave, one-step predictions and a free-running forecast over it.

    Parameters
    ----------
    rows
        The rows that are drawn.
    truth, one_step, free
        [rows, targets] in the data's own units; `free` runs on its own predictions after `warmup` rows, and
        is None for a model that cannot.
    """
    figure, panels = _panels(len(targets), title)
    for column, axes in enumerate(panels):
        axes.plot(rows, truth[:, column], color=TRUTH, linewidth=4, label="true", solid_capstyle="round")
        axes.plot(rows, one_step[:, column], color=ONE_STEP, linewidth=1.2, label="one step ahead")
        if free is not None:
            axes.axvline(rows[warmup - 1], color=FREE, linewidth=0.8, linestyle=":")
            axes.plot(
                rows[warmup - 1 :],
                free[warmup - 1 :, column],
                color=FREE,
                linewidth=1.4,
                linestyle="--",
                label=f"free-running after {warmup} observations",
            )
        axes.set_ylabel(targets[column])
    _finish(figure, panels, path)


@dataclass(frozen=True, eq=False)
class BacktestPlot:
    """What is drawn of a backtest; [rows, targets] in the data's own units.

    `x` are the rows, or their times; `lower` and `upper` are the edges of the interval of this `level`,
    and `surprise` [rows] the scores with the least of them that counts as surprising; None where the model
    gives none.
    """

    x: Sequence[int] | Times
    truth: Doubles
    lines: Mapping[str, Doubles]
    level: float | None = None
    lower: Doubles | None = None
    upper: Doubles | None = None
    surprise: Doubles | None = None
    surprise_threshold: float = 1.0

    def with_interval(self, levels: Sequence[float], widths: Doubles, level: float = 0.9) -> "BacktestPlot":
        """With the band of the level nearest to this one, around the first line.

        Parameters
        ----------
        levels, widths
            Those of the model, and the half-widths [rows, levels, targets] that it gave.
        """
        nearest = min(range(len(levels)), key=lambda place: abs(levels[place] - level))
        predicted, half = next(iter(self.lines.values())), widths[:, nearest]
        return replace(self, level=levels[nearest], lower=predicted - half, upper=predicted + half)

    def pick(self, targets: list[int]) -> "BacktestPlot":
        """Of some targets alone."""
        return replace(
            self,
            truth=self.truth[:, targets],
            lines={name: values[:, targets] for name, values in self.lines.items()},
            lower=None if self.lower is None else self.lower[:, targets],
            upper=None if self.upper is None else self.upper[:, targets],
        )


def draw_backtest(path: Path, title: str, targets: Sequence[str], stream: BacktestPlot) -> None:
    """The true series, the predictions over it with their band, what the band missed; the scores below."""
    figure, panels = _panels(len(targets), title, below=stream.surprise is not None)
    below = panels.pop() if stream.surprise is not None else None
    fine = 0.4 if len(stream.truth) > MANY_ROWS else 1.0
    for column, axes in enumerate(panels):
        along, truth = stream.x, stream.truth[:, column]
        axes.plot(along, truth, color=TRUTH, linewidth=3 * fine, label="true", solid_capstyle="round")
        for (name, values), color in zip(stream.lines.items(), (ONE_STEP, OTHER), strict=False):
            axes.plot(along, values[:, column], color=color, linewidth=1.1 * fine, label=name)
        if stream.lower is not None and stream.upper is not None:
            lower, upper = stream.lower[:, column], stream.upper[:, column]
            axes.fill_between(
                along,
                lower,
                upper,
                color=ONE_STEP,
                alpha=0.18,
                linewidth=0,
                label=f"{stream.level:.0%} interval",
            )
            missed = (truth < lower) | (truth > upper)
            axes.plot(
                np.asarray(along)[missed], truth[missed], ".", color=FREE, markersize=6 * fine, label="missed"
            )
        axes.set_ylabel(targets[column])
    if below is not None and stream.surprise is not None:
        _draw_scores(below, stream.x, stream.surprise, stream.surprise_threshold)
    _finish(figure, panels, path, below, dated=np.asarray(stream.x).dtype.kind == "M")


def _draw_scores(axes: Axes, along: Sequence[int] | Times, surprise: Doubles, surprising: float) -> None:
    """Scores as -log10(1 - score), on which a thousandth and a millionth do not look alike."""
    rarity = -np.log10(np.maximum(1 - surprise, 1e-9))
    axes.fill_between(along, 0, np.nan_to_num(rarity), color=TRUTH, linewidth=0)
    high = surprise >= surprising
    axes.plot(np.asarray(along)[high], rarity[high], ".", color=FREE, markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("score")
    highest = max(2, int(np.nanmax(rarity, initial=0)) + 1)
    ticks = np.arange(0, highest + 1, 1 + highest // 6)
    axes.set_yticks(ticks, [f"{1 - 10.0**-tick:.{int(tick)}f}" for tick in ticks])


def _panels(targets: int, title: str, below: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel for each target, and perhaps a lower one below them."""
    count = min(targets, MOST_PANELS)
    figure = Figure(figsize=(9, 1.2 + 2.2 * count + 1.2 * below), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        title if count == targets else f"{title} (the first {count} of {targets} targets)", fontsize=11
    )
    heights = [2.2] * count + [1.2] * below
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    return figure, list(np.atleast_1d(panels))


def _finish(
    figure: Figure, panels: list[Axes], path: Path, below: Axes | None = None, dated: bool = False
) -> None:
    stacked = panels if below is None else [*panels, below]
    for axes in stacked:
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    if dated:
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        stacked[-1].xaxis.set_major_locator(locator)
        formatter = ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
        stacked[-1].xaxis.set_major_formatter(formatter)
    else:
        stacked[-1].set_xlabel("row")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    # Without the program's name in it, the same figure is the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
