"""Measure the alarms of sessions: how well their scores find what is labelled, and how many alarms a week
there are where nothing happens. Prints the tables of docs/explanation/alarms.md.

    pip install krcf
    python -m benchmarks.anomaly ../data             # NAB's files in ../data/nab, and quiet series
    python -m benchmarks.anomaly ../data --choose    # the series on which all settings were chosen

The folder must contain nab/ with files of the Numenta Anomaly Benchmark, and for --choose ETTh1.csv.

Every detector reads a stream row by row, from its first row on, and learns while it reads. The network is
trained on the first 15 % of a stream, the part that NAB calls probationary. Scores count after it.

VUS-PR is the volume under the surface of precision and recall over all thresholds and all widths of a buffer
around the labels (Paparrizos, Boniol, Palpanas, Tsay, Elmore and Franklin, Volume under the surface: a new
accuracy evaluation measure for time-series anomaly detection, VLDB 2022).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bursts import STEP, burst_streams
from benchmarks.learning import full, learnt
from benchmarks.textbook import Figure, at_least, table
from models.adaptation import alarm_kernels
from models.adaptation.alarms import WEEK, Alarms, rates
from models.adaptation.alarms import period as period_of_day
from models.adaptation.learner import Scores
from models.arrays import Bools, Doubles
from models.artifact.files import Artifact
from models.data.dataset import open_series, split_rows
from models.data.series import Series
from models.errors import BadData
from models.forecaster import Forecaster
from models.training.recipe import DRIFTING

SPLIT = (0.12, 0.03, 0.85)
THRESHOLDS = 250
LONGEST_BUFFER, USUAL_BUFFER = 300, 125
GAUSSIAN_WINDOW = 1000
HTM_WINDOW, HTM_SHORT = 2000, 10
SHINGLE, TREES, SAMPLE = 24, 100, 256
HOUR = 3600.0
MACHINE_ROWS = 3000
SESSIONS, PIECE = 12, 500
QUIET_BOUNDS = (0.5, 2.0)
RULE = 1.0  # alarms a week
REFRACTORY = 6 * HOUR
LABELS = {
    # labels/combined_windows.json of NAB: first and last row of each window.
    "art_daily_jumpsup": [("2014-04-10 16:15", "2014-04-12 01:45")],
    "ec2_disk_write_bytes_1ef3de": [("2014-03-10 01:29", "2014-03-11 16:49")],
    "ec2_network_in_5abac7": [
        ("2014-03-10 09:06", "2014-03-11 04:46"),
        ("2014-03-12 11:11", "2014-03-13 06:51"),
    ],
    "nyc_taxi": [
        ("2014-10-30 15:30", "2014-11-03 22:30"),
        ("2014-11-25 12:00", "2014-11-29 19:00"),
        ("2014-12-23 11:30", "2014-12-27 18:30"),
        ("2014-12-29 21:30", "2015-01-03 04:30"),
        ("2015-01-24 20:30", "2015-01-29 03:30"),
    ],
    "speed_t4013": [("2015-09-16 00:44", "2015-09-16 13:14"), ("2015-09-17 00:30", "2015-09-17 13:30")],
}


@dataclass(frozen=True)
class Stream:
    """A stream with labels.

    series : of one column, and perhaps time features
    anomalous : [rows]
    step : seconds from one row to the next, usually
    """

    name: str
    series: Series
    anomalous: Bools
    step: float

    @property
    def values(self) -> Doubles:
        """[rows]"""
        return np.asarray(self.series.values[:, 0], np.float64)

    @property
    def begin(self) -> int:
        """The first row that counts."""
        return len(self.values) - split_rows(len(self.values), SPLIT).test


@dataclass(frozen=True)
class Errors:
    """What a session said of a stream."""

    artifact: Artifact
    scores: Scores


def main() -> int:
    """Measure everything; the exit status tells whether every bound was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with nab/ and ETTh1.csv")
    parser.add_argument("--choose", action="store_true", help="on the series on which settings are chosen")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = list(labelled(arguments.data / "nab"))
    if arguments.choose:
        found = [*disturbed(arguments.data / "ETTh1.csv"), *artificial(), *bursting()]
    with tempfile.TemporaryDirectory() as scratch:
        sections = {"Quiet series": list(quiet_figures(seed=100 if arguments.choose else 0))}
        sections |= anomaly_figures(found, Path(scratch))
    for title, figures in sections.items():
        print(f"## {title}\n\n{table(figures)}\n")
    return 0 if all(figure.holds for figures in sections.values() for figure in figures) else 1


