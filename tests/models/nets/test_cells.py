"""The folded cells are `nn.LSTM`, one observation at a time or a chunk at a time."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from models.nets.cells import Cells
from models.nets.kernels import sigmoid, sigmoid_times_tanh
from models.nets.recurrent import RecurrentNetwork


@pytest.mark.parametrize("inputs", [1, 3, 17])
@pytest.mark.parametrize("hidden", [1, 8, 64])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 5])
def test_cells_equal_the_network_for_many_shapes(inputs, hidden, layers, batch):
    network = RecurrentNetwork(inputs, hidden, layers, 2).eval()
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


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=11),
    inputs=st.integers(1, 6),
    hidden=st.sampled_from([1, 2, 7, 16, 33, 64]),
    layers=st.integers(1, 3),
    seed=st.integers(0, 100),
)
def test_chunks_of_mixed_lengths_equal_the_network_on_each_alone(lengths, inputs, hidden, layers, seed):
    torch.manual_seed(seed)
    network = RecurrentNetwork(inputs, hidden, layers, 2).eval()
    chunks = [torch.randn(1, length, inputs) for length in lengths]
    rows = 0.5 * torch.randn(len(lengths), 2 * layers * hidden + 3).numpy()
    before = rows.copy()
    got = Cells(network).advance(torch.cat(chunks, 1)[0].numpy(), np.array(lengths), rows)
    for i, part in enumerate(np.split(got, np.cumsum(lengths)[:-1])):
        h, c = (_of_row(part, layers) for part in np.split(before[i, : 2 * layers * hidden], 2))
        with torch.inference_mode():
            want, (last_h, last_c) = network(chunks[i], (h, c))
        np.testing.assert_allclose(part, want[0].numpy(), atol=1e-6)
        last = torch.cat([_by_row(last_h), _by_row(last_c)], 1)[0].numpy()
        np.testing.assert_allclose(rows[i, :-3], last, atol=1e-6)
    np.testing.assert_array_equal(rows[:, -3:], before[:, -3:])


def _of_row(state: np.ndarray, layers: int) -> torch.Tensor:
    return torch.from_numpy(state.reshape(layers, 1, -1))


def chunks(lengths: list[int], layers: int = 2, hidden: int = 8) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cells of 3 inputs, and chunks and rows for them."""
    torch.manual_seed(3)
    cells = Cells(RecurrentNetwork(3, hidden, layers, 1).eval())
    rows = torch.rand(len(lengths), 2 * layers * hidden).numpy()
    return cells, torch.randn(sum(lengths), 3).numpy(), rows


@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_a_strange_number_stays_within_its_chunk(strange):
    lengths = [4, 6, 5, 6, 2]
    cells, x, rows = chunks(lengths)
    want_rows = rows.copy()
    want = cells.advance(x, np.array(lengths), want_rows)
    x[5, 1] = strange  # in the second chunk
    got = cells.advance(x, np.array(lengths), rows)
    second = np.repeat(np.arange(5), lengths) == 1
    np.testing.assert_array_equal(got[~second], want[~second])
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(rows[others], want_rows[others])
    if np.isnan(strange):
        assert np.isnan(rows[1]).any()


@pytest.mark.parametrize(
    ("width", "lengths"), [(2, [4, 2]), (4, [4, 2]), (3, [4, 3]), (3, [7, -1]), (3, [6, 0])]
)
def test_chunks_that_do_not_fit_are_refused_before_anything_is_written(width, lengths):
    cells, _, rows = chunks([4, 2])
    kept = rows.copy()
    with pytest.raises(ValueError, match="are not 2 chunks"):
        cells.advance(np.zeros((6, width), np.float32), np.array(lengths), rows)
    np.testing.assert_array_equal(rows, kept)


def test_observations_may_lie_apart_in_memory():
    lengths = np.array([4, 2])
    cells, x, rows = chunks([4, 2])
    wide = np.zeros((12, 6), np.float32)
    wide[::2, ::2] = x
    want = cells.advance(x, lengths, rows.copy())
    np.testing.assert_array_equal(cells.advance(wide[::2, ::2], lengths, rows), want)


