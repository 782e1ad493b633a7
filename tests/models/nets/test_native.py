"""Many sessions move on by chunks of their own lengths, by the compiled cells as by `nn.LSTM`."""

import numpy as np
import pytest

from models.nets.native import NativeNet
from models.nets.recurrent import RecurrentNetwork

LENGTHS = [[5] * 6, [1] * 64, [1, 9, 2, 9, 30, 4, 1]]


def networks(layers: int = 2) -> tuple[NativeNet, NativeNet]:
    """The same network, once stepped by the cells, and once by `nn.LSTM` as on a GPU."""
    network = RecurrentNetwork(3, 8, layers, 2, (2, 0)).eval()
    by_cells, by_torch = NativeNet(network, "cpu"), NativeNet(network, "cpu")
    by_torch.cells = None
    return by_cells, by_torch


def batch(lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    carries = random.uniform(-1, 1, (len(lengths), 2 * 2 * 8 + 3)).astype(np.float32)
    return random.standard_normal((sum(lengths), 3), dtype=np.float32), np.array(lengths), carries


@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_cells_equal_the_network_for_equal_and_mixed_lengths(lengths):
    by_cells, by_torch = networks()
    scaled, lengths, carries = batch(lengths)
    kept = carries.copy()
    for got, want in zip(
        by_cells.advance(scaled, lengths, carries), by_torch.advance(scaled, lengths, carries), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_array_equal(carries, kept)


@pytest.mark.parametrize("path", [0, 1])
def test_a_step_in_place_is_a_chunk_of_one_observation(path):
    network = networks()[path]
    scaled, lengths, carries = batch([1] * 64)
    want, want_carries = network.advance(scaled, lengths, carries)
    np.testing.assert_array_equal(network.step(scaled, carries), want)
    np.testing.assert_array_equal(carries, want_carries)
