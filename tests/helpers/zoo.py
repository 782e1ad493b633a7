"""Artifacts with fixed random weights, and what they predict by the plainest means: torch, in one pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from models.arrays import Floats
from models.artifact.artifact import Artifact
from models.artifact.learning import Learning
from models.data.scaling import Column, Scaling
from models.nets.architecture import Architecture, Embedding
from models.nets.recurrent import Carry, RecurrentNetwork

LEARNING = Learning("rls", inputs=True, forgetting=0.99, levels=(0.8, 0.9), growth=(1.0, 1.4, 2.0))
NETWORKS: dict[str, RecurrentNetwork] = {}  # by fingerprint
TOLERANCE = 1e-6  # in scaled units: batched and alone, chunked and whole agree this well, not bit for bit

INPUTS = {
    "sine": ["value"],
    "pair": ["a", "b", "c"],
    "partial": ["a", "b"],
    "adaptive": ["a", "b"],
    "seasonal": ["a", "b"],
    "planned": ["a", "plan", "hour_of_day_sin", "hour_of_day_cos"],
    "gru": ["a", "b"],
    "tokens": ["token"],
}
TARGETS = {
    "sine": ["value"],
    "pair": ["c", "a", "b"],
    "partial": ["b"],
    "adaptive": ["b", "a"],
    "seasonal": ["b", "a"],
    "planned": ["a"],
    "gru": ["b", "a"],
    "tokens": ["x", "y", "z"],
}
GRU = Architecture("gru", ("layer_norm", 12, "relu"))
TOKENS = Architecture("lstm", embedding=Embedding(5, 7))


def artifacts() -> dict[str, Artifact]:
    """One shaped as the textbook's; one of changes, 3 features, 2 layers; one that cannot be fed back; one
    whose sessions learn; one whose sessions learn their forecasts, too; one with inputs that are known ahead,
    some of them made from timestamps; a GRU with a head; one whose input is a token."""
    adaptive = made("adaptive", hidden=12, layers=1, seed=3, change=True)
    planned = made("planned", hidden=8, layers=1, seed=4)
    ahead = {"future": ("plan",), "time_features": ("hour_of_day",), "interval_seconds": 3600.0}
    return {
        "adaptive": replace(adaptive, learning=LEARNING),
        "seasonal": replace(
            made("seasonal", hidden=8, layers=1, seed=7, change=True),
            learning=replace(LEARNING, horizons=(1, 3, 6), season=4),
        ),
        "planned": replace(planned, learning=LEARNING, **ahead),
        "sine": made("sine", hidden=64, layers=1, seed=0),
        "pair": made("pair", hidden=16, layers=2, seed=1, change=True),
        "gru": made("gru", hidden=8, layers=2, seed=5, change=True, architecture=GRU),
        "tokens": made("tokens", hidden=8, layers=1, seed=6, architecture=TOKENS),
        "partial": made("partial", hidden=8, layers=1, seed=2),
    }


def made(
    name: str,
    *,
    hidden: int,
    layers: int,
    seed: int,
    change: bool = False,
    architecture: Architecture | None = None,
) -> Artifact:
    """Weights somewhat larger than torch's own, so that what happened ten steps ago still shows."""
    inputs, targets = INPUTS[name], TARGETS[name]
    columns = [inputs.index(target) for target in targets if target in inputs]
    architecture = architecture or Architecture()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = RecurrentNetwork(
            len(inputs), hidden, layers, len(targets), columns if change else None, architecture=architecture
        )
    weights = {key: 1.5 * value.detach().numpy() for key, value in network.state_dict().items()}
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=len(inputs)), rng.uniform(0.5, 1.5, size=len(inputs))
    if architecture.embedding is not None:
        mean, std = np.zeros(1), np.ones(1)
    scaling = Scaling(mean, std)
    return Artifact(
        name=name,
        inputs=tuple(Column(one) for one in inputs),
        targets=tuple(targets),
        hidden_size=hidden,
        num_layers=layers,
        scaling=scaling,
        target_scaling=scaling.pick(columns) if columns else Scaling(np.zeros(3), np.ones(3)),
        weights=weights,
        predicts="change" if change else "level",
        architecture=architecture,
    )


def series(model: str, steps: int, seed: int = 0) -> Floats:
    """[steps, inputs] of a wave with noise, or of tokens, its own for every seed."""
    rng = np.random.default_rng([seed, steps])
    if model == "tokens":
        return rng.integers(0, 5, (steps, 1)).astype(np.float32)
    width = len(INPUTS[model])
    phase = rng.uniform(0, 6, width)
    wave = np.sin(np.arange(steps)[:, None] * rng.uniform(0.05, 0.5, width) + phase)
    return (wave + 0.3 * rng.normal(size=(steps, width))).astype(np.float32)


def one_pass(artifact: Artifact, observations: Floats) -> Floats:
    """[steps, outputs]: the whole series through the network at once, from an empty carry."""
    return _run(artifact, observations)[0]


def rolled_out(artifact: Artifact, observations: Floats, steps: int) -> Floats:
    """[steps, outputs]: predictions fed back behind these observations, one at a time."""
    last, carry = _run(artifact, observations)
    order = [artifact.targets.index(name) for name in artifact.columns]
    network, forecast = _network(artifact), [last[-1]]
    with torch.inference_mode():
        for _ in range(steps - 1):
            fed = torch.from_numpy(_scaled(artifact, forecast[-1][None, order]))[None]
            output, carry = network(fed, carry)
            forecast.append(_unscaled(artifact, output[0, 0].numpy()))
    return np.stack(forecast)


def _run(artifact: Artifact, observations: Floats) -> tuple[Floats, Carry]:
    with torch.inference_mode():
        outputs, carry = _network(artifact)(torch.from_numpy(_scaled(artifact, observations))[None])
    return _unscaled(artifact, outputs[0].numpy()), carry


def _network(artifact: Artifact) -> RecurrentNetwork:
    """Made once for all who ask what it predicts."""
    if artifact.fingerprint not in NETWORKS:
        NETWORKS[artifact.fingerprint] = artifact.network()
    return NETWORKS[artifact.fingerprint]


def _scaled(artifact: Artifact, observations: Floats) -> Floats:
    scaling = artifact.scaling
    return ((observations - scaling.mean) / scaling.std).astype(np.float32)


def _unscaled(artifact: Artifact, outputs: Floats) -> Floats:
    scaling = artifact.target_scaling
    return (outputs * scaling.std + scaling.mean).astype(np.float32)
