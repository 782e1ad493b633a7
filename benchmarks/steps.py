"""Run ten million steps of a session's readout in float32, and compare it with a solution in float64.

The 65 features are those of the shipped network on a noisy sine. They are nearly collinear, which is
difficult for the covariance, and the target drifts. Ten times during the run, the predictions of the float32
weights are compared with those of a float64 solution of the same weighted least squares.

    python -m benchmarks.steps [--steps 10000000]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from models.adaptation import readout
from models.arrays import Doubles, Floats
from models.artifact.files import load
from models.forecaster import Forecaster

FORGETTING = (0.98, 0.99, 0.995, 0.999, 0.9999)
PRIOR = 1.0
CYCLE = 50_000  # steps of features, which are gone through again and again
RECENT = 2_000  # steps that predictions are compared over


def main() -> None:
    """Run, and print a line for each tenth."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000_000)
    total = parser.parse_args().steps
    features = _features()
    size, count = features.shape[1], len(FORGETTING)
    weights, covariance = (np.zeros((count, 1, wide, size), np.float32) for wide in (1, size))
    lam, prior = np.array(FORGETTING, np.float32)[:, None], np.full((count, 1), PRIOR, np.float32)
    readout.initialize(weights, covariance, prior)
    draw = np.random.default_rng(0)
    noise = np.asarray(0.1 * draw.standard_normal(CYCLE), np.float32)
    truth = np.asarray(draw.standard_normal(size))
    observed, began = np.ones((count, 1), bool), time.perf_counter()
    print("steps        worst RMS gap to float64 / noise   smallest eigenvalue of P   largest, of 1/prior")
    for step in range(total):
        row = features[step % CYCLE]
        target = row @ _drifted(truth, step, total) + noise[step % CYCLE]
        seen = np.repeat(row[None, None], count, axis=0)
        errors = target.astype(np.float32) - readout.corrections(weights, seen)
        renewed_feature = np.full((count, 1), step % size)
        readouts = readout.Readouts(weights, covariance, lam, prior, renewed_feature)
        readout.update(readouts, seen, errors, observed)
        if (step + 1) % (total // 10) == 0:
            _tell(step + 1, total, weights, covariance, features, noise, truth)
    print(f"{(time.perf_counter() - began) / total * 1e6:.0f} us a step of {count} sessions")


def _features() -> Floats:
    artifact = load(Path(__file__).resolve().parent.parent / "models" / "zoo" / "sine")
    forecaster = Forecaster(artifact)
    series = np.sin(np.linspace(0, 0.1 * CYCLE, CYCLE)) + 0.05 * np.random.default_rng(1).standard_normal(
        CYCLE
    )
    features = np.ones((CYCLE, artifact.hidden_size + 1), np.float32)
    carry, one_step = forecaster.new_carry[None], np.ones(1, np.int64)
    for step, value in enumerate(series.astype(np.float32)):
        _, carry = forecaster.advance(value.reshape(1, 1), one_step, carry)
        features[step, :-1] = carry[0, : artifact.hidden_size]
    return features


def _drifted(truth: Doubles, step: int, total: int) -> Doubles:
    return np.asarray(truth * (1 + 0.5 * np.sin(2 * np.pi * 3 * step / total)))


def _tell(
    now: int,
    total: int,
    weights: Floats,
    covariance: Floats,
    features: Floats,
    noise: Floats,
    truth: Doubles,
) -> None:
    recent = features[np.arange(now - RECENT, now) % CYCLE].astype(np.float64)
    gaps = []
    for i, forgetting in enumerate(FORGETTING):
        exact = _solved(now, total, forgetting, features, noise, truth)
        gaps.append(np.sqrt(np.square(recent @ (weights[i, 0, 0] - exact)).mean()) / 0.1)
    values = np.linalg.eigvalsh(covariance[:, 0].astype(np.float64))
    columns = "  ".join(
        f"{forgetting:g}: {gap:.1e}" for forgetting, gap in zip(FORGETTING, gaps, strict=True)
    )
    print(f"{now:>10,}   {columns}   {values.min():.1e}   {values.max() * PRIOR:.2f}", flush=True)


def _solved(
    now: int,
    total: int,
    forgetting: float,
    features: Floats,
    noise: Floats,
    truth: Doubles,
) -> Doubles:
    """The weights that the recursion stands for, in float64; the past is cut where its weight is 1e-12."""
    size = features.shape[1]
    length = now if forgetting == 1 else min(now, int(np.log(1e-12) / np.log(forgetting)))
    information, moment = np.zeros((size, size)), np.zeros(size)
    for start in range(now - length, now, CYCLE):
        steps = np.arange(start, min(start + CYCLE, now))
        rows = features[steps % CYCLE].astype(np.float64)
        level = 1 + 0.5 * np.sin(2 * np.pi * 3 * steps / total)
        target = (rows @ truth) * level + noise[steps % CYCLE]
        weight = forgetting ** (now - 1 - steps.astype(np.float64))
        information += (rows * weight[:, None]).T @ rows
        moment += rows.T @ (weight * target)
        kept = size * (1 - forgetting) * PRIOR * weight
        np.add.at(information, (steps % size, steps % size), kept)
    information += np.eye(size) * PRIOR * forgetting**now
    return np.asarray(np.linalg.solve(information, moment))


if __name__ == "__main__":
    main()