def anomaly_figures(streams: list[Stream], folder: Path) -> dict[str, list[Figure]]:
    """A table for each stream, and their means."""
    sections: dict[str, list[Figure]] = {}
    by_detector: dict[str, list[float]] = {name: [] for name in DETECTORS}
    for stream in streams:
        errors = session_errors(stream, folder / stream.name)
        buffer = period(stream.values)
        sections[stream.name] = []
        for name, detector in DETECTORS.items():
            scores = np.nan_to_num(detector(stream, errors))[stream.begin :]
            value = vus_pr(stream.anomalous[stream.begin :], scores, buffer)
            by_detector[name].append(value)
            sections[stream.name].append(Figure(f"VUS-PR, {name}", value, None, True))
    means = {name: float(np.mean(values)) for name, values in by_detector.items()}
    best = max(value for name, value in means.items() if name != CARRYOVER)
    sections["Mean of all"] = [
        at_least(f"VUS-PR, {name}", value, best) if name == CARRYOVER
        else Figure(f"VUS-PR, {name}", value, None, True)
        for name, value in means.items()
    ]  # fmt: skip
    return sections


# --- streams


def labelled(folder: Path) -> Iterator[Stream]:
    """The files of NAB in a folder that have labels above."""
    for path in sorted(folder.glob("*.csv")):
        if path.stem not in LABELS:
            continue
        series = open_series(str(path))
        times = series.times
        if times is None:
            raise BadData(f"{path} has no times")
        anomalous = np.zeros(len(series), np.bool_)
        for first, last in LABELS[path.stem]:
            anomalous |= (times >= np.datetime64(first)) & (times <= np.datetime64(last))
        step = float(np.median(np.diff(times) / np.timedelta64(1, "s")))
        with contextlib.suppress(BadData):  # some are irregular: no time features there
            series = series.with_time_features(["hour_of_day"])
        yield Stream(path.stem, series, anomalous, step)


def disturbed(path: Path) -> Iterator[Stream]:
    """Parts of ETTh1 with anomalies of ours."""
    whole = open_series(str(path))
    for seed, (column, start) in enumerate((c, s) for s in (0, 6000) for c in (0, 1, 4, 6)):
        rows, random = slice(start, start + 4000), np.random.default_rng(seed)
        values, anomalous = whole.values[rows, column : column + 1].copy(), np.zeros(4000, np.bool_)
        for place in np.linspace(700, 3600, 6) + random.integers(0, 250, 6):
            disturb(values[:, 0], anomalous, int(place), random)
        name = whole.columns[column]
        times = None if whole.times is None else whole.times[rows]
        series = replace(whole, columns=(name,), values=values, times=times)
        yield Stream(f"{name}-{start}", series.with_time_features(["hour_of_day"]), anomalous, HOUR)


def artificial() -> Iterator[Stream]:
    """Streams of a machine, a row every five minutes, in which a day is unusual; the window has 300 rows."""
    times = np.datetime64("2026-01-05T00:00:00", "us") + np.arange(MACHINE_ROWS) * np.timedelta64(300, "s")
    day = np.arange(MACHINE_ROWS) % 288
    for seed, (name, made) in enumerate(MACHINES.items()):
        random = np.random.default_rng(seed)
        first = 1500 + int(random.integers(0, 900))
        odd = np.zeros(MACHINE_ROWS, np.bool_)
        odd[first : first + 150] = True
        anomalous = np.zeros(MACHINE_ROWS, np.bool_)
        anomalous[first - 75 : first + 225] = True
        values = made(random, day, odd)
        yield Stream(name, Series(name, ("value",), values[:, None], times), anomalous, 300.0)


def bursting() -> Iterator[Stream]:
    """Artificial streams of bursts."""
    for series, anomalous in burst_streams():
        yield Stream(series.source, series, anomalous, STEP)


def daily_plateau(random: np.random.Generator, day: Any, odd: Bools) -> Doubles:
    """Higher by day; one day is higher still."""
    busy = (day > 100) & (day < 220)
    return np.asarray(20 + 40 * busy + 25 * (busy & odd) + random.normal(0, 2, len(day)))


