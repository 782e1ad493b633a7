"""The cells are `nn.LSTM`, `nn.GRU` and `nn.RNN` with what surrounds them, by single steps and by chunks."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from models.nets.architecture import Architecture, Embedding, HeadLayer
from models.nets.cells import Cells
from models.nets.kernels import between, erf, sigmoid, sigmoid_times_tanh, tanh
from models.nets.recurrent import Carry, RecurrentNetwork, weights_of

CELLS = [Architecture(cell) for cell in ("lstm", "gru", "rnn")]
HEADS: list[tuple[HeadLayer, ...]] = [
    (16, "relu"),
    ("layer_norm",),
    (16, "gelu", 5, "tanh"),
    ("sigmoid", "layer_norm", 3, "silu"),
]


def states(rows: np.ndarray, architecture: Architecture, layers: int, hidden: int) -> Carry:
    """The states in rows [batch, ...], as torch has them."""
    parts = rows[:, : architecture.states * layers * hidden].reshape(
        len(rows), architecture.states, layers, -1
    )
    return tuple(torch.from_numpy(parts[:, i].transpose(1, 0, 2).copy()) for i in range(architecture.states))


def rows_of(carry: Carry) -> np.ndarray:
    """[batch, states layers hidden]."""
    return torch.cat([state.transpose(0, 1).flatten(1) for state in carry], 1).numpy()


def cells_of(network: RecurrentNetwork) -> Cells:
    return Cells(weights_of(network), network.architecture)


def agree(architecture: Architecture, inputs: int, hidden: int, layers: int, lengths: list[int]) -> None:
    """Steps and chunks of the cells are those of the network, whatever else a row holds."""
    torch.manual_seed(len(lengths) + hidden)
    network = RecurrentNetwork(inputs, hidden, layers, 2, architecture=architecture).eval()
    chunks = [observations(architecture, length, inputs) for length in lengths]
    size = architecture.states * layers * hidden
    rows = 0.5 * torch.randn(len(lengths), size + 3).numpy()
    with torch.inference_mode():
        wants = [
            network(chunk[None], states(rows[i : i + 1], architecture, layers, hidden))
            for i, chunk in enumerate(chunks)
        ]
    cells, moved = cells_of(network), rows.copy()
    got = cells.advance(torch.cat(chunks).numpy(), np.array(lengths), moved)
    for i, part in enumerate(np.split(got, np.cumsum(lengths)[:-1])):
        want, carry = wants[i]
        np.testing.assert_allclose(part, want[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(moved[i : i + 1, :size], rows_of(carry), atol=1e-6)
        stepped = rows[i : i + 1].copy()
        each = [cells.step(chunks[i][t : t + 1].numpy(), stepped) for t in range(lengths[i])]
        np.testing.assert_allclose(np.concatenate(each), want[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(stepped[:, :size], rows_of(carry), atol=1e-6)
    np.testing.assert_array_equal(moved[:, size:], rows[:, size:])


def observations(architecture: Architecture, steps: int, inputs: int) -> torch.Tensor:
    if architecture.embedding is None:
        return torch.randn(steps, inputs)
    return torch.randint(0, architecture.embedding.vocabulary, (steps, 1)).float()


@pytest.mark.parametrize("architecture", CELLS, ids=lambda architecture: architecture.cell)
@pytest.mark.parametrize("inputs", [1, 3, 17])
@pytest.mark.parametrize("hidden", [1, 8, 64])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_cells_equal_the_network_for_many_shapes(architecture, inputs, hidden, layers):
    agree(architecture, inputs, hidden, layers, [20])
    agree(architecture, inputs, hidden, layers, [1, 7, 3, 7, 2])


@settings(max_examples=120, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=11),
    inputs=st.integers(1, 6),
    hidden=st.sampled_from([1, 2, 7, 16, 33, 64]),
    layers=st.integers(1, 3),
    architecture=st.sampled_from(CELLS),
)
def test_chunks_of_mixed_lengths_equal_the_network_on_each_alone(
    lengths, inputs, hidden, layers, architecture
):
    agree(architecture, inputs, hidden, layers, lengths)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_head_is_applied_to_every_step(head, cell):
    agree(Architecture(cell, head), 2, 8, 2, [4, 1, 9])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_tokens_are_looked_up_in_the_embedding(cell):
    agree(Architecture(cell, embedding=Embedding(11, 6)), 1, 8, 2, [4, 1, 9])


@pytest.mark.parametrize("head", [(), *HEADS], ids=str)
@pytest.mark.parametrize("architecture", CELLS, ids=str)
def test_no_bit_of_a_row_depends_on_its_neighbours_or_on_the_cuts_of_its_stream(architecture, head):
    architecture = dataclasses.replace(architecture, head=head)
    network = RecurrentNetwork(3, 18, 2, 19, architecture=architecture).eval()
    cells, size = cells_of(network), architecture.states * 2 * 18
    lengths = np.array([5, 1, 9, 2, 9, 4, 1])
    x, rows = torch.randn(sum(lengths), 3).numpy(), torch.randn(7, size + 1).numpy()
    together = rows.copy()
    outputs = np.split(cells.advance(x, lengths, together), lengths.cumsum()[:-1])
    for i, chunk in enumerate(np.split(x, lengths.cumsum()[:-1])):
        whole, single, beside = (rows[i : i + 1].copy() for _ in range(3))
        np.testing.assert_array_equal(cells.advance(chunk, lengths[i : i + 1], whole), outputs[i])
        for t in range(len(chunk)):
            np.testing.assert_array_equal(cells.step(chunk[t : t + 1], single)[0], outputs[i][t])
            crowd = np.concatenate([rows[:2], beside, rows[3:]])
            several = cells.step(np.concatenate([x[:2], chunk[t : t + 1], x[3:7]]), crowd)
            beside = crowd[2:3]
            np.testing.assert_array_equal(several[2], outputs[i][t])
        for moved in (whole, single, beside):
            np.testing.assert_array_equal(moved[0], together[i])
        assert together[i, size] == rows[i, size]


def chunks(
    lengths: list[int], layers: int = 2, hidden: int = 8, architecture: Architecture = CELLS[0]
) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cells of 3 inputs, and chunks and rows for them."""
    torch.manual_seed(3)
    cells = cells_of(RecurrentNetwork(3, hidden, layers, 1, architecture=architecture).eval())
    rows = torch.rand(len(lengths), architecture.states * layers * hidden).numpy()
    return cells, torch.randn(sum(lengths), 3).numpy(), rows


