"""The results of a finished training on text: artifact and metrics.json."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.artifact.artifact import Artifact
from models.artifact.files import save
from models.data.measures import measured
from models.evaluation.ngram import cross_entropies
from models.training.text_network import build_text_artifact, cross_entropy
from models.training.text_training import TextTraining


def write_text_report(training: TextTraining, name: str, seconds: float, folder: Path) -> Artifact:
    """Measure the trained network on the kept part, then write everything into the folder.

    What is no finite number is None in the metrics.

    Parameters
    ----------
    seconds
        That the training took.
    """
    network, text = training.best_network(), training.text
    metrics = measure_text(training) | {
        "data": {
            "source": Path(text.name).name,
            "split": {
                "train": text.train,
                "validation": text.validation,
                "test": len(text.kept_rows),
            },
        },
        "recipe": training.recipe.as_dict(),
        "epochs": round(training.history[-1].epochs, 3) if training.history else 0.0,
    }
    if training.diverged is not None:
        metrics["diverged"] = training.diverged
    artifact = replace(build_text_artifact(network, text, name), metrics=metrics)
    save(artifact, folder)
    report = {"fingerprint": artifact.fingerprint, **metrics}
    report |= {"seconds": round(seconds, 1), "torch": torch.__version__, "history": history(training)}
    (folder / "metrics.json").write_text(json.dumps(report, allow_nan=False) + "\n", encoding="utf-8")
    return artifact


def measure_text(training: TextTraining) -> dict[str, Any]:
    """Perplexity on the kept part, of the network and of n-grams.

    The n-grams count the characters of the training and validation parts. Their order is the best on the kept
    part itself, which favours them a little.
    """
    text = training.text
    network = cross_entropy(training.best_network(), torch.from_numpy(text.tokens), text.kept_rows)
    start = text.kept_rows.start
    orders = cross_entropies(text.tokens[:start], text.tokens[start:], len(text.pieces))
    best = min(orders)
    return {
        "text": {
            "part": "kept",
            "characters": len(text.kept_rows),
            "vocabulary": len(text.pieces),
            "unknown": _short(float((text.tokens[start:] == 0).mean())),
            "perplexity": perplexity(network),
            "bits_per_character": _short(network / math.log(2)),
            "ngram_perplexity": perplexity(best),
            "ngram_order": orders.index(best) + 1,
            "frequency_perplexity": perplexity(orders[0]),
        }
    }


def perplexity(cross_entropy: float) -> float | None:
    """Of a mean cross-entropy in nats; None where it is no finite number."""
    return _short(math.exp(cross_entropy)) if cross_entropy < 700 else None


def history(training: TextTraining) -> dict[str, list[float | None]]:
    """For each number of a round a list over the rounds, rounded to six digits."""
    names = ("epochs", "loss", "validation", "learning_rate")
    return {name: [_short(getattr(each, name)) for each in training.history] for name in names}


def _short(value: float) -> float | None:
    value_or_none = measured(value)
    return None if value_or_none is None else float(f"{value_or_none:.6g}")
