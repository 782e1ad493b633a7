"""Many sessions move on by chunks of their own lengths, by the compiled cells as by torch."""

import sys

import numpy as np
import pytest
import torch

from models.errors import BadArtifact
from models.net import Execution
from models.nets.architecture import Architecture, Embedding
from models.nets.native import NativeNet, RecurrentNet
from models.nets.native_torch import TorchNet
from models.nets.recurrent import RecurrentNetwork, weights_of
from tests.helpers.zoo import made

LENGTHS = [[5] * 6, [1] * 64, [1, 9, 2, 9, 30, 4, 1]]


LSTM, GRU = Architecture(), Architecture("gru", ("layer_norm", 5, "relu"))
TOKENS = Architecture("rnn", embedding=Embedding(4, 3))
of_each_kind = pytest.mark.parametrize("architecture", [LSTM, GRU, TOKENS], ids=["lstm", "gru", "tokens"])


def networks(architecture: Architecture) -> tuple[NativeNet, TorchNet]:
    """The same network, once stepped by the cells, and once by torch as on a GPU."""
    inputs, change_of = (1, None) if architecture.embedding else (3, (2, 0))
    network = RecurrentNetwork(inputs, 8, 2, 2, change_of, architecture=architecture).eval()
    return NativeNet(weights_of(network), architecture, change_of), TorchNet(network, "cpu")


def batch(net: RecurrentNet, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    carries = random.uniform(-1, 1, (len(lengths), net.state_size + 3)).astype(np.float32)
    scaled = random.standard_normal((sum(lengths), net.input_size), dtype=np.float32)
    if net.architecture.embedding:
        scaled = random.integers(0, 4, scaled.shape).astype(np.float32)
    return scaled, np.array(lengths), carries


@of_each_kind
@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_cells_equal_the_network_for_equal_and_mixed_lengths(lengths, architecture):
    by_cells, by_torch = networks(architecture)
    scaled, lengths, carries = batch(by_cells, lengths)
    kept = carries.copy()
    for got, want in zip(
        by_cells.advance(scaled, lengths, carries), by_torch.advance(scaled, lengths, carries), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_array_equal(carries, kept)


@of_each_kind
@pytest.mark.parametrize("path", [0, 1])
def test_a_step_in_place_is_a_chunk_of_one_observation(path, architecture):
    network = networks(architecture)[path]
    scaled, lengths, carries = batch(network, [1] * 64)
    want, want_carries = network.advance(scaled, lengths, carries)
    np.testing.assert_array_equal(network.step(scaled, carries), want)
    np.testing.assert_array_equal(carries, want_carries)


@of_each_kind
def test_the_features_are_the_hidden_state_of_the_last_layer(architecture):
    net = networks(architecture)[0]
    scaled, lengths, carries = batch(net, [3, 1, 2])
    _, moved = net.advance(scaled, lengths, carries)
    parts = moved[:, : net.state_size].reshape(3, architecture.states, 2, 8)
    np.testing.assert_array_equal(net.features(moved), parts[:, 0, 1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_device_cuda_is_refused_by_name():
    with pytest.raises(BadArtifact, match="finds no GPU for the device cuda"):
        made("sine", hidden=8, layers=1, seed=0).net(Execution("cuda"))


def test_without_torch_the_cpu_serves_and_the_device_cuda_says_how_to_install_it(monkeypatch):
    artifact = made("sine", hidden=8, layers=1, seed=0)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert artifact.net(Execution()).output_size == 1
    with pytest.raises(BadArtifact, match=r"the device cuda needs torch: .* -m pip install .*\[train\]"):
        artifact.net(Execution("cuda"))
