"""Whether a trained network is of any use: it is compared with predictions that need no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-4  # relative, of the MSE of a network that predicts no change
HOPELESS = 4.0  # times the MSE of both simple predictions, so twice the RMSE: the training has diverged


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a trained network.

    Attributes
    ----------
    warning : a sentence; empty if it is better than what needs no network, or nothing could be compared
    failed : whether it is far worse, so that it is of no use
    """

    warning: str = ""
    failed: bool = False


def judge(metrics: Mapping[str, Any]) -> Verdict:
    """Compare the one-step error of a trained network, as it is served, with persistence and the mean.

    Parameters
    ----------
    metrics : as `write_report` makes them
    """
    one_step = metrics["one_step"]
    persistence, mean = one_step["persistence_mse_scaled"], one_step["mean_mse_scaled"]
    mse = metrics.get("served", one_step)["mse_scaled"]
    if persistence is None or mean is None:  # nothing was observed
        return Verdict()
    if mse is None:
        return Verdict("the error of the network is not a finite number", failed=True)
    if mse <= (1 + ROUNDING) * persistence:
        return Verdict()
    return Verdict(
        f"worse than persistence on the {one_step['part']} part: MSE {mse:.3g}, persistence "
        f"{persistence:.3g}, the mean {mean:.3g} (scaled)",
        failed=mse > HOPELESS * max(persistence, mean),
    )


def judge_text(metrics: Mapping[str, Any]) -> Verdict:
    """Compare the perplexity of a network that was trained on text with n-grams and single characters.

    Parameters
    ----------
    metrics : as `write_text_report` makes them
    """
    text = metrics["text"]
    perplexity, ngram, frequency = (
        text[name] for name in ("perplexity", "ngram_perplexity", "frequency_perplexity")
    )
    if perplexity is None:
        return Verdict("the perplexity of the network is not a finite number", failed=True)
    if perplexity < ngram:
        return Verdict()
    return Verdict(
        f"no better than {text['ngram_order']}-grams on the kept part: perplexity {perplexity:.3g}, theirs "
        f"{ngram:.3g}, that of the frequencies of single characters {frequency:.3g}",
        failed=perplexity >= frequency,
    )
