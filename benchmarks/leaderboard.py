"""Compare what sessions forecast, over HTTP, with simple methods: docs/reference/leaderboard.md.

    python -m benchmarks.leaderboard ETTh1.csv [ANOTHER.csv ...] [--minutes 2] [--work FOLDER] [--write-page]

ETTh1 is trained by the recipe of the documentation, three times. The series of `benchmarks.packaged`, and
every other file that is named, are trained by `carryover train FILE` alone, which chooses a network itself.
All are sent to a server in chunks of random lengths. The page says what was held out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from string import Template

import numpy as np
import torch

from benchmarks.learning import Recorded, full, learnt
from benchmarks.packaged import SERIES
from benchmarks.run import PAGES
from benchmarks.served import Array, forecasts_sent, served
from benchmarks.textbook import ETTH1_SPLIT
from models.artifact.files import Artifact, load
from models.data.dataset import DEFAULT_SPLIT, open_series, split_rows
from models.data.measures import mean_observed
from models.evaluation.rolling import (
    DIRECT_AR,
    LEVEL,
    NETWORK,
    NLINEAR,
    PERSISTENCE,
    SEASONAL,
    SEASONAL_MEAN,
    Rolling,
    SessionForecasts,
    evaluate_forecasts,
    forecast_session,
    nearest_level,
    origins,
)
from models.training.recipe import DRIFTING

PAGE = PAGES / "leaderboard.md"
TEMPLATE = Path(__file__).with_name("leaderboard.md")
SEEDS = (0, 1, 2)
LEARNED, MEASURED = (1, 6, 24, 48), (1, 24, 48)  # horizons, of ETTh1
DAY = 24
ROUNDED = 0.005  # of a ratio with two decimals
NAIVE = (PERSISTENCE, SEASONAL, SEASONAL_MEAN)


@dataclass(frozen=True, eq=False)
class Measured:
    """One model, as it was served.

    artifact, recorded : what was sent to which model
    rolling : the scores of the answers, beside the baselines unless they were left out
    session : the answers
    apart : largest difference from `carryover evaluate`: of forecasts, and of half-widths, scaled
    """

    artifact: Artifact
    recorded: Recorded
    rolling: Rolling
    session: SessionForecasts
    apart: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Chosen:
    """A series for which `carryover train` chose the network; `what` describes it."""

    name: str
    what: str
    measured: Measured


def main() -> int:
    """Train, measure and print the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("etth1", type=Path, help="ETTh1.csv")
    parser.add_argument("others", type=Path, nargs="*", help="more files, for a network of its own choice")
    parser.add_argument("--minutes", type=float, default=2.0, help="as of `carryover train`")
    parser.add_argument("--work", type=Path, help="folder of artifacts; those in it are not trained")
    parser.add_argument("--write-page", action="store_true", help="write docs/reference/leaderboard.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = arguments.work or Path(scratch)
        runs = [etth1(arguments.etth1, seed, work) for seed in SEEDS]
        chosen = list(all_chosen(arguments.others, arguments.minutes, work))
    text = page(runs, chosen, arguments.minutes)
    print(text)
    if arguments.write_page:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def etth1(path: Path, seed: int, work: Path) -> Measured:
    """The protocol of FSNet; the baselines are the same for all seeds, and measured with the first."""
    recorded = full(open_series(str(path), time_features=["hour_of_day"]), ETTH1_SPLIT)
    folder = work / f"etth1-{seed}" / "etth1"
    if not folder.exists():
        learning = replace(DRIFTING.learning, horizons=LEARNED, season=DAY)
        learnt(recorded, folder, replace(DRIFTING, seed=seed, learning=learning))
    return measured(folder, recorded, MEASURED, DAY, baselines=seed == SEEDS[0])


def all_chosen(others: Sequence[Path], minutes: float, work: Path) -> Iterator[Chosen]:
    """The packaged series, then the other files."""
    for name, packaged in SERIES.items():
        path = work / f"{name}.csv"
        packaged.write(path)
        yield Chosen(name, packaged.what, chosen(path, minutes, work))
    for path in others:
        yield Chosen(path.stem, "", chosen(path, minutes, work))


def chosen(path: Path, minutes: float, work: Path) -> Measured:
    """What `carryover train` makes of a file without any option of a recipe."""
    folder = work / f"chosen-{path.stem}" / "model"
    if not folder.exists():
        command = [sys.executable, "-m", "carryover_server", "train", str(path), "--out", str(folder)]
        subprocess.run([*command, "--minutes", str(minutes)], check=True, stdout=sys.stderr)
    choice = load(folder).metrics["choice"]
    series = open_series(str(path))
    recorded = full(series, split_rows(len(series), DEFAULT_SPLIT))
    return measured(folder, recorded, choice["steps"], choice["season"])


def measured(
    folder: Path, recorded: Recorded, horizons: Sequence[int], season: int | None, *, baselines: bool = True
) -> Measured:
    """Forecasts from each row of the test part, by the artifact in this folder.

    Parameters
    ----------
    season : rows; None if none was found
    """
    artifact, steps = load(folder), max(horizons)
    series, split = recorded.series, recorded.split
    rows, scaling = origins(series, split, steps), artifact.target_scaling
    with served(folder.parent, folder.parent.parent) as server:
        sent = forecasts_sent(
            server.port,
            artifact.name,
            recorded.observations,
            recorded.seconds,
            rows,
            steps,
            artifact.learning.levels,
        )
    session = SessionForecasts(scaling.scale(sent.values), sent.widths / scaling.std)
    rolling = evaluate_forecasts(
        artifact, series, split, horizons, season, session=session, baselines=baselines
    )
    alone = forecast_session(artifact, series, rows, steps)
    pairs = ((session.values, alone.values), (session.widths, alone.widths))
    values, widths = (float(np.abs(left - right).max(initial=0)) for left, right in pairs)
    return Measured(artifact, recorded, rolling, session, (values, widths))


def page(runs: Sequence[Measured], chosen: Sequence[Chosen], minutes: float) -> str:
    """The whole page, in Markdown."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    apart = np.max([run.apart for run in [*runs, *(each.measured for each in chosen)]], axis=0)
    text = TEMPLATE.read_text(encoding="utf-8")
    return Template(text).substitute(
        date=date,
        apart=f"{apart[0]:.1g}",
        widths_apart=f"{apart[1]:.1g}",
        origins=f"{len(runs[0].rolling.rows):,}",
        horizons=", ".join(map(str, LEARNED)),
        errors=etth1_errors(runs),
        bands=etth1_bands(runs),
        columns=etth1_columns(runs[0]),
        seed=SEEDS[0],
        excess=f"{max(run.rolling.excess for run in runs):.2g}",
        minutes=f"{minutes:g}",
        chosen_errors=chosen_errors(chosen),
        chosen_sources=chosen_sources(chosen),
    )


def etth1_errors(runs: Sequence[Measured]) -> str:
    """Errors by method, smallest first."""
    first = runs[0].rolling
    methods = (NETWORK, DIRECT_AR, NLINEAR, SEASONAL_MEAN, SEASONAL, PERSISTENCE)
    names = {
        NETWORK: f"a session, seeds {', '.join(map(str, SEEDS))}",
        DIRECT_AR: "direct AR, 49 values",
        NLINEAR: "NLinear, 96 values",
        SEASONAL_MEAN: "mean of 7 days at that hour",
    }
    rows = []
    for method in sorted(methods, key=lambda name: first.scores[name][-1].mse):
        per_run = [run.rolling.scores[method] for run in (runs if method == NETWORK else runs[:1])]
        errors = [", ".join(f"{scores[i].mse:.3f}" for scores in per_run) for i in range(len(MEASURED))]
        rows.append([names.get(method, method), *errors])
    return markdown(["MSE", *_ahead(MEASURED)], rows)


def etth1_bands(runs: Sequence[Measured]) -> str:
    """The intervals at 0.9 of each seed."""
    kinds: dict[str, Callable[[Rolling, int], str]] = {
        "coverage, lowest of a column": lambda rolling, i: f"{rolling.bands[i].least:.3f}",
        "coverage, highest of a column": lambda rolling, i: f"{rolling.bands[i].most:.3f}",
        "coverage at the worst hour": lambda rolling, i: f"{rolling.bands[i].least_phase:.3f}",
        "coverage one hour after a miss": lambda rolling, i: f"{rolling.bands[i].after_miss:.3f}",
        "interval score": lambda rolling, i: f"{rolling.bands[i].interval_score:.3f}",
        "quantile loss, all levels": lambda rolling, i: f"{rolling.bands[i].quantile_loss:.3f}",
    }
    rows = [
        [name, *(", ".join(of(run.rolling, i) for run in runs) for i in range(len(MEASURED)))]
        for name, of in kinds.items()
    ]
    return markdown([f"{LEVEL:.0%} intervals", *(f"step {step}" for step in MEASURED)], rows)


def etth1_columns(run: Measured) -> str:
    """Coverage by column, and of each column at its worst hour."""
    cells: list[list[str]] = [[name] for name in run.artifact.targets]
    for step in MEASURED:
        inside, hours = _inside(run, step)
        by_hour = np.stack([mean_observed(inside[hours == hour], axis=0) for hour in range(DAY)])
        whole = mean_observed(inside, axis=0)
        for cell, share, least in zip(cells, whole.tolist(), by_hour.min(axis=0).tolist(), strict=True):
            cell.append(f"{share:.3f} ({least:.3f})")
    return markdown(["column", *(f"step {step}" for step in MEASURED)], cells)


def _inside(run: Measured, step: int) -> tuple[Array, Array]:
    """Whether each target at a step was in its interval, [rows, columns], NaN if missing; and its hour."""
    targets = np.array(run.rolling.rows) + step
    truth = run.artifact.target_scaling.scale(run.recorded.series.pick(run.artifact.targets))[targets]
    half = run.session.widths[:, step - 1, nearest_level(run.artifact.learning.levels)]
    inside = np.abs(truth - run.session.values[:, step - 1]) <= half
    seconds = run.recorded.series.seconds()[targets]
    return np.where(np.isnan(truth), np.nan, inside), seconds // 3600 % DAY


def chosen_errors(chosen: Sequence[Chosen]) -> str:
    """Errors of the sessions beside the best of the naive methods, one step ahead and over all steps."""
    rows = []
    for each in chosen:
        rolling, choice = each.measured.rolling, each.measured.artifact.metrics["choice"]
        for i, steps in enumerate(rolling.horizons):
            mse = {name: scores[i].mse for name, scores in rolling.scores.items()}
            naive = min((name for name in NAIVE if name in mse), key=lambda name: mse[name])
            ratio = mse[NETWORK] / mse[naive]
            rows.append(
                [
                    each.name if i == 0 else "",
                    choice["kept"] if i == 0 else "",
                    str(steps),
                    f"{mse[NETWORK]:.3g}",
                    f"{mse[naive]:.3g} ({naive})",
                    f"{ratio:.2f}" + (" **worse**" if ratio >= 1 + ROUNDED else ""),
                    f"{mse[DIRECT_AR]:.3g}",
                    f"{mse[NLINEAR]:.3g}",
                    f"{rolling.bands[i].least:.2f}" if rolling.bands else "-",
                ]
            )
    headings = ["series", "kept", "steps", "session", "best naive", "ratio", "direct AR", "NLinear"]
    return markdown([*headings, "coverage at 0.9, lowest of a column"], rows)


def chosen_sources(chosen: Sequence[Chosen]) -> str:
    """What the series are."""
    return "\n".join(
        f"- `{each.name}`: {each.what}{', ' if each.what else ''}{len(each.measured.recorded.series):,} "
        f"rows, of which {len(each.measured.rolling.rows):,} are forecast from."
        for each in chosen
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def _ahead(steps: Sequence[int]) -> list[str]:
    return [f"{step} step{'s' if step > 1 else ''}" for step in steps]


if __name__ == "__main__":
    sys.exit(main())
