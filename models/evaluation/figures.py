"""Figures, drawn without a display and without matplotlib's global state (pyplot)."""

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
MANY_ROWS = 1000  # with more rows, lines and dots are thinner


@dataclass(frozen=True, eq=False)
class TrainingPlot:
    """What a figure of a training shows; [rows, targets] in the data's own units.

    Attributes
    ----------
    rows
        The rows to draw.
    truth, one_step
        The true series, and each row predicted from the rows before it.
    free
        Predictions that run on their own predictions after `warmup` rows; None for a model that cannot.
    """

    rows: range
    truth: Doubles
    one_step: Doubles
    free: Doubles | None = None
    warmup: int = 0


def draw_training(path: Path, title: str, targets: Sequence[str], plot: TrainingPlot) -> None:
    """Draw the true series, one-step predictions and a free-running forecast."""
    rows, warmup = plot.rows, plot.warmup
    figure, panels = _panels(len(targets), title)
    for column, axes in enumerate(panels):
        axes.plot(rows, plot.truth[:, column], color=TRUTH, linewidth=4, label="true", solid_capstyle="round")
        axes.plot(rows, plot.one_step[:, column], color=ONE_STEP, linewidth=1.2, label="one step ahead")
        if plot.free is not None:
            axes.axvline(rows[warmup - 1], color=FREE, linewidth=0.8, linestyle=":")
            axes.plot(
                rows[warmup - 1 :],
                plot.free[warmup - 1 :, column],
                color=FREE,
                linewidth=1.4,
                linestyle="--",
                label=f"free-running after {warmup} observations",
            )
        axes.set_ylabel(targets[column])
    _finish(figure, panels, path)


@dataclass(frozen=True, eq=False)
class BacktestPlot:
    """What a figure of a backtest shows; [rows, targets] in the data's own units.

    Attributes
    ----------
    x
        The rows, or their times.
    truth, lines
        The true series, and predictions by name.
    level, lower, upper
        A level and the edges of its interval; None for a model without intervals.
    surprise, surprise_threshold
        [rows], and the lowest that counts as surprising; None for a model without intervals.
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
        """The same with the band of the level nearest to `level`, around the first line.

        Parameters
        ----------
        levels, widths
            Of the model, and their half-widths [rows, levels, targets].
        """
        nearest = min(range(len(levels)), key=lambda i: abs(levels[i] - level))
        predicted, half = next(iter(self.lines.values())), widths[:, nearest]
        return replace(self, level=levels[nearest], lower=predicted - half, upper=predicted + half)

    def pick(self, targets: list[int]) -> "BacktestPlot":
        """The same for these targets only."""
        return replace(
            self,
            truth=self.truth[:, targets],
            lines={name: values[:, targets] for name, values in self.lines.items()},
            lower=None if self.lower is None else self.lower[:, targets],
            upper=None if self.upper is None else self.upper[:, targets],
        )


def draw_backtest(path: Path, title: str, targets: Sequence[str], plot: BacktestPlot) -> None:
    """Draw the true series, predictions with their band, and what the band missed; below, the surprise."""
    figure, panels = _panels(len(targets), title, below=plot.surprise is not None)
    below = panels.pop() if plot.surprise is not None else None
    fine = 0.4 if len(plot.truth) > MANY_ROWS else 1.0
    for column, axes in enumerate(panels):
        x, truth = plot.x, plot.truth[:, column]
        axes.plot(x, truth, color=TRUTH, linewidth=3 * fine, label="true", solid_capstyle="round")
        for (name, values), color in zip(plot.lines.items(), (ONE_STEP, OTHER), strict=False):
            axes.plot(x, values[:, column], color=color, linewidth=1.1 * fine, label=name)
        if plot.lower is not None and plot.upper is not None:
            lower, upper = plot.lower[:, column], plot.upper[:, column]
            axes.fill_between(
                x,
                lower,
                upper,
                color=ONE_STEP,
                alpha=0.18,
                linewidth=0,
                label=f"{plot.level:.0%} interval",
            )
            missed = (truth < lower) | (truth > upper)
            axes.plot(
                np.asarray(x)[missed], truth[missed], ".", color=FREE, markersize=6 * fine, label="missed"
            )
        axes.set_ylabel(targets[column])
    if below is not None and plot.surprise is not None:
        _draw_scores(below, plot.x, plot.surprise, plot.surprise_threshold)
    _finish(figure, panels, path, below, dated=np.asarray(plot.x).dtype.kind == "M")


def _draw_scores(axes: Axes, x: Sequence[int] | Times, surprise: Doubles, threshold: float) -> None:
    """Draw -log10(1 - surprise), which shows a thousandth and a millionth as different."""
    rarity = -np.log10(np.maximum(1 - surprise, 1e-9))
    axes.fill_between(x, 0, np.nan_to_num(rarity), color=TRUTH, linewidth=0)
    high = surprise >= threshold
    axes.plot(np.asarray(x)[high], rarity[high], ".", color=FREE, markersize=4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("surprise")
    highest = max(2, int(np.nanmax(rarity, initial=0)) + 1)
    ticks = np.arange(0, highest + 1, 1 + highest // 6)
    axes.set_yticks(ticks, [f"{1 - 10.0**-tick:.{int(tick)}f}" for tick in ticks])


def _panels(targets: int, title: str, below: bool = False) -> tuple[Figure, list[Axes]]:
    """A panel for each target, and optionally a lower panel below them."""
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
    # Without the name of the program, the same figure is the same file, byte for byte.
    figure.savefig(path, dpi=100, metadata={"Software": None})