def bursts(random: np.random.Generator, _: Any, odd: Bools) -> Doubles:
    """Nothing most of the time, and bursts; for some hours there are more of them, and larger ones."""
    burst = random.random(len(odd)) < np.where(odd, 0.2, 0.03)
    return np.asarray(burst * random.lognormal(np.where(odd, 6, 5), 1) + 40 + random.normal(0, 1, len(odd)))


def shifted(random: np.random.Generator, day: Any, odd: Bools) -> Doubles:
    """A noisy load, which for some hours is higher."""
    return np.asarray(50 + 10 * np.sin(2 * np.pi * day / 288) + random.normal(0, 6, len(day)) + 12 * odd)


def stuck(random: np.random.Generator, day: Any, odd: Bools) -> Doubles:
    """A noisy load, which for some hours hardly moves."""
    moving = 50 + 10 * np.sin(2 * np.pi * day / 288) + random.normal(0, 6, len(day))
    return np.where(odd, 50 + random.normal(0, 1, len(day)), moving)


MACHINES: dict[str, Callable[[np.random.Generator, Any, Bools], Doubles]] = {
    "plateau": daily_plateau,
    "bursts": bursts,
    "shifted": shifted,
    "stuck": stuck,
}


def quiet_figures(seed: int) -> Iterator[Figure]:
    """Alarms a week of sessions in whose streams nothing happens, for several kinds of noise."""
    for step, weeks in ((HOUR, 16), (HOUR / 4, 8)):
        streams = {noise: list(quiet(noise, step, weeks, seed)) for noise in NOISES}
        with tempfile.TemporaryDirectory() as scratch:
            artifact = trained_on(streams["normal"][0], Path(scratch) / "quiet", step)
        everything = np.stack([values for found in streams.values() for values in found])
        counts = alarms_of(artifact, everything, step).reshape(len(NOISES), SESSIONS)
        for noise, raised in zip(NOISES, counts, strict=True):
            what = f"alarms a week, {noise} noise, a row every {step / 60:.0f} min"
            yield between(what, float(raised.mean()) / weeks, *QUIET_BOUNDS)


def quiet(noise: str, step: float, weeks: int, seed: int) -> Iterator[Doubles]:
    """[rows] of several streams: a day, a week, and noise."""
    hours = np.arange(0, weeks * WEEK, step) / HOUR
    shape = 10 * np.sin(2 * np.pi * hours / 24) + 4 * np.sin(2 * np.pi * hours / 168)
    for session in range(SESSIONS):
        random = np.random.default_rng((seed, session))
        yield 50 + shape + NOISES[noise](random, len(hours))


def autoregressive(random: np.random.Generator, count: int) -> Doubles:
    """Noise of which each value depends on the last."""
    values = random.standard_normal(count)
    for row in range(1, count):
        values[row] += 0.8 * values[row - 1]
    return values


NOISES: dict[str, Callable[[np.random.Generator, int], Doubles]] = {
    "normal": lambda random, count: random.standard_normal(count),
    "Laplace": lambda random, count: random.laplace(size=count),
    "Student's t (3)": lambda random, count: random.standard_t(3, count),
    "autoregressive": autoregressive,
}


def trained_on(values: Doubles, folder: Path, step: float) -> Artifact:
    """A network trained on the first part of a stream."""
    times = np.datetime64("2026-01-05T00:00:00", "us") + np.arange(len(values)) * np.timedelta64(
        int(step), "s"
    )
    series = Series("quiet", ("value",), values[:, None], times)
    rows = min(len(values), 4 * 7 * 24)
    series = replace(series, values=series.values[:rows], times=times[:rows])
    return learnt(full(series, split_rows(rows, (0.7, 0.3, 0.0))), folder, DRIFTING)


