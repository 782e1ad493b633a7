"""The comparison with onnxruntime compares what gives the same numbers."""

import pytest
import torch

from benchmarks import native_or_graph
from benchmarks.native_or_graph import NETWORKS, compare, export
from models.nets.cells import Cells
from models.nets.recurrent import RecurrentNetwork, weights_of


@pytest.fixture(autouse=True)
def one_round(monkeypatch):
    monkeypatch.setattr(native_or_graph, "SECONDS", 0.0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("rows", "steps"), [(3, 1), (2, 7)])
def test_each_network_is_compared_with_a_graph_that_computes_the_same(name, rows, steps):
    architecture, outputs = NETWORKS[name]
    network = RecurrentNetwork(1, 8, 1, outputs, architecture=architecture).eval()
    ours, theirs = compare(network, Cells(weights_of(network), architecture), export(network), rows, steps)
    assert ours > 0
    assert theirs > 0


def test_a_graph_of_other_weights_is_not_compared():
    network = RecurrentNetwork(1, 8, 1, 1).eval()
    graph = export(network)
    with torch.no_grad():
        network.fc.bias += 1.0
    with pytest.raises(ValueError, match="differ by"):
        compare(network, Cells(weights_of(network), network.architecture), graph, 2, 3)
