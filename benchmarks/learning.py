"""Measure what sessions learn on recorded streams over HTTP, and print the tables of
docs/explanation/learning.md.

    python -m benchmarks.learning ../data --traffic traffic_hourly.csv

It also draws the figures of that page. The folder must contain ETTh1.csv and nab/; the page describes where
they come from, and which data were used to choose the settings. Every stream uses the recipe `drifting`,
which was chosen on rows 0 to 3,599 of ETTh1. `benchmarks.leaderboard` measures forecasts of many steps.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.served import LONGEST, Answers, Array, sent, served
from benchmarks.textbook import ETTH1_SPLIT, Figure, at_least, at_most, table
from models.artifact.files import Artifact
from models.data.dataset import Split, open_series, prepare, split_rows
from models.data.scaling import Column
from models.data.series import Series
from models.errors import BadData
from models.evaluation.backtest import FROZEN, NETWORK, ONLINE_AR, PERSISTENCE, SEASONAL, Backtest, backtest
from models.evaluation.bands import coverage, surprise_threshold, surprising_ranges
from models.evaluation.figures import BacktestPlot, draw_backtest
from models.evaluation.report import write_report
from models.forecaster import Forecaster
from models.training.recipe import DRIFTING, Recipe
from models.training.training import Training

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SEEDS = (0, 1, 2)
MISSING = 0.2
TRAFFIC = ("traffic_volume", "temp", "clouds_all")
HORIZONS = (1, 4, 12, 24, 48, 96)
NAB_SPLIT = (0.2, 0.05, 0.75)
TEN_DAYS = range(6840, 7080)  # of ETTh1, drawn: around its most surprising hours


@dataclass(frozen=True)
class Recorded:
    """A stream that was sent.

    Attributes
    ----------
    observations
        [rows, columns], own units, as they are sent: NaN is a gap.
    series
        The same, with time features: what is learnt from.
    """

    observations: Array
    series: Series
    split: Split

    @property
    def seconds(self) -> Array | None:
        """[rows], for a model with time features."""
        return self.series.seconds() if self.series.time_features else None


def main() -> int:
    """Measure everything; the exit status tells whether every bound was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with ETTh1.csv and nab/")
    parser.add_argument("--traffic", type=Path, help="the hourly traffic file, for checking")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        sections = {"ETTh1": list(etth1_figures(arguments.data / "ETTh1.csv", Path(scratch)))}
        if arguments.traffic:
            sections["A second stream"] = list(traffic_figures(arguments.traffic, Path(scratch)))
        for path in sorted((arguments.data / "nab").glob("*.csv")):
            sections[f"NAB: {path.stem}"] = list(nab_figures(path, Path(scratch)))
    for title, figures in sections.items():
        print(f"## {title}\n\n{table(figures)}\n")
    return 0 if all(figure.holds for figures in sections.values() for figure in figures) else 1


def etth1_figures(path: Path, folder: Path) -> Iterator[Figure]:
    """The protocol of FSNet: one step ahead through rows 3,600 to 14,399, MSE over 7 scaled columns."""
    recorded = full(open_series(str(path), time_features=["hour_of_day"]), ETTH1_SPLIT)
    for seed in SEEDS:
        artifact = learnt(recorded, folder / f"seed-{seed}" / "etth1", replace(DRIFTING, seed=seed))
        result = backtest(artifact, recorded.series, ETTH1_SPLIT)
        yield at_most(f"MSE, evaluated, seed {seed}", result.scores[NETWORK].mse, 0.250)
        if seed == SEEDS[0]:
            first, beside = artifact, list(others(result))
    yield from beside
    inputs = first, recorded
    random = np.random.default_rng(1).random(recorded.observations.shape)
    holes = replace(recorded, observations=np.where(random < MISSING, np.nan, recorded.observations))
    with served(folder / f"seed-{SEEDS[0]}", folder) as server:
        whole = send(server.port, "whole", *inputs)
        again = send(server.port, "again", *inputs, longest=2000)
        gappy = send(server.port, "gappy", first, holes)
    complete, missing = mean_square(*inputs, whole), mean_square(first, holes, gappy)
    yield at_most("MSE over HTTP, chunks of 1 to 200", complete, 0.250)
    yield from covered(*inputs, whole)
    yield at_most("other chunk sizes: largest relative difference", apart(first, whole, again), 1e-5)
    yield Figure("20 % of the values missing: MSE of the rest", missing, None, True)
    yield at_most(
        "20 % of the values missing: MSE of the rest, relative to the complete stream",
        missing / complete,
        1.25,
    )
    yield from forecasts(*inputs)
    draw(IMAGES / "learning-etth1.png", *inputs, whole, rows=TEN_DAYS, targets=("HUFL", "OT"))