def alarms_of(artifact: Artifact, values: Doubles, step: float) -> Any:
    """[sessions], alarms of streams [sessions, rows]."""
    forecaster, alarms = Forecaster(artifact), alarms_for(artifact)
    sessions = len(values)
    carries = np.repeat(forecaster.new_carry[None], sessions, axis=0)
    states = np.repeat(alarms.new_state[None], sessions, axis=0)
    rate = np.repeat(rates("any", RULE, step)[None], sessions, axis=0)
    refractory = np.full(sessions, round(REFRACTORY / step))
    periods = np.full(sessions, period_of_day(step))
    counts = np.zeros(sessions, np.int64)
    for start in range(0, values.shape[1], PIECE):
        piece = values[:, start : start + PIECE]
        lengths = np.full(sessions, piece.shape[1])
        passed = forecaster.observe(piece.reshape(-1, 1).astype(np.float32), lengths, carries)
        carries = passed.carries
        if passed.scores is None:
            raise LookupError("the sessions keep no scores")
        changes = alarms.follow(states, lengths, passed.scores, rate, refractory, periods).changes
        counts += (changes.reshape(sessions, -1) == alarm_kernels.RAISED).sum(axis=1)
    return counts


def between(what: str, measured: float, least: float, most: float) -> Figure:
    """A figure that must lie within bounds."""
    return Figure(what, measured, f"{least:g} to {most:g}", least <= measured <= most)


def disturb(values: Doubles, anomalous: Bools, place: int, random: np.random.Generator) -> None:
    """Put an anomaly of a random kind at a row, in place."""
    kind, length = random.integers(5), int(random.integers(40, 160))
    rows = slice(place, place + (int(random.integers(1, 4)) if kind == 0 else length))
    size = random.uniform(1.0, 2.5) * random.choice((-1, 1)) * values.std()
    count = rows.stop - rows.start
    changes: dict[int, Callable[[], Any]] = {
        0: lambda: values[rows] + 2 * size,
        1: lambda: values[rows] + size,
        2: lambda: values[rows] + size * np.linspace(0, 1.5, count),
        3: lambda: np.full(count, values[rows].mean()),
        4: lambda: values[rows] + random.normal(0, abs(size) / 2, count),
    }
    values[rows] = changes[int(kind)]()
    anomalous[rows] = True


# --- detectors: each gives a score for each row, larger where it is more surprised


def session_errors(stream: Stream, folder: Path) -> Errors:
    """Those of one session, from the first row on."""
    recorded = full(stream.series, split_rows(len(stream.values), SPLIT))
    artifact = learnt(recorded, folder / stream.name, DRIFTING)
    forecaster = Forecaster(artifact)
    observations = stream.series.values.astype(np.float32)
    passed = forecaster.observe(observations, np.array([len(observations)]), forecaster.new_carry[None])
    if passed.scores is None:
        raise LookupError("the sessions keep no scores")
    return Errors(artifact, passed.scores)


def alarm_scores(stream: Stream, errors: Errors) -> Doubles:
    """The scores of Carryover's alarms."""
    alarms = alarms_for(errors.artifact)
    rate = rates("any", RULE, stream.step)[None]
    lengths, refractory = np.array([len(stream.values)]), np.array([max(1, round(REFRACTORY / stream.step))])
    periods = np.array([period_of_day(stream.step)])
    return alarms.follow(alarms.new_state[None], lengths, errors.scores, rate, refractory, periods).scores


def alarms_for(artifact: Artifact) -> Alarms:
    """The detectors of the sessions of an artifact."""
    return Alarms(len(artifact.targets), artifact.learning.levels)


def windowed_gaussian(stream: Stream, _: Errors) -> Doubles:
    """Distance of the value from the mean of the last ones, in their standard deviations (NAB's baseline)."""
    mean, deviation = moments(stream.values, GAUSSIAN_WINDOW)
    return np.abs(stream.values - mean) / deviation


def htm_like(_: Stream, errors: Errors) -> Doubles:
    """Tail probability of the mean of the last errors (Ahmad, Lavin, Purdy and Agha, Neurocomputing 2017).

    The errors are those of the same session, instead of an HTM's.
    """
    sizes = np.nan_to_num(np.abs(errors.scores.errors[:, 0].astype(np.float64)))
    mean, deviation = moments(sizes, HTM_WINDOW)
    total = np.concatenate([np.zeros(HTM_SHORT), sizes.cumsum()])
    recent = (total[HTM_SHORT:] - total[:-HTM_SHORT]) / HTM_SHORT
    return np.asarray((recent - mean) / deviation)  # the tail probability falls with it


