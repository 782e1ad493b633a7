"""`carryover train`: trains on a data file, and writes an artifact, metrics.json and figure.png."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options, recipe_options
from app.cli.bundles import DataArguments, with_bundles
from app.cli.train_data import InputNames, advice_on, common_season, read_dataset, read_fleet
from app.cli.train_report import finish_training, report_training
from app.cli.train_text import check_options, train_text
from models.errors import TrainingDiverged

DEFAULT_MINUTES = 2.0
DEFAULT_TEXT_MINUTES = 10.0

if TYPE_CHECKING:
    from models.data.dataset import Dataset
    from models.evaluation.choose import Choice
    from models.evaluation.choose_fleet import FleetChoice
    from models.training.recipe import Recipe
    from models.training.training import Training


class Device(StrEnum):
    """Where to train."""

    cpu = "cpu"
    cuda = "cuda"


@with_bundles
def train(
    context: typer.Context,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA]...",
            help="A file: CSV, JSON Lines, Parquet or NPZ; or the built-in `sine`. Several files, a "
            "folder or a long table are many series of one network. [default: sine]",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train a model of characters on this text, in place of DATA. Other defaults then: 256 "
            "hidden units, 20 epochs, 10 minutes, patience 3, 32 streams, pieces of 64, dropout 0.1, "
            "learning rate 0.003.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the artifact; an artifact there is replaced.")
    ] = Path("artifacts/model"),
    name: options.Name = None,
    columns: options.Columns = None,
    targets: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns to predict. [default: all input columns]")
    ] = None,
    units: Annotated[
        str | None, typer.Option(metavar="NAME=UNIT,...", help="Units of columns, shown to users.")
    ] = None,
    *,
    reading: DataArguments,
    time_features: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Inputs computed from the times, in UTC: hour_of_day, half_day, day_of_week, day_of_year.",
        ),
    ] = None,
    future: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Inputs that are known in advance (a plan, holidays): not predicted; a forecast needs them.",
        ),
    ] = None,
    split: options.Split = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=100_000,
            help="For the training of several recipes, of which the best is kept. "
            "Without an option of a recipe. [default: 2] With --text: the most that the training takes.",
            show_default=False,
        ),
    ] = None,
    recipe: recipe_options.NamedRecipe = None,
    hidden: recipe_options.Hidden = None,
    layers: recipe_options.Layers = None,
    cell: recipe_options.Cell = None,
    embedding: recipe_options.Embedding = None,
    min_count: recipe_options.MinCount = None,
    bfloat16: recipe_options.Bfloat16 = False,
    head: recipe_options.Head = None,
    predicts: recipe_options.Predicts = None,
    epochs: recipe_options.Epochs = None,
    patience: recipe_options.Patience = None,
    streams: recipe_options.Streams = None,
    piece: recipe_options.Piece = None,
    judge_every: recipe_options.JudgeEvery = None,
    shuffled: recipe_options.Shuffled = None,
    drift: recipe_options.Drift = None,
    dropout: recipe_options.Dropout = None,
    weight_decay: recipe_options.WeightDecay = None,
    closed_loop: recipe_options.ClosedLoop = None,
    learning_rate: recipe_options.LearningRate = None,
    schedule: recipe_options.Schedule = None,
    clip: recipe_options.Clip = None,
    scaled: recipe_options.Scaled = None,
    seed: recipe_options.Seed = None,
    readout: recipe_options.Readout = None,
    readout_inputs: recipe_options.ReadoutInputs = None,
    rank: recipe_options.Rank = None,
    forgetting: recipe_options.Forgetting = None,
    prior: recipe_options.Prior = None,
    levels: recipe_options.Levels = None,
    horizons: recipe_options.Horizons = None,
    season: recipe_options.Season = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="File that is written after each epoch, or round of a text, and removed at the end. "
            "[default: OUT.checkpoint]"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint, if it exists.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.cpu,
    threads: options.Threads = 1,
    as_json: options.Json = False,
) -> None:
    """Train a network, and write its artifact, metrics.json and figure.png.

    Without an option of a recipe, several recipes are tried, and the best on the validation part is kept.

    Several files, a folder of files or a long table are many series, of which one network is trained, by the
    recipe `drifting` if no option of a recipe is given. What its sessions learn is then chosen on the
    validation parts. Each series is scaled by its own training part.

    With --text, a network learns to write: it predicts the next character of a text.

    For example: carryover train readings.csv --out artifacts/pump --columns flow,pressure
    """
    check_options(context, of_text=text is not None)
    of_every_recipe = {
        "hidden_size": hidden,
        "num_layers": layers,
        "cell": cell,
        "epochs": epochs,
        "patience": patience,
        "streams": streams,
        "piece": piece,
        "dropout": dropout,
        "weight_decay": weight_decay,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "clip": clip,
        "seed": seed,
    }
    if text is not None:
        recipe_of_text = recipe_options.build_text_recipe(
            **of_every_recipe,
            embedding=embedding,
            minutes=DEFAULT_TEXT_MINUTES if minutes is None and epochs is None else minutes,
            bfloat16=bfloat16,
        )
        _set_device(device, threads)
        checkpoint = checkpoint or _default_checkpoint(out)
        _check_out(out, options.artifact_name(name, out), checkpoint)
        train_text(
            text,
            reading.encoding,
            min_count,
            recipe_of_text,
            device.value,
            out,
            name,
            as_json,
            checkpoint,
            resume,
        )
        return
    of_network = of_every_recipe | {
        "head": options.parse_sizes(head, "--head"),
        "predicts": predicts,
        "judge_every": judge_every,
        "shuffled": shuffled,
        "drift": drift,
        "closed_loop": closed_loop,
        "scaled": scaled,
    }
    of_sessions = {
        "readout": readout,
        "inputs": readout_inputs,
        "rank": rank,
        "forgetting": forgetting,
        "prior": prior,
        "levels": options.parse_numbers(levels, "--levels"),
        "horizons": options.parse_sizes(horizons, "--horizons"),
        "season": season,
    }
    chosen = recipe_options.with_learning(recipe_options.build_recipe(recipe, **of_network), **of_sessions)
    of_recipe = (recipe, *of_network.values(), *of_sessions.values())
    without_recipe = all(value is None for value in of_recipe)
    one_training = resume or checkpoint is not None or not without_recipe
    if minutes is not None and one_training:
        raise typer.BadParameter(
            "is for a choice among recipes, so it goes without their options", param_hint="--minutes"
        )
    if split is None and recipe is recipe_options.RecipeName.textbook:
        split = "1,0,0"
    names = InputNames(
        columns=options.parse_names(columns),
        targets=options.parse_names(targets),
        time_features=options.parse_names(time_features),
        future=options.parse_names(future),
        units=options.parse_units(units),
    )
    from models.data.dataset import can_be_judged, is_fleet

    sources = data or ["sine"]
    fleet: dict[str, Dataset] = {}
    with advice_on(sources[0]):
        many = reading.series_column is not None or is_fleet(sources, reading.table_options())
    if many:
        if minutes is not None:
            raise typer.BadParameter("is for a single series", param_hint="--minutes")
        if without_recipe:
            chosen, one_training = recipe_options.build_recipe(recipe_options.RecipeName.drifting), True
        fleet = read_fleet(sources, names, reading, split, chosen)
        dataset = next(iter(fleet.values()))
    else:
        dataset = read_dataset(sources[0], names, reading, split, chosen.scaled)
    if horizons and season is None:
        chosen = recipe_options.with_learning(chosen, season=common_season(list(fleet.values()) or [dataset]))
    _set_device(device, threads)
    checkpoint = checkpoint or _default_checkpoint(out)
    _check_out(out, options.artifact_name(name, out), checkpoint)
    start = time.monotonic()
    choice: Choice | FleetChoice | None = None
    if not one_training and can_be_judged(dataset):
        best = _choose(dataset, DEFAULT_MINUTES if minutes is None else minutes, device, as_json)
        choice, training = best, best.training
    else:
        training = _training(list(fleet.values()) or dataset, chosen, device, checkpoint, resume)
        _run(training, checkpoint, lines=recipe is recipe_options.RecipeName.textbook, quiet=as_json)
        choice = _choose_of_fleet(training, without_recipe, as_json)
    seconds = time.monotonic() - start
    report = report_training(
        training, options.artifact_name(name, out), sources[0], seconds, out, choice, fleet, split
    )
    verdict = finish_training(training, report, seconds, out, as_json)
    checkpoint.unlink(missing_ok=True)
    if verdict.failed:
        raise TrainingDiverged(f"the network in {out} is far worse than the simplest predictions")


def _set_device(device: Device, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if device is Device.cuda and not torch.cuda.is_available():
        raise typer.BadParameter("CUDA is not available; use --device cpu", param_hint="--device")


def _check_out(out: Path, name: str, checkpoint: Path) -> None:
    """Check what would otherwise fail after an epoch, or after the training."""
    from models.artifact.folder import check_folder, check_writable
    from models.artifact.names import check_name

    check_name(name)
    check_folder(out)
    if checkpoint.is_dir():
        raise typer.BadParameter(f"{checkpoint} is a folder", param_hint="--checkpoint")
    check_writable(checkpoint)


def _default_checkpoint(out: Path) -> Path:
    return out.parent / f"{out.name}.checkpoint"


def _training(
    dataset: Dataset | Sequence[Dataset], recipe: Recipe, device: Device, checkpoint: Path, resume: bool
) -> Training:
    from models.training.checkpoint import load_checkpoint
    from models.training.training import Training

    training = Training(dataset, recipe, device.value)
    if resume and checkpoint.exists():
        load_checkpoint(training, checkpoint)
        print(f"continuing after epoch {len(training.history)}", file=sys.stderr)
    return training


def _choose(dataset: Dataset, minutes: float, device: Device, as_json: bool) -> Choice:
    """Try some recipes, and say which one is kept and why."""
    from app.cli.training_progress import ProgressBar, SilentProgress
    from models.evaluation.choose import choose

    choice = choose(
        dataset,
        60 * minutes,
        lambda training: SilentProgress() if as_json else ProgressBar(training),
        device.value,
    )
    for line in choice.lines():
        print(line, file=sys.stderr if as_json else sys.stdout)
    if choice.warning:
        options.warn(choice.warning, as_json)
    return choice


def _choose_of_fleet(training: Training, without_recipe: bool, as_json: bool) -> FleetChoice | None:
    """Set what sessions of a network of many series learn, where no recipe was given, and say why."""
    from dataclasses import replace

    from models.evaluation.choose_fleet import choose_of_fleet

    choice = choose_of_fleet(training) if without_recipe and len(training.datasets) > 1 else None
    if choice is None:
        return None
    training.recipe = replace(training.recipe, learning=choice.recipe.learning)
    for line in choice.lines():
        print(line, file=sys.stderr if as_json else sys.stdout)
    return choice


def _run(training: Training, checkpoint: Path, lines: bool, quiet: bool) -> None:
    from app.cli.training_progress import EpochLines, ProgressBar, SilentProgress
    from models.training.checkpoint import save_checkpoint

    with SilentProgress() if quiet else EpochLines() if lines else ProgressBar(training) as display:
        try:
            for epoch in training.run():
                save_checkpoint(training, checkpoint)
                display.show(epoch)
        except KeyboardInterrupt:
            if training.history:
                print(f"stopped after epoch {len(training.history)}; continue with --resume", file=sys.stderr)
            raise
    if training.diverged is not None:
        print(f"{training.diverged}. Kept: the best weights before it", file=sys.stderr)
