"""The folded cells are `nn.LSTM`, one observation at a time."""

import numpy as np
import pytest
import torch
from numba import njit

from models.cells import Cells, sigmoid, tanh
from models.network import StatefulLSTM


@pytest.mark.parametrize("inputs", [1, 3, 17])
@pytest.mark.parametrize("hidden", [1, 8, 64])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_cells_equal_the_network_for_many_shapes(inputs, hidden, layers, batch):
    network = StatefulLSTM(inputs, hidden, layers, 2).eval()
    generator = torch.Generator().manual_seed(7)
    observations = torch.randn(batch, 20, inputs, generator=generator)
    h, c = (0.5 * torch.randn(layers, batch, hidden, generator=generator) for _ in range(2))
    with torch.inference_mode():
        want, (last_h, last_c) = network(observations, (h, c))
    cells, rest = Cells(network), torch.full((batch, 3), 7.0)
    rows = torch.cat([_by_row(h), _by_row(c), rest], 1).numpy()
    for t in range(20):
        got = cells.step(observations[:, t].numpy(), rows)
        np.testing.assert_allclose(got, want[:, t].numpy(), atol=1e-6)
    np.testing.assert_allclose(
        rows, torch.cat([_by_row(last_h), _by_row(last_c), rest], 1).numpy(), atol=1e-6
    )


def _by_row(state: torch.Tensor) -> torch.Tensor:
    return state.transpose(0, 1).flatten(1)


def test_cells_keep_their_weights_when_the_network_changes():
    network = StatefulLSTM(1, 4, 1, 1).eval()
    cells, zeros = Cells(network), np.zeros((1, 8), np.float32)
    x = np.ones((1, 1), np.float32)
    before = cells.step(x, zeros.copy())
    with torch.no_grad():
        network.fc.bias += 1.0
        network.lstm.weight_ih_l0 += 1.0
    np.testing.assert_array_equal(cells.step(x, zeros.copy()), before)


@njit  # not kept on disk: it would not notice a change of what it calls
def every_tanh(x, told):
    for i in range(len(x)):
        told[i] = tanh(x[i])


@njit
def every_sigmoid(x, told):
    for i in range(len(x)):
        told[i] = sigmoid(x[i])


def applied(function, x):
    told = np.empty(len(x), np.float32)
    function(np.asarray(x, np.float32), told)
    return told


NUMBERS = np.concatenate(
    [
        np.linspace(-12, 12, 1_000_001),
        np.linspace(-0.7, 0.7, 300_001),
        np.geomspace(1e-38, 1, 100_000),
        [-100, 100],
    ]
).astype(np.float32)


def test_tanh_is_right_to_a_unit_in_the_last_place_even_where_it_is_tiny():
    want = np.tanh(NUMBERS.astype(np.float64))
    np.testing.assert_allclose(applied(every_tanh, NUMBERS), want, rtol=1.5e-7, atol=0)


def test_sigmoid_is_right_to_a_unit_in_the_last_place_of_one():
    want = 1 / (1 + np.exp(-NUMBERS.astype(np.float64)))
    np.testing.assert_allclose(applied(every_sigmoid, NUMBERS), want, rtol=0, atol=1.2e-7)
    assert (np.diff(applied(every_sigmoid, np.linspace(-90, 90, 10_001))) >= -1.2e-7).all()


@pytest.mark.parametrize(("function", "least"), [(every_tanh, -1.0), (every_sigmoid, 0.0)])
def test_what_is_not_finite_stays_so_or_saturates(function, least):
    told = applied(function, [np.nan, np.inf, -np.inf, 0.0])
    assert np.isnan(told[0])
    np.testing.assert_allclose(told[1:3], [1.0, least], atol=1e-6)
    assert np.isfinite(told[3])