def test_a_pass_holds_the_features_of_two_layers_and_no_gates():
    lengths = [64] * 256
    cells, x, rows = chunks(lengths, layers=3, hidden=16)
    tracemalloc.start()
    try:
        cells.advance(x, np.array(lengths), rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    features = 4 * 16 * sum(lengths)
    assert peak < 2.5 * features


def _by_row(state: torch.Tensor) -> torch.Tensor:
    return state.transpose(0, 1).flatten(1)


def test_cells_keep_their_weights_when_the_network_changes():
    network = RecurrentNetwork(1, 4, 1, 1).eval()
    cells, zeros = Cells(network), np.zeros((1, 8), np.float32)
    x = np.ones((1, 1), np.float32)
    before = cells.step(x, zeros.copy())
    with torch.no_grad():
        network.fc.bias += 1.0
        network.lstm.weight_ih_l0 += 1.0
    np.testing.assert_array_equal(cells.step(x, zeros.copy()), before)


@njit  # not kept on disk: it would not notice a change of what it calls
def every_gated(gate, x, out):
    for i in range(len(x)):
        out[i] = sigmoid_times_tanh(gate, x[i])


@njit
def every_sigmoid(x, out):
    for i in range(len(x)):
        out[i] = sigmoid(x[i])


def applied(function, x):
    out = np.empty(len(x), np.float32)
    function(np.asarray(x, np.float32), out)
    return out


NUMBERS = np.concatenate(
    [
        np.linspace(-12, 12, 1_000_001),
        np.linspace(-0.7, 0.7, 300_001),
        np.geomspace(1e-38, 1, 100_000),
        [-100, 100],
    ]
).astype(np.float32)


@pytest.mark.parametrize("gate", [-50.0, -3.0, -0.1, 0.0, 0.7, 12.0, 100.0])
def test_sigmoid_times_tanh_is_right_to_two_units_in_the_last_place_even_near_zero(gate):
    out = np.empty(len(NUMBERS), np.float32)
    every_gated(np.float32(gate), NUMBERS, out)
    want = np.tanh(NUMBERS.astype(np.float64)) / (1 + np.exp(-np.float64(np.float32(gate))))
    np.testing.assert_allclose(out, want, rtol=3e-7, atol=1e-44)


def test_sigmoid_is_right_to_one_unit_in_the_last_place_of_one():
    want = 1 / (1 + np.exp(-NUMBERS.astype(np.float64)))
    np.testing.assert_allclose(applied(every_sigmoid, NUMBERS), want, rtol=0, atol=1.2e-7)
    assert (np.diff(applied(every_sigmoid, np.linspace(-90, 90, 10_001))) >= -1.2e-7).all()


def test_nan_stays_nan_and_infinity_saturates():
    strange = np.array([np.nan, np.inf, -np.inf, 0.0], np.float32)
    out = applied(every_sigmoid, strange)
    assert np.isnan(out[0])
    np.testing.assert_allclose(out[1:], [1.0, 0.0, 0.5], atol=1e-6)
    for gate, open_by in zip(strange, out, strict=True):
        gated_by = np.empty(len(strange), np.float32)
        every_gated(gate, strange, gated_by)
        np.testing.assert_allclose(gated_by, open_by * np.tanh(strange), atol=1e-6)  # NaN where that is


def test_a_very_large_cell_state_still_steps_like_torch():
    cells = Cells(network := RecurrentNetwork(1, 4, 1, 1).eval())
    rows = np.full((1, 8), 1e9, np.float32)
    h = torch.full((1, 1, 4), 1e9)
    with torch.inference_mode():
        want, (last_h, last_c) = network(torch.ones(1, 1, 1), (h, h.clone()))
    np.testing.assert_allclose(cells.step(np.ones((1, 1), np.float32), rows), want[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(rows[0], torch.cat([last_h, last_c], 2)[0, 0].numpy(), rtol=1e-6, atol=1e-20)