def random_cut_forest(stream: Stream, _: Errors) -> Doubles:
    """Guha, Mishra, Roy and Schrijvers, ICML 2016: by AWS's implementation, in the package krcf."""
    from krcf import RandomCutForest

    options: Any = {
        "dimensions": SHINGLE, "shingle_size": 1, "num_trees": TREES, "sample_size": SAMPLE,
        "random_seed": 1, "parallel_execution_enabled": False,
    }  # fmt: skip
    forest = RandomCutForest(options)
    values = np.concatenate([np.repeat(stream.values[0], SHINGLE - 1), stream.values])
    scores = np.zeros(len(stream.values))
    for row in range(len(scores)):
        shingle = values[row : row + SHINGLE].tolist()
        scores[row] = forest.score(shingle)
        forest.update(shingle)
    return scores


CARRYOVER = "alarms"
DETECTORS: dict[str, Callable[[Stream, Errors], Doubles]] = {
    CARRYOVER: alarm_scores,
    "windowed Gaussian": windowed_gaussian,
    "HTM-like": htm_like,
    "random cut forest": random_cut_forest,
}


def moments(values: Doubles, window: int) -> tuple[Doubles, Doubles]:
    """Mean and standard deviation of up to `window` values before each."""
    sums = np.concatenate([[0.0], values.cumsum()])
    squares = np.concatenate([[0.0], np.square(values - values.mean()).cumsum()])
    ends = np.arange(len(values))
    starts = np.maximum(ends - window, 0)
    count = np.maximum(ends - starts, 1)
    mean = (sums[ends] - sums[starts]) / count
    apart = mean - values.mean()
    variance = (squares[ends] - squares[starts]) / count - apart * apart
    mean[0] = values[0]
    return mean, np.sqrt(np.maximum(variance, 0)) + 1e-6 * values.std()


# --- VUS-PR


def vus_pr(anomalous: Bools, scores: Doubles, longest: int) -> float:
    """The volume under the surface of precision and recall, from 0 to 1.

    Parameters
    ----------
    anomalous, scores : [rows]
    longest : width of the widest buffer; all widths from 0 to it count alike
    """
    order = np.argsort(-scores, kind="stable")
    places = np.linspace(0, len(scores) - 1, THRESHOLDS).astype(int)
    thresholds = scores[order][places]
    counts = np.searchsorted(-scores[order], -thresholds, side="right")  # rows at or above each threshold
    areas = [range_area(anomalous, scores, order, thresholds, counts, width) for width in range(longest + 1)]
    return float(np.mean(areas))


def range_area(
    anomalous: Bools, scores: Doubles, order: Any, thresholds: Doubles, counts: Any, width: int
) -> float:
    """The area under precision and recall with a buffer of this width."""
    labels = buffered(anomalous, width)
    hits = np.concatenate([[0.0], labels[order].cumsum()])[counts]
    positives = (anomalous.sum() + labels.sum()) / 2
    peaks = np.array([(scores[part]).max() for part in runs(labels > 0)])
    found = (peaks[:, None] >= thresholds).mean(axis=0)
    recall = np.minimum(hits / positives, 1) * found
    precision = hits / counts
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def buffered(anomalous: Bools, width: int) -> Doubles:
    """The labels with a slope of half the width on either side of each anomaly."""
    labels = anomalous.astype(np.float64)
    for part in runs(anomalous):
        first, last = part.start, part.stop - 1
        after = np.arange(last, min(last + width // 2, len(labels)))
        labels[after] += np.sqrt(1 - (after - last) / max(width, 1))
        before = np.arange(max(first - width // 2, 0), first)
        labels[before] += np.sqrt(1 - (first - before) / max(width, 1))
    return np.minimum(labels, 1)


def runs(marked: Bools) -> list[slice]:
    """The runs of marked rows."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return [slice(first, stop) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def period(values: Doubles) -> int:
    """The period of a series, which is the usual width of the widest buffer; 125 where none is found."""
    apart = values[:20_000] - values[:20_000].mean()
    lags = np.array([np.dot(apart[: len(apart) - lag], apart[lag:]) for lag in range(400)]) / np.dot(
        apart, apart
    )
    lags = lags[3:]
    peaks = np.flatnonzero((lags[1:-1] > lags[:-2]) & (lags[1:-1] > lags[2:])) + 1
    if not len(peaks):
        return USUAL_BUFFER
    best = int(peaks[lags[peaks].argmax()])
    return best + 3 if 3 <= best <= LONGEST_BUFFER else USUAL_BUFFER


if __name__ == "__main__":
    sys.exit(main())