def traffic_figures(path: Path, folder: Path) -> Iterator[Figure]:
    """Hourly traffic, temperature and clouds, under the same protocol; what is missing is sent as null."""
    series = open_series(str(path), TRAFFIC, time_features=["hour_of_day"], gaps=True)
    recorded = full(series, ETTH1_SPLIT)
    artifact = learnt(recorded, folder / "second" / "traffic", DRIFTING)
    yield from others(backtest(artifact, recorded.series, ETTH1_SPLIT))
    with served(folder / "second", folder) as server:
        answers = send(server.port, "traffic", artifact, recorded)
    yield Figure("MSE over HTTP, gaps as null", mean_square(artifact, recorded, answers), None, True)
    yield from covered(artifact, recorded, answers)


def nab_figures(path: Path, folder: Path) -> Iterator[Figure]:
    """The first fifth is learnt from; where the highest 1 % of the surprise of the rest lie."""
    series = open_series(str(path))
    with contextlib.suppress(BadData):  # two of the four are irregular: no time features there
        series = series.with_time_features(["hour_of_day"])
    recorded = full(series, split_rows(len(series), NAB_SPLIT))
    artifact = learnt(recorded, folder / path.stem / path.stem, DRIFTING)
    with served(folder / path.stem, folder) as server:
        answers = send(server.port, "nab", artifact, recorded)
    rows = recorded.split.test_rows
    found = surprising_ranges(answers.scores[rows.start :], rows)
    yield Figure("periods with the highest 1 % of the surprise", float(len(found)), None, True)
    yield from (Figure(when(series, place), float(len(place)), None, True) for place in found)
    draw(IMAGES / f"learning-{path.stem}.png", artifact, recorded, answers, rows, artifact.targets)


def full(series: Series, split: Split) -> Recorded:
    """All of a series, its gaps sent as gaps."""
    return Recorded(series.pick(made_of(series)), series, split)


def made_of(series: Series) -> tuple[str, ...]:
    """The columns that are not made from the times."""
    return series.columns[: len(series.columns) - 2 * len(series.time_features)]


def learnt(recorded: Recorded, folder: Path, recipe: Recipe) -> Artifact:
    """Trained by the recipe and written to the folder."""
    columns = [Column(name) for name in recorded.series.columns]
    dataset = prepare(recorded.series, columns, made_of(recorded.series), recorded.split)
    training = Training(dataset, recipe)
    list(training.run())
    return write_report(training, folder.name, recorded.series.name, 0.0, folder)


def send(port: int, session: str, artifact: Artifact, recorded: Recorded, longest: int = LONGEST) -> Answers:
    """All rows up to the end of the test part."""
    rows = slice(recorded.split.test_rows.stop)
    seconds = None if recorded.seconds is None else recorded.seconds[rows]
    return sent(port, session, artifact.name, recorded.observations[rows], seconds, longest)


def others(result: Backtest) -> Iterator[Figure]:
    """What the same rows cost others, as `carryover evaluate` tells it."""
    for method in (FROZEN, PERSISTENCE, SEASONAL, ONLINE_AR):
        if method in result.scores:
            yield Figure(f"MSE, {method}", result.scores[method].mse, None, True)


def mean_square(artifact: Artifact, recorded: Recorded, answers: Answers) -> float:
    """Over all that was observed in the test part, scaled."""
    return float(np.nanmean(np.square(errors(artifact, recorded, answers.predictions))))


def errors(artifact: Artifact, recorded: Recorded, said: Array) -> Array:
    """[test rows, targets], scaled; NaN where nothing was observed."""
    rows = slice(recorded.split.test_rows.start, recorded.split.test_rows.stop)
    apart: Array = (recorded.observations[rows] - said[rows]) / artifact.target_scaling.std
    return apart


