"""`carryover train --text`: trains a model of characters, and writes an artifact and metrics.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.cli import options
from models.errors import TrainingDiverged

REMEDIES = "try more --minutes, more text, or another --learning-rate"
OF_A_TEXT = frozenset(("embedding", "min_count", "bfloat16"))  # the parameters that a table has not
OF_BOTH = frozenset(
    (
        *("text", "encoding", "out", "name", "device", "threads", "as_json", "minutes"),
        *("checkpoint", "resume"),
        *("hidden", "layers", "cell", "epochs", "patience", "streams", "piece", "dropout"),
        *("weight_decay", "learning_rate", "schedule", "clip", "seed"),
    )
)

if TYPE_CHECKING:
    from models.artifact.files import Artifact
    from models.training.text_recipe import TextRecipe
    from models.training.text_training import TextTraining


def check_options(context: typer.Context, *, of_text: bool) -> None:
    """Refuse what was given and has no meaning for a text, or none without --text."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in OF_BOTH or source is None or source.name == "DEFAULT":
            continue
        if (parameter.name in OF_A_TEXT) == of_text:
            continue
        shown = parameter.opts[0] if parameter.param_type_name == "option" else "DATA"
        wrong = "is for tables, so it does not go with --text" if of_text else "is for --text only"
        raise typer.BadParameter(wrong, param_hint=shown)


def train_text(
    source: Path,
    encoding: str,
    min_count: int | None,
    recipe: TextRecipe,
    device: str,
    out: Path,
    name: str | None,
    as_json: bool,
    checkpoint: Path,
    resume: bool,
) -> None:
    """Read, check, train, measure and write.

    Parameters
    ----------
    checkpoint : written after each round, and removed at the end
    resume : go on from the checkpoint, if there is one

    Raises
    ------
    BadInput : something is refused, before the training begins
    TrainingDiverged : the network is of no use
    """
    from models.evaluation.text_report import write_text_report
    from models.evaluation.verdict import judge_text
    from models.training.checkpoint import load_checkpoint
    from models.training.text import read_text
    from models.training.text_training import TextTraining

    name = options.artifact_name(name, out)
    text = read_text(source, encoding) if min_count is None else read_text(source, encoding, min_count)
    training = TextTraining(text, recipe, device)
    if resume and checkpoint.exists():
        load_checkpoint(training, checkpoint)
        print(f"continuing after round {len(training.history)}", file=sys.stderr)
    interrupted = _run(training, checkpoint, as_json)
    artifact = write_text_report(training, name, training.seconds, out)
    if not interrupted:
        checkpoint.unlink(missing_ok=True)
    verdict = judge_text(artifact.metrics)
    if verdict.warning:
        options.warn(f"{verdict.warning}; {REMEDIES}", as_json)
    if as_json:
        print((out / "metrics.json").read_text(encoding="utf-8"), end="")
    else:
        _print_summary(training, artifact, out, verdict.failed)
    if verdict.failed:
        raise TrainingDiverged(f"the network in {out} predicts no better than the frequencies of characters")


def _run(training: TextTraining, checkpoint: Path, as_json: bool) -> bool:
    """Train to the end, or until Ctrl-C; whether it was Ctrl-C."""
    from app.cli.text_progress import TextProgress
    from models.training.checkpoint import save_checkpoint

    interrupted = False
    with TextProgress(training, silent=as_json) as display:
        try:
            for result in training.run():
                save_checkpoint(training, checkpoint)
                display.show(result)
        except KeyboardInterrupt:
            if training.best_weights is None:
                raise
            interrupted = True
            rounds = len(training.history)
            print(
                f"stopped after round {rounds}; its best weights are kept; continue with --resume",
                file=sys.stderr,
            )
    if training.diverged is not None:
        print(f"{training.diverged}. Kept: the best weights before it", file=sys.stderr)
    return interrupted


def _print_summary(training: TextTraining, artifact: Artifact, out: Path, failed: bool) -> None:
    text = artifact.metrics["text"]
    print(
        f"{out}: {training.history[-1].epochs:.2f} epochs in {training.seconds:.1f} s, "
        f"fingerprint {artifact.fingerprint[:12]}"
    )
    print(
        f"kept part, {text['characters']:,} characters: perplexity {_measure(text['perplexity'])}, "
        f"{text['ngram_order']}-grams {_measure(text['ngram_perplexity'])}, single characters "
        f"{_measure(text['frequency_perplexity'])}"
    )
    if not failed:
        print(f"serve it: carryover serve --models {out}")


def _measure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
