"""Figures, drawn without a display and without matplotlib's global state."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from models.scaling import Floats

TRUTH, ONE_STEP, FREE = "#9aa3ad", "#1f6fb4", "#d1495b"
MOST_PANELS = 4


def draw_training(
    path: Path,
    title: str,
    targets: Sequence[str],
    rows: range,
    truth: Floats,
    one_step: Floats,
    free: Floats | None,
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


def draw_backtest(
    path: Path, title: str, targets: Sequence[str], rows: range, truth: Floats, lines: dict[str, Floats]
) -> None:
    """The true series and predictions over it; `lines` are [rows, targets] in the data's own units."""
    figure, panels = _panels(len(targets), title)
    for column, axes in enumerate(panels):
        axes.plot(rows, truth[:, column], color=TRUTH, linewidth=4, label="true", solid_capstyle="round")
        for (name, values), color in zip(lines.items(), (ONE_STEP, FREE), strict=False):
            axes.plot(rows, values[:, column], color=color, linewidth=1.1, label=name)
        axes.set_ylabel(targets[column])
    _finish(figure, panels, path)


def _panels(targets: int, title: str) -> tuple[Figure, list[Axes]]:
    count = min(targets, MOST_PANELS)
    figure = Figure(figsize=(9, 1.2 + 2.2 * count), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        title if count == targets else f"{title} (the first {count} of {targets} targets)", fontsize=11
    )
    return figure, list(np.atleast_1d(figure.subplots(count, 1, sharex=True)))


def _finish(figure: Figure, panels: list[Axes], path: Path) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    panels[-1].set_xlabel("row")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    # Without the program's name in it, the same figure is the same file.
    figure.savefig(path, dpi=100, metadata={"Software": None})