def covered(artifact: Artifact, recorded: Recorded, answers: Answers) -> Iterator[Figure]:
    """The intervals at 0.9, beside a fixed band that covers 0.9 of the validation rows."""
    half = (answers.upper - answers.lower) / 2
    validation = replace(recorded, split=Split(recorded.split.train, 0, recorded.split.validation))
    past = np.abs(errors(artifact, validation, answers.predictions))
    rows = slice(recorded.split.test_rows.start, recorded.split.test_rows.stop)
    sizes = np.abs(errors(artifact, recorded, answers.predictions))
    seen = ~np.isnan(sizes).any(axis=1)
    given = coverage(sizes[seen], half[rows][seen] / artifact.target_scaling.std)
    fixed = coverage(sizes[seen], np.nanquantile(past, 0.9, axis=0)[None])
    yield at_least("coverage at 0.9, lowest of a column", given.least, 0.885)
    yield at_most("coverage at 0.9, highest of a column", given.most, 0.915)
    yield at_least("coverage at 0.9, lowest of a column in 1,000 rows", given.window_least or 0.0, 0.85)
    yield at_most("coverage at 0.9, highest of a column in 1,000 rows", given.window_most or 1.0, 0.95)
    yield Figure("mean interval width, scaled", given.width, None, True)
    yield Figure("fixed intervals: mean width, scaled", fixed.width, None, True)
    yield Figure("fixed intervals: lowest coverage of a column", fixed.least, None, True)
    yield Figure(
        "fixed intervals: lowest coverage of a column in 1,000 rows", fixed.window_least or 0.0, None, True
    )


def forecasts(artifact: Artifact, recorded: Recorded) -> Iterator[Figure]:
    """Share of all columns within the intervals of forecasts that begin all along the test part; offline."""
    forecaster, rows = Forecaster(artifact), recorded.split.test_rows
    observations = recorded.series.values.astype(np.float32)
    carries, inside, longest = forecaster.new_carry[None], [], HORIZONS[-1]
    level = artifact.learning.levels.index(0.9)
    begin = 0
    for start in range(rows.start, rows.stop - longest, longest + 1):  # at every hour of the day in turn
        piece, due = observations[begin:start], observations[start : start + longest]
        carries, begin = forecaster.observe(piece, np.array([len(piece)]), carries).carries, start
        forecast = forecaster.roll_out(carries, longest, due[None][..., forecaster.future_inputs])[0][0]
        half = forecaster.forecast_widths(carries, longest)[0, :, level]
        inside.append(np.abs(due[:, : artifact.output_size] - forecast) <= half)
    shares = np.mean(inside, axis=(0, 2))
    for horizon in HORIZONS:
        yield Figure(f"forecasts: coverage at 0.9, {horizon} steps", float(shares[horizon - 1]), None, True)


def apart(artifact: Artifact, left: Answers, right: Answers) -> float:
    """The largest difference of two answers, over the spread of what is answered."""
    pairs = ((left.predictions, right.predictions), (left.lower, right.lower), (left.upper, right.upper))
    return max(float(np.nanmax(np.abs(a - b) / artifact.target_scaling.std)) for a, b in pairs)


def when(series: Series, place: range) -> str:
    """The times of a place, or its rows."""
    if series.times is None:
        return f"rows {place.start} to {place.stop - 1}"
    return " to ".join(str(series.times[row])[:16].replace("T", " ") for row in (place.start, place.stop - 1))


def draw(
    path: Path, artifact: Artifact, recorded: Recorded, answers: Answers, rows: range, targets: Sequence[str]
) -> None:
    """What the session said of these rows."""
    at, series = slice(rows.start, rows.stop), recorded.series
    stream = BacktestPlot(
        x=rows if series.times is None else series.times[at],
        truth=recorded.observations[at],
        lines={"prediction": answers.predictions[at]},
        level=0.9,
        lower=answers.lower[at],
        upper=answers.upper[at],
        surprise=answers.scores[at],
        surprise_threshold=surprise_threshold(answers.scores[recorded.split.test_rows.start :]),
    )
    title = f"{artifact.name}: one step ahead, over HTTP"
    draw_backtest(path, title, targets, stream.pick([artifact.targets.index(name) for name in targets]))


if __name__ == "__main__":
    sys.exit(main())
