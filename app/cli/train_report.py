"""What `carryover train` writes and prints when a training is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import options
from models.wording import counted

if TYPE_CHECKING:
    from models.artifact.files import Artifact
    from models.data.dataset import Dataset
    from models.evaluation.choose import Choice
    from models.evaluation.choose_fleet import FleetChoice
    from models.evaluation.verdict import Verdict
    from models.training.training import Training

REMEDIES = "try a smaller --learning-rate, more --epochs or more rows"


def report_training(
    training: Training,
    name: str,
    source: str,
    seconds: float,
    out: Path,
    choice: Choice | FleetChoice | None,
    fleet: Mapping[str, Dataset],
    split: str | None,
) -> Artifact:
    """Measure a trained network, and write its artifact, metrics.json and figure.png into `out`."""
    from models.data.dataset import DEFAULT_SPLIT
    from models.evaluation.fleet_report import write_fleet_report
    from models.evaluation.report import write_report

    compared = None if choice is None else choice.as_dict()
    if fleet:
        parts = options.parse_numbers(split, "--split") or DEFAULT_SPLIT
        return write_fleet_report(training, fleet, parts, name, seconds, out, compared)
    return write_report(
        training,
        name,
        source if source == "sine" else Path(source).name,
        seconds,
        out,
        compared,
    )


def finish_training(
    training: Training, artifact: Artifact, seconds: float, out: Path, as_json: bool
) -> Verdict:
    """Print what the training gave, and judge whether it is of any use."""
    from models.evaluation.verdict import judge

    verdict = judge(artifact.metrics)
    if verdict.warning:
        options.warn(f"{verdict.warning}; {REMEDIES}", as_json)
    if as_json:
        print((out / "metrics.json").read_text(encoding="utf-8"), end="")
    else:
        _print_summary(training, artifact, seconds, out, verdict.failed)
    return verdict


def _print_summary(training: Training, artifact: Artifact, seconds: float, out: Path, failed: bool) -> None:
    one_step, free = artifact.metrics["one_step"], artifact.metrics.get("free_run")
    served = artifact.metrics.get("served")
    epochs = counted(len(training.history), "epoch")
    print(f"{out}: {epochs} in {seconds:.1f} s, fingerprint {artifact.fingerprint[:12]}")
    frozen = " frozen" if served else ""
    if artifact.fleet is not None:
        print(f"one network of {len(artifact.fleet.names)} series; errors are means over them")
    print(
        f"one step ahead, {one_step['part']} part: MSE{frozen} {_measure(one_step['mse_scaled'])}, "
        f"persistence {_measure(one_step['persistence_mse_scaled'])} (scaled)"
    )
    if served:
        shares = served["coverage"].items()
        covered = ", ".join(f"{level}: {_measure(share, '.3f')}" for level, share in shares)
        print(
            f"as its sessions learn: MSE {_measure(served['mse_scaled'])}; coverage {covered or 'not kept'}"
        )
    if free:
        errors = ", ".join(f"{target} {_measure(rmse)}" for target, rmse in free["rmse"].items())
        run = f"{counted(free['steps'], 'step')} after {counted(free['warmup'], 'observation')}"
        print(f"free-running {run}, RMSE: {errors}")
    serving = "" if failed else f"; serve it: carryover serve --models {out}"
    print(f"see {out / 'figure.png'}{serving}")


def _measure(value: float | None, digits: str = ".3g") -> str:
    return "not measured" if value is None else f"{value:{digits}}"
