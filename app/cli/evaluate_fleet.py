"""The tables of `carryover evaluate` for many series."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from app.cli.tables import format_number, print_rows

if TYPE_CHECKING:
    from models.artifact.artifact import Artifact
    from models.data.series import Series
    from models.evaluation.fleet_backtest import SeriesResult

MOST_SHOWN = 40  # series in a table; `--json` has all


def evaluate_fleet(
    model: Artifact,
    fleet: Mapping[str, Series],
    parts: Sequence[float],
    *,
    chunk: int,
    season: int | None,
    horizons: tuple[int, ...],
    as_json: bool,
) -> None:
    """Evaluate each series, and print the errors of each and their means."""
    from models.evaluation.fleet_backtest import as_document, backtest_fleet

    found = backtest_fleet(model, fleet, parts, chunk=chunk, season=season, horizons=horizons)
    results = list(found)
    if as_json:
        print(json.dumps(as_document(model, results), indent=2, allow_nan=False))
    else:
        _print_tables(model, results, chunk)


def _print_tables(model: Artifact, results: Sequence[SeriesResult], chunk: int) -> None:
    from models.evaluation.fleet_backtest import overall_forecasts, overall_scores

    overall = overall_scores(results)
    title = f"{model.name}, {len(results)} series, chunks of {chunk}; MSE, each series in its own scale"
    rows = {
        _label(result): [format_number(_mse(result.backtest.scores, method)) for method in overall]
        for result in results[:MOST_SHOWN]
    }
    print_rows(
        title, tuple(overall), rows | {"all": [format_number(score.mse) for score in overall.values()]}
    )
    print_rows(
        "means over the series; scaled units",
        ("MSE", "MAE", "RMSE", "MASE", "skill"),
        {method: [format_number(value) for value in astuple(score)] for method, score in overall.items()},
    )
    forecasts = overall_forecasts(results)
    rolling = results[0].rolling
    if rolling is not None:
        headings = [f"{name} {steps}" for steps in rolling.horizons for name in ("MSE", "MAE", "MASE")]
        rows = {
            method: [format_number(value) for score in scores for value in astuple(score)]
            for method, scores in forecasts.items()
        }
        print_rows("forecasts, over all their steps; means over the series; scaled units", headings, rows)
    if len(results) > MOST_SHOWN:
        print(f"not shown: {len(results) - MOST_SHOWN} more series; --json has all")
    if not all(result.known for result in results):
        print("* the network was not trained on this series: its session found its own scale")


def _label(result: SeriesResult) -> str:
    return result.name if result.known else f"{result.name} *"


def _mse(scores: Mapping[str, object], method: str) -> float | None:
    return getattr(scores.get(method), "mse", None)