@pytest.mark.parametrize("architecture", CELLS, ids=lambda architecture: architecture.cell)
@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_a_strange_number_stays_within_its_chunk(strange, architecture):
    lengths = [4, 6, 5, 6, 2]
    cells, x, rows = chunks(lengths, architecture=architecture)
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


def test_cells_keep_their_weights_when_the_network_changes():
    network = RecurrentNetwork(1, 4, 1, 1).eval()
    cells, zeros = cells_of(network), np.zeros((1, 8), np.float32)
    x = np.ones((1, 1), np.float32)
    before = cells.step(x, zeros.copy())
    with torch.no_grad():
        network.fc.bias += 1.0
        network.recurrent.weight_ih_l0 += 1.0
    np.testing.assert_array_equal(cells.step(x, zeros.copy()), before)


@njit  # not kept on disk: it would not notice a change of what it calls
def every_gated(gate, x, out):
    for i in range(len(x)):
        out[i] = sigmoid_times_tanh(gate, x[i])


@njit
def every_sigmoid(x, out):
    for i in range(len(x)):
        out[i] = sigmoid(x[i])


@njit
def every_between(gate, before, x, out):
    for i in range(len(x)):
        out[i] = between(gate, before, x[i])


@njit
def every_tanh(x, out):
    for i in range(len(x)):
        out[i] = tanh(x[i])


@njit
def every_erf(x, out):
    for i in range(len(x)):
        out[i] = erf(x[i])


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


@pytest.mark.parametrize("gate", [-50.0, -3.0, -0.1, 0.0, 0.7, 12.0, 100.0])
@pytest.mark.parametrize("before", [-1.0, 0.0, 1e-3, 0.9])
def test_the_state_of_a_gru_is_between_the_old_and_the_new(gate, before):
    out = np.empty(len(NUMBERS), np.float32)
    every_between(np.float32(gate), np.float32(before), NUMBERS, out)
    z = 1 / (1 + np.exp(-np.float64(np.float32(gate))))
    want = z * np.float64(np.float32(before)) + (1 - z) * np.tanh(NUMBERS.astype(np.float64))
    np.testing.assert_allclose(out, want, rtol=0, atol=3e-7)


def test_tanh_and_erf_are_right_to_float32():
    exact = NUMBERS.astype(np.float64)
    np.testing.assert_allclose(applied(every_tanh, NUMBERS), np.tanh(exact), rtol=3e-7, atol=1e-44)
    want = torch.erf(torch.from_numpy(exact)).numpy()
    np.testing.assert_allclose(applied(every_erf, NUMBERS), want, rtol=0, atol=6e-7)
    for function in (every_tanh, every_erf):
        np.testing.assert_allclose(applied(function, [np.nan, np.inf, -np.inf]), [np.nan, 1, -1], atol=1e-7)


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
    cells = cells_of(network := RecurrentNetwork(1, 4, 1, 1).eval())
    rows = np.full((1, 8), 1e9, np.float32)
    h = torch.full((1, 1, 4), 1e9)
    with torch.inference_mode():
        want, (last_h, last_c) = network(torch.ones(1, 1, 1), (h, h.clone()))
    np.testing.assert_allclose(cells.step(np.ones((1, 1), np.float32), rows), want[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(rows[0], torch.cat([last_h, last_c], 2)[0, 0].numpy(), rtol=1e-6, atol=1e-20)
