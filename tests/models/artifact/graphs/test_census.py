"""Published kinds of networks import as their authors wrote them; what cannot be served says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from carryover.tracing import TracedModule, trace

from models.artifact.graph_artifact import GraphArtifact
from models.artifact.graphs.child import make_artifact
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.limits import parse_graph
from models.errors import BadArtifact
from tests.models.artifact.graphs import networks as nets

BATCH, STEPS = 3, 9


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def tokens(vocabulary: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(vocabulary))


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape)


# Class, example, keyword arguments of the trace, and more choices for the import.
Case = tuple[type, Callable[[], Any], dict[str, Any], dict[str, Any]]
CENSUS: list[Case] = [
    (nets.SineLSTM, lambda: numbers(BATCH, STEPS, 1), {}, {}),
    (nets.PriceLSTM, lambda: numbers(BATCH, STEPS, 4), {}, {}),
    (nets.GRUWithHead, lambda: (numbers(BATCH, STEPS, 3), zeros(1, BATCH, 8)), {}, {}),
    (nets.GRUClassifier, lambda: numbers(BATCH, STEPS, 6), {}, {}),
    (
        nets.WordLanguageModel,
        lambda: (tokens(30, STEPS, BATCH), (zeros(2, BATCH, 8), zeros(2, BATCH, 8))),
        {"batch_axis": 1},
        {},
    ),
    (nets.NameRNN, lambda: (numbers(BATCH, 7), zeros(BATCH, 9)), {}, {}),
    (nets.ElmanRNN, lambda: numbers(BATCH, STEPS, 2), {}, {}),
    (
        nets.RecurrentQNetwork,
        lambda: (numbers(BATCH, STEPS, 1, 8, 8), (zeros(1, BATCH, 8), zeros(1, BATCH, 8))),
        {},
        {},
    ),
    (
        nets.RecurrentActorCritic,
        lambda: (numbers(BATCH, 5), torch.ones(BATCH, 1), zeros(BATCH, 8)),
        {"inputs": 2},
        {},
    ),
    (
        nets.DeepForecaster,
        lambda: (numbers(BATCH, STEPS, 1), tokens(11, BATCH, STEPS)),
        {"inputs": 2},
        {},
    ),
    (nets.NoiseSuppressor, lambda: numbers(BATCH, STEPS, 17), {}, {}),
    (nets.GainsAndVoice, lambda: numbers(BATCH, STEPS, 14), {}, {}),
    (nets.ResidualLSTM, lambda: numbers(BATCH, STEPS, 6), {}, {}),
    (
        nets.CausalConvolution,
        lambda: (numbers(BATCH, 3, STEPS), zeros(BATCH, 3, 4)),
        {"time_axis": 2},
        {},
    ),
    (nets.SequentialMemory, lambda: (numbers(BATCH, STEPS, 10), zeros(BATCH, 8, 4, 1)), {}, {}),
    (
        nets.StateSpaceStep,
        lambda: (numbers(BATCH, 4), (zeros(BATCH, 4, 6), zeros(BATCH, 4, 6))),
        {},
        {},
    ),
    (nets.SimpleRecurrentUnit, lambda: (numbers(BATCH, 6), [zeros(BATCH, 6), zeros(BATCH, 6)]), {}, {}),
    (nets.DecoderGRU, lambda: (tokens(13, BATCH, STEPS), zeros(1, BATCH, 8)), {}, {}),
    (nets.SineCells, lambda: numbers(BATCH, STEPS), {"time_axis": 1}, {}),
    # A network over a window of 9 steps: a session keeps the 8 before, and no other state.
    (
        nets.WindowAttention,
        lambda: numbers(BATCH, STEPS, 3),
        {},
        {"expose": False, "context": {"window": STEPS - 1}},
    ),
]
REFUSED: list[tuple[Case, str]] = [
    (
        (nets.BiLSTMTagger, lambda: tokens(20, BATCH, STEPS), {}, {}),
        "is bidirectional: its first answer needs the whole sequence, so it cannot serve a stream",
    ),
    (
        (nets.WindowAttention, lambda: numbers(BATCH, STEPS, 3), {}, {}),
        "output 'output' of 8 steps one by one differs from the same 8 steps in one call by 0.",
    ),
]


def traced(case: Case) -> tuple[torch.nn.Module, TracedModule]:
    make, example, how, _ = case
    torch.manual_seed(3)
    module = make()
    return module, trace(module, example(), **how)


def imported(case: Case, found: TracedModule, folder: Path) -> GraphArtifact:
    choices = {
        "states": found.states,
        "initials": found.initial,
        "batch_axes": found.batch_axes,
        "all_states": True,
        "expose": not found.states and not found.stateless,
    }
    choices = Choices(**choices | case[3])
    check_choices(parse_graph(found.graph), choices)
    np.savez(folder / "sample.npz", **found.sample)
    return make_artifact(found.graph, "census", choices, folder / "sample.npz")


@pytest.mark.parametrize("case", CENSUS, ids=[case[0].__name__ for case in CENSUS])
def test_a_network_imports_as_its_author_wrote_it(case, tmp_path):
    _, found = traced(case)
    artifact = imported(case, found, tmp_path)
    assert artifact.probed["batch_alone"] <= 1e-6
    assert artifact.probed["verified"] <= 1e-6
    if artifact.signature.steps.per_call is None and artifact.signature.states:
        assert artifact.probed["chunked_whole"] <= 1e-6


@pytest.mark.parametrize(("case", "message"), REFUSED, ids=[case[0].__name__ for case, _ in REFUSED])
def test_a_network_that_cannot_serve_a_stream_is_refused_with_the_reason(case, message, tmp_path):
    _, found = traced(case)
    with pytest.raises(BadArtifact) as caught:
        imported(case, found, tmp_path)
    assert message in str(caught.value)


def test_twenty_of_twenty_one_kinds_import():
    kinds = {case[0] for case in CENSUS} | {case[0] for case, _ in REFUSED}
    assert (len(CENSUS), len(kinds)) == (20, 21)


def test_learnt_initial_states_come_from_the_graph():
    case = next(case for case in CENSUS if case[0] is nets.ResidualLSTM)
    module, found = traced(case)
    artifact = make_artifact(found.graph, "learnt", Choices(expose=True))
    first = {state.tensor: state.initial for state in artifact.signature.states}
    h0 = module.get_parameter("h0").detach().numpy()[0]
    assert np.array_equal(first["inner/layers.0/LSTM.h"], h0)
    assert np.array_equal(first["inner/layers.1/LSTM.h"], h0)
