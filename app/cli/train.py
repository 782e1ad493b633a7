"""`carryover train`: data and a recipe -> an artifact, metrics.json and figure.png."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import options

if TYPE_CHECKING:
    from models.data import Dataset
    from models.recipe import Recipe
    from models.train import Training


class RecipeName(StrEnum):
    """Recipes that have a name."""

    textbook = "textbook"


class Predicts(StrEnum):
    """What the network gives."""

    level = "level"
    change = "change"


class Schedule(StrEnum):
    """What becomes of the learning rate."""

    constant = "constant"
    cosine = "cosine"


class Device(StrEnum):
    """Where to train."""

    cpu = "cpu"
    cuda = "cuda"


def _of_recipe(text: str, default: str, **bounds: Any) -> Any:
    # The default is told here and lies in the recipe, so that a named recipe can have another.
    return typer.Option(help=f"{text} [default: {default}]", show_default=False, **bounds)


def train(
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="A .csv, .parquet or .npz file, or the built-in `sine`.")
    ] = "sine",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the artifact; an artifact there is replaced.")
    ] = Path("artifacts/model"),
    name: Annotated[str | None, typer.Option(help="Name it is served under. [default: the folder's]")] = None,
    columns: options.Columns = None,
    targets: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="What to predict. [default: all input columns]")
    ] = None,
    units: Annotated[
        str | None, typer.Option(metavar="NAME=UNIT,...", help="Units of columns, for people to read.")
    ] = None,
    time_column: options.TimeColumn = None,
    time_features: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Inputs made from the times, in UTC: hour_sin, hour_cos, weekday_sin, weekday_cos, "
            "yearday_sin, yearday_cos.",
        ),
    ] = None,
    split: options.Split = None,
    recipe: Annotated[
        RecipeName | None,
        typer.Option(help="`textbook`: one stream, pieces of 50, 10 epochs, Adam 0.01, all rows, unscaled."),
    ] = None,
    hidden: Annotated[int | None, _of_recipe("Hidden units a layer.", "64", metavar="N", min=1)] = None,
    layers: Annotated[int | None, _of_recipe("Layers.", "1", metavar="N", min=1)] = None,
    predicts: Annotated[
        Predicts | None,
        _of_recipe(
            "The next level, or its change from the last observation (for data that drifts).", "level"
        ),
    ] = None,
    epochs: Annotated[
        int | None, _of_recipe("Passes over the training part, at most.", "50", metavar="N", min=1)
    ] = None,
    patience: Annotated[
        int | None,
        _of_recipe(
            "Stop after so many epochs without a better validation error; 0: never.", "10", metavar="N", min=0
        ),
    ] = None,
    streams: Annotated[
        int | None, _of_recipe("Contiguous streams learnt in parallel.", "4", metavar="N", min=1)
    ] = None,
    piece: Annotated[
        int | None, _of_recipe("Steps between two cuts of back-propagation.", "50", metavar="N", min=1)
    ] = None,
    closed_loop: Annotated[
        int | None,
        _of_recipe(
            "Steps run freely after each piece and learnt from, for long forecasts.", "0", metavar="N", min=0
        ),
    ] = None,
    learning_rate: Annotated[float | None, _of_recipe("Adam's learning rate.", "0.01", metavar="X")] = None,
    schedule: Annotated[
        Schedule | None, _of_recipe("`cosine` lets the learning rate fall towards zero.", "cosine")
    ] = None,
    clip: Annotated[
        float | None, _of_recipe("Largest norm of a gradient; 0: any.", "1.0", metavar="X", min=0)
    ] = None,
    scaled: Annotated[
        bool | None,
        typer.Option(
            "--scaled/--unscaled",
            help="Scale by mean and standard deviation of the training part, or keep the data's own units. "
            "[default: scaled]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int | None, _of_recipe("Seed of the first weights.", "0", metavar="N", min=0)] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Written after each epoch, removed at the end. [default: OUT.checkpoint]"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.cpu,
    threads: options.Threads = 1,
    as_json: options.Json = False,
) -> None:
    """Train a network and write its artifact, metrics.json and figure.png.

    For example: carryover train readings.csv --out artifacts/pump --columns flow,pressure
    """
    chosen = _recipe(
        recipe,
        hidden_size=hidden,
        num_layers=layers,
        predicts=predicts,
        epochs=epochs,
        patience=patience,
        streams=streams,
        piece=piece,
        closed_loop=closed_loop,
        learning_rate=learning_rate,
        schedule=schedule,
        clip=clip,
        scaled=scaled,
        seed=seed,
    )
    if split is None and recipe is RecipeName.textbook:
        split = "1,0,0"
    wanted = options.names(columns), options.names(targets), options.names(time_features)
    dataset = _dataset(data, *wanted, time_column, options.units(units), split, chosen.scaled)
    _set_device(device, threads)
    _check_out(out, options.artifact_name(name, out))
    training = _training(dataset, chosen, device, checkpoint or _beside(out), resume)
    seconds = _run(training, checkpoint or _beside(out), lines=recipe is not None, quiet=as_json)
    _finish(training, options.artifact_name(name, out), data, seconds, out, as_json)
    (checkpoint or _beside(out)).unlink(missing_ok=True)


def _recipe(named: RecipeName | None, **given: Any) -> Recipe:
    from dataclasses import replace

    from models.recipe import TEXTBOOK, Recipe

    plain = {key: str(value) if isinstance(value, StrEnum) else value for key, value in given.items()}
    told: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
    return replace(TEXTBOOK if named else Recipe(), **told)


def _dataset(
    source: str,
    columns: tuple[str, ...],
    targets: tuple[str, ...],
    time_features: tuple[str, ...],
    time_column: str | None,
    units: dict[str, str],
    split: str | None,
    scaled: bool,
) -> Dataset:
    from models.data import DEFAULT_SPLIT, identity_scaling, open_series, prepare, split_rows
    from models.errors import BadData
    from models.scaling import Column

    series = open_series(source, columns, targets, time_column, time_features)
    inputs = [*columns, *time_features] if columns else list(series.columns)
    targets = targets or tuple(name for name in inputs if name not in time_features)
    for name in units:
        if name not in inputs:
            raise BadData(f"{name!r} has a unit but is not an input; the inputs are {', '.join(inputs)}")
    parts = options.numbers(split, "--split") or DEFAULT_SPLIT
    own_units = None if scaled else (identity_scaling(len(inputs)), identity_scaling(len(targets)))
    described = [Column(name, units.get(name)) for name in inputs]
    return prepare(series, described, targets, split_rows(len(series), parts), own_units)


def _set_device(device: Device, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    if device is Device.cuda and not torch.cuda.is_available():
        raise typer.BadParameter("there is no usable CUDA device; train on the cpu", param_hint="--device")


def _check_out(out: Path, name: str) -> None:
    """Before the training rather than after it."""
    from models.artifact import check_folder
    from models.trained import check_name

    check_name(name)
    check_folder(out)


def _beside(out: Path) -> Path:
    return out.parent / f"{out.name}.checkpoint"


def _training(dataset: Dataset, recipe: Recipe, device: Device, checkpoint: Path, resume: bool) -> Training:
    from models.checkpoint import load_checkpoint
    from models.train import Training

    training = Training(dataset, recipe, device.value)
    if resume and checkpoint.exists():
        load_checkpoint(training, checkpoint)
        print(f"going on after epoch {len(training.history)}", file=sys.stderr)
    return training


def _run(training: Training, checkpoint: Path, lines: bool, quiet: bool) -> float:
    from app.cli.progress import EpochLines, ProgressBar, Silence
    from models.checkpoint import save_checkpoint

    begun = time.monotonic()
    with Silence() if quiet else EpochLines() if lines else ProgressBar(training) as display:
        try:
            for epoch in training.run():
                save_checkpoint(training, checkpoint)
                display.show(epoch)
        except KeyboardInterrupt:
            if training.history:
                print(f"stopped after epoch {len(training.history)}; go on with --resume", file=sys.stderr)
            raise
    return time.monotonic() - begun


def _finish(training: Training, name: str, source: str, seconds: float, out: Path, as_json: bool) -> None:
    from models.report import finish

    artifact = finish(training, name, source if source == "sine" else Path(source).name, seconds, out)
    if as_json:
        print((out / "metrics.json").read_text(encoding="utf-8"), end="")
        return
    one_step, free = artifact.metrics["one_step"], artifact.metrics.get("free_run")
    print(
        f"{out}: {len(training.history)} epochs in {seconds:.1f} s, fingerprint {artifact.fingerprint[:12]}"
    )
    print(
        f"one step ahead, {one_step['part']} part: MSE {one_step['mse_scaled']:.3g}, "
        f"persistence {one_step['persistence_mse_scaled']:.3g} (scaled)"
    )
    if free:
        told = ", ".join(f"{target} {rmse:.3g}" for target, rmse in free["rmse"].items())
        print(f"free-running {free['steps']} steps after {free['warmup']} observations, RMSE: {told}")
    print(f"see {out / 'figure.png'}; serve it: carryover serve --models {out}")
