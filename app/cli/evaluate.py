"""`carryover evaluate`: a streaming backtest of an artifact and baselines, as a table and a figure."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options
from app.cli.bundles import DataArguments, with_bundles
from app.cli.evaluate_fleet import evaluate_fleet
from app.cli.tables import format_number, print_rows
from models.wording import counted

if TYPE_CHECKING:
    from models.artifact.files import Artifact
    from models.data.dataset import Split
    from models.data.series import Series
    from models.data.tables.options import TableOptions
    from models.evaluation.backtest import Backtest, Score
    from models.evaluation.bands import Coverage
    from models.evaluation.figures import BacktestPlot
    from models.evaluation.rolling import Rolling

DRAWN_ROWS = 400
DRAWN_LEVEL = 0.9
SHOWN_SURPRISES = 5


@with_bundles
def evaluate(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.", show_default=False)],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]...",
            help="The file to stream: CSV, JSON Lines, Parquet or NPZ; or the built-in `sine`. Several "
            "files, a folder or a long table are many series. "
            "[default: `sine`, if the artifact was trained on it]",
            show_default=False,
        ),
    ] = None,
    split: options.Split = None,
    chunk: Annotated[int, typer.Option(min=1, help="Observations in a chunk.")] = 50,
    season: Annotated[
        int | None,
        typer.Option(min=1, help="Rows in a season. [default: estimated from the training part]"),
    ] = None,
    horizons: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Also forecast this many steps from every row, and compare the forecasts with baselines.",
            show_default=False,
        ),
    ] = None,
    *,
    reading: DataArguments,
    figure: Annotated[Path, typer.Option(help="File for the figure.")] = Path("evaluation.png"),
    no_figure: Annotated[bool, typer.Option("--no-figure", help="Write no figure.")] = False,
    drawn: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help=f"Rows in the figure, counted from the end. [default: {DRAWN_ROWS}]",
            show_default=False,
        ),
    ] = None,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...", help="Targets in the figure. [default: the first four]", show_default=False
        ),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Level of the intervals in the figure. [default: 0.9, or the nearest]",
            show_default=False,
        ),
    ] = None,
    by_target: Annotated[
        bool, typer.Option("--by-target", help="Print a table for each target, in its own unit.")
    ] = False,
    threads: options.Threads = 1,
    as_json: options.Json = False,
) -> None:
    """Stream the test part of a file through a trained network, and compare it with simple baselines.

    The network keeps its carry between chunks. Without --split, the test part is that of the training, if the
    network was trained on this file, and else the last 15 % of its rows. If the test part contains training
    rows, a note says so.

    Of many series, each is a session of its own, and there is no figure.

    For example: carryover evaluate artifacts/pump readings.csv
    """
    import torch

    from models.artifact.files import load
    from models.data.dataset import is_fleet
    from models.evaluation.backtest import backtest
    from models.evaluation.rolling import evaluate_forecasts

    torch.set_num_threads(threads)
    model = load(artifact)
    steps = _steps(options.parse_sizes(horizons, "--horizons"))
    many = reading.series_column is not None or model.fleet is not None
    if many or is_fleet(data or ["sine"], reading.table_options()):
        fleet = _fleet(model, data, reading)
        parts = _fleet_parts(model, split)
        evaluate_fleet(model, fleet, parts, chunk=chunk, season=season, horizons=steps, as_json=as_json)
        return
    series = _series(model, data[0] if data else None, reading)
    rows = _split(model, series, split)
    result = backtest(model, series, rows, chunk=chunk, season=season)
    rolling = evaluate_forecasts(model, series, rows, steps, season) if steps else None
    if not no_figure:
        _draw(result, figure, drawn or DRAWN_ROWS, options.parse_names(draw), level or DRAWN_LEVEL)
    if as_json:
        document = result.as_dict() | ({} if rolling is None else {"forecasts": rolling.as_dict()})
        print(json.dumps(document, indent=2, allow_nan=False))
        return
    _print_tables(result, by_target)
    if rolling is not None:
        _print_forecasts(rolling)
    if not no_figure:
        print(f"see {figure}")


def _steps(horizons: tuple[int, ...] | None) -> tuple[int, ...]:
    if horizons and min(horizons) < 1:
        raise typer.BadParameter("a horizon is a whole number from 1", param_hint="--horizons")
    return tuple(sorted(set(horizons or ())))


def _series(model: Artifact, data: str | None, reading: DataArguments) -> Series:
    from models.data.dataset import open_series
    from models.errors import BadData

    trained_on = _trained_on(model)
    data = data or ("sine" if trained_on == "sine" else None)
    if data is None:
        raise BadData(f"name the file to stream; the model was trained on {trained_on or 'an unknown file'}")
    series = open_series(data, *_as_trained(model, reading), of_model=True)
    options.print_notes(series.notes)
    return series


def _fleet(model: Artifact, data: list[str] | None, reading: DataArguments) -> dict[str, Series]:
    from models.data.dataset import open_fleet
    from models.errors import BadData

    if not data:
        raise BadData("name the files to stream: the model was trained on many series")
    fleet = open_fleet(data, *_as_trained(model, reading), of_model=True, label=reading.series_column)
    options.print_fleet_notes(fleet)
    return fleet


def _as_trained(
    model: Artifact, reading: DataArguments
) -> tuple[Sequence[str], Sequence[str], TableOptions, Sequence[str], bool, float | None]:
    """Columns, targets and how a file is read, as `open_series` and `open_fleet` take them."""
    columns = model.columns[: model.input_size - model.time_input_count]
    return columns, model.targets, reading.table_options(), model.time_features, reading.gaps, reading.step


def _fleet_parts(model: Artifact, given: str | None) -> Sequence[float]:
    """How each series is split: as in the training, if that was one of many series."""
    from models.data.dataset import DEFAULT_SPLIT

    source = model.metrics.get("data")
    trained = source.get("parts") if isinstance(source, dict) else None
    parts = options.parse_numbers(given, "--split")
    if parts is None and isinstance(trained, list) and all(type(part) in (int, float) for part in trained):
        return tuple(trained)
    return parts or DEFAULT_SPLIT


def _trained_on(model: Artifact) -> str | None:
    source = model.metrics.get("data")
    return source.get("source") if isinstance(source, dict) else None


def _split(model: Artifact, series: Series, given: str | None) -> Split:
    from models.data.dataset import DEFAULT_SPLIT, split_rows

    parts, trained = options.parse_numbers(given, "--split"), _trained_split(model, series)
    if parts is None and trained is not None and trained.test + trained.validation:
        # Without a test part, use the validation part: it only chose the epoch.
        rest = (trained.validation, trained.test) if trained.test else (0, trained.validation)
        return split_rows(len(series), (trained.train, *rest))
    split = split_rows(len(series), parts or DEFAULT_SPLIT)
    if trained is not None and split.test_rows.start < trained.train:
        print(
            f"note: the model was trained on the rows before {trained.train} of {series.name}",
            file=sys.stderr,
        )
    return split


def _trained_split(model: Artifact, series: Series) -> Split | None:
    """The split of the training, if it used this file; None if the metrics do not say."""
    from models.data.dataset import Split

    if _trained_on(model) != series.name or not isinstance(model.metrics["data"].get("split"), dict):
        return None
    parts = [model.metrics["data"]["split"].get(part) for part in ("train", "validation", "test")]
    return Split(*parts) if all(type(rows) is int and rows >= 0 for rows in parts) else None


def _draw(result: Backtest, path: Path, drawn: int, names: tuple[str, ...], level: float) -> None:
    from models.errors import BadData
    from models.evaluation.figures import draw_backtest

    targets = result.artifact.targets
    for name in names:
        if name not in targets:
            raise BadData(f"{name!r} is not a target of the model; its targets are {', '.join(targets)}")
    stream = _stream(result, slice(-drawn, None), level)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_backtest(
        path,
        f"{result.artifact.name}: one step ahead, in chunks of {result.chunk}",
        names or targets,
        stream.pick([targets.index(name) for name in names]) if names else stream,
    )


def _stream(result: Backtest, last: slice, level: float) -> BacktestPlot:
    """The last rows, with the interval whose level is nearest to `level`."""
    from models.evaluation.backtest import NETWORK, RESET
    from models.evaluation.figures import BacktestPlot

    along = result.rows[last] if result.times is None else result.times[last]
    names = (NETWORK,) if result.artifact.learning.enabled else (NETWORK, RESET)
    stream = BacktestPlot(along, result.truth[last], {name: result.predictions[name][last] for name in names})
    if result.widths is None or result.surprise is None:
        return stream
    stream = stream.with_interval(result.artifact.learning.levels, result.widths[last], level)
    return replace(stream, surprise=result.surprise[last], surprise_threshold=result.surprise_threshold())


def _print_tables(result: Backtest, by_target: bool) -> None:
    rows = f"rows {result.rows.start} to {result.rows.stop - 1}, chunks of {result.chunk}"
    season = f"season {result.season}" if result.season else "no season found"
    _print_table(f"{result.artifact.name}, {rows}, {season}; scaled units", result.scores)
    if result.bands:
        _print_bands(result)
    if by_target:
        units = {column.name: column.unit for column in result.artifact.inputs}
        for target, scores in result.by_target.items():
            _print_table(f"{target} [{units.get(target) or 'its own unit'}]", scores)


def _print_bands(result: Backtest) -> None:
    """Print the coverage of the intervals and of fixed bands, and the most surprising rows."""
    title = "intervals; `all` over all rows, by target; `1,000` in every window; widths scaled"
    headings = ("all", "1,000", "width", "fixed: all", "1,000", "width")
    rows = {
        f"{band.level:g}": [*_coverage_cells(band.given), *_coverage_cells(band.fixed)]
        for band in result.bands
    }
    print_rows(title, headings, rows)
    places = [_describe_rows(result, rows) for rows in result.surprises()]
    more = f", and {len(places) - SHOWN_SURPRISES} more" if len(places) > SHOWN_SURPRISES else ""
    print(f"most surprising: {', '.join(places[:SHOWN_SURPRISES])}{more}")


def _print_forecasts(rolling: Rolling) -> None:
    """Print the errors over all steps of a forecast, and how the intervals of its last step did."""
    headings = [f"{name} {steps}" for steps in rolling.horizons for name in ("MSE", "MAE", "MASE")]
    rows = {
        method: [format_number(value) for score in scores for value in astuple(score)]
        for method, scores in rolling.scores.items()
    }
    title = f"forecasts from {counted(len(rolling.rows), 'row')}, the mean over all their steps; scaled units"
    print_rows(title, headings, rows)
    if rolling.bands:
        headings = ["by target", "worst place", "after a miss", "interval score", "quantile loss"]
        bands = {
            f"step {steps}": [_format_range(band.least, band.most), *map(format_number, astuple(band)[2:])]
            for steps, band in zip(rolling.horizons, rolling.bands, strict=True)
        }
        print_rows(f"intervals of {rolling.level:g}: coverage, and two scores; scaled units", headings, bands)
    print(f"farthest forecast beyond the earlier rows: {rolling.excess:.2g} of their range")


def _coverage_cells(coverage: Coverage | None) -> list[str]:
    if coverage is None:
        return ["-"] * 3
    return [
        _format_range(coverage.least, coverage.most),
        _format_range(coverage.window_least, coverage.window_most),
        format_number(coverage.width),
    ]


def _format_range(least: float | None, most: float | None) -> str:
    return "-" if least is None or most is None or math.isnan(least) else f"{least:.3f} to {most:.3f}"


def _describe_rows(result: Backtest, rows: range) -> str:
    text = f"row {rows.start}" if len(rows) == 1 else f"rows {rows.start} to {rows.stop - 1}"
    if result.times is None:
        return text
    return f"{str(result.times[rows.start - result.rows.start])[:16]} ({text})"


def _print_table(title: str, scores: Mapping[str, Score]) -> None:
    rows = {method: [format_number(value) for value in astuple(score)] for method, score in scores.items()}
    print_rows(title, ("MSE", "MAE", "RMSE", "MASE", "skill"), rows)
