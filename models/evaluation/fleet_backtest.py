"""The streaming backtest of many series, and of one network for all of them.

A session of a series that the network was trained on has its scale from the first observation. One of another
series finds its own scale on the way; its errors are in the scale of the training part of its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.artifact.artifact import Artifact
from models.data.dataset import check_observed, fit_scaling, split_rows
from models.data.measures import json_fields, mean_observed, measured, skill
from models.data.series import Series
from models.errors import BadData
from models.evaluation.backtest import PERSISTENCE, Backtest, Score, backtest
from models.evaluation.rolling import HorizonScore, Rolling, evaluate_forecasts


@dataclass(frozen=True, eq=False)
class SeriesResult:
    """The result of one series.

    Attributes
    ----------
    name
        Of the series.
    known
        Whether the network was trained on it.
    scores, forecasts
        As of `Backtest` and `Rolling`; no forecasts without horizons.
    """

    name: str
    known: bool
    backtest: Backtest
    rolling: Rolling | None

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        found = {"series": self.name, "known": self.known, **self.backtest.as_dict()}
        return found if self.rolling is None else {**found, "forecasts": self.rolling.as_dict()}


def backtest_fleet(
    artifact: Artifact,
    fleet: Mapping[str, Series],
    parts: Sequence[float],
    *,
    chunk: int = 50,
    season: int | None = None,
    horizons: Sequence[int] = (),
) -> Iterator[SeriesResult]:
    """Stream the test part of each series through a session of its own.

    Parameters
    ----------
    artifact
        Of one series, or of many.
    fleet
        The series by name, each with all columns of the artifact.
    parts
        By which each is split: fractions, or numbers of rows.
    chunk, season, horizons
        As of `backtest` and `evaluate_forecasts`.

    Raises
    ------
    BadData
        As from these; the message names the series.
    """
    for name, series in fleet.items():
        try:
            split = split_rows(len(series), parts)
            known, of_series, served = True, artifact, None
            if artifact.fleet is not None:
                scaling = artifact.fleet.scaling(name)
                known = scaling is not None
                served = None if known else artifact
                check_observed(series, artifact.columns, split)
                past = series.pick(artifact.columns)[: split.train]
                of_series = artifact.of_series(fit_scaling(past) if scaling is None else scaling)
            result = backtest(of_series, series, split, chunk=chunk, season=season, served=served)
            rolling = None
            if horizons:
                rolling = evaluate_forecasts(of_series, series, split, horizons, season, served)
        except BadData as error:
            raise BadData(f"series {name!r}: {error}") from error
        yield SeriesResult(name, known, result, rolling)


def overall_scores(results: Sequence[SeriesResult]) -> dict[str, Score]:
    """By method, the means over the series; without the methods that not all series have."""
    by_method = _of_all([result.backtest.scores for result in results])
    mse = {method: _mean([score.mse for score in scores]) for method, scores in by_method.items()}
    return {
        method: Score(
            mse=mse[method],
            mae=_mean([score.mae for score in scores]),
            rmse=mse[method] ** 0.5,
            mase=measured(_mean([np.nan if score.mase is None else score.mase for score in scores])),
            skill=skill(measured(mse[method]), measured(mse[PERSISTENCE])),
        )
        for method, scores in by_method.items()
    }


def overall_forecasts(results: Sequence[SeriesResult]) -> dict[str, tuple[HorizonScore, ...]]:
    """By method, the means over the series for each horizon; empty without horizons."""
    rolling = [result.rolling for result in results if result.rolling is not None]
    by_method = _of_all([each.scores for each in rolling])
    return {
        method: tuple(
            HorizonScore(*(_mean([getattr(score, name) for score in at]) for name in ("mse", "mae", "mase")))
            for at in zip(*scores, strict=True)
        )
        for method, scores in by_method.items()
    }


def as_document(artifact: Artifact, results: Sequence[SeriesResult]) -> dict[str, Any]:
    """All results as JSON values."""
    forecasts = overall_forecasts(results)
    rolling = results[0].rolling
    overall: dict[str, Any] = {
        "scaled": {method: json_fields(score) for method, score in overall_scores(results).items()}
    }
    if rolling is not None:
        overall["forecasts"] = {
            method: {
                str(steps): json_fields(score) for steps, score in zip(rolling.horizons, scores, strict=True)
            }
            for method, scores in forecasts.items()
        }
    return {
        "model": artifact.name,
        "fingerprint": artifact.fingerprint,
        "overall": overall,
        "by_series": [result.as_dict() for result in results],
    }


def _of_all(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    methods = scores[0] if scores else {}
    shared = [method for method in methods if all(method in each for each in scores)]
    return {method: [each[method] for each in scores] for method in shared}


def _mean(values: Sequence[float]) -> float:
    return float(mean_observed(np.array(values, np.float64)))
