"""The network's layers folded: one step of many sessions for the price of one matrix product.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is fine for a chunk of
fifty observations and is most of the cost of a chunk of one. Here a layer is one product of `[x, h, 1]`
with its two weight matrices and the sum of its two biases, by BLAS, and one compiled pass over its gates.

The sigmoid and the tanh of that pass are made of arithmetic alone, with no branch and no table, so that a
processor does eight or sixteen at once; they are off by about one unit in the last place.

Source of the equations: the documentation of `torch.nn.LSTM`; Hochreiter and Schmidhuber (1997). Of the
polynomials: Moshier's Cephes library, `expf` and `tanhf`; Cody and Waite, Software Manual for the Elementary
Functions (1980), for the reduction of the exponent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.compiled import INT, column, compiled, dense, inlined, read_dense
from models.network import StatefulLSTM

Floats = npt.NDArray[np.float32]

single = np.float32
HALF, ONE, TWO = single(0.5), single(1), single(2)
LOG2_E = single(1.44269504088896341)
LN_2_HIGH, LN_2_LOW = single(0.693359375), single(-2.12194440e-4)  # in two parts, or the remainder is inexact
EXP = tuple(
    map(single, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1))
)
TANH = tuple(
    map(single, (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1))
)
FLAT = single(9.01)  # beyond it, tanh is 1 in float32
STEEP = single(0.625)  # below it, 1 - 2 / (exp(2x) + 1) would lose digits
FAR = single(87)  # exp neither overflows nor is it denormal up to here
BIAS, MANTISSA = np.int32(127), np.int32(23)


class Cells:
    """All layers of a `StatefulLSTM` and its readout, for one observation of each row at a time."""

    def __init__(self, network: StatefulLSTM) -> None:
        lstm = network.lstm
        self.hidden_size = lstm.hidden_size
        self.layers = [_folded(network, layer) for layer in range(lstm.num_layers)]
        self.readout = np.ascontiguousarray(network.fc.weight.detach().numpy().T)
        self.bias = network.fc.bias.detach().numpy().copy()

    def step(self, x: Floats, rows: Floats) -> Floats:
        """Move rows on by one observation, in place.

        Parameters
        ----------
        x : [batch, inputs], scaled
        rows : [batch, at least 2 layers hidden], in one piece; each begins with (h, c) as
            [2, layers, hidden], which is overwritten

        Returns
        -------
        [batch, outputs], the readout of the last layer, scaled.
        """
        size, layers = self.hidden_size, len(self.layers)
        for layer, weights in enumerate(self.layers):
            hidden, cell = layer * size, (layers + layer) * size
            operand = np.empty((len(x), len(weights)), np.float32)
            _lay_out(x, rows, hidden, operand)
            _move_on(operand @ weights, rows, hidden, cell)
            x = rows[:, hidden : hidden + size]
        return np.asarray(x @ self.readout + self.bias)


@compiled(column("float32", 2), read_dense("float32", 2), INT, dense("float32", 2))
def _lay_out(x: Floats, rows: Floats, hidden: int, operand: Floats) -> None:
    """`[x, h, 1]` of every row."""
    inputs = x.shape[1]
    last = operand.shape[1] - 1
    for row in range(len(x)):
        told = operand[row]
        for i in range(inputs):
            told[i] = x[row, i]
        told[inputs:last] = rows[row, hidden : hidden + last - inputs]
        told[last] = 1


@inlined
def exp(x: np.float32) -> np.float32:
    """e to the x, for x between -87 and 87."""
    powers = np.floor(x * LOG2_E + HALF)
    rest = x - powers * LN_2_HIGH - powers * LN_2_LOW
    series = EXP[0] * rest + EXP[1]
    series = series * rest + EXP[2]
    series = series * rest + EXP[3]
    series = series * rest + EXP[4]
    series = series * rest + HALF
    of_rest = series * rest * rest + rest + ONE
    return of_rest * np.int32((np.int32(powers) + BIAS) << MANTISSA).view(np.float32)  # type: ignore[no-any-return]


@inlined
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + exp(-x)); NaN stays NaN."""
    return ONE / (ONE + exp(min(max(-x, -FAR), FAR)))


@inlined
def tanh(x: np.float32) -> np.float32:
    """The hyperbolic tangent; NaN stays NaN."""
    size = min(abs(x), FLAT)
    square = size * size
    series = TANH[0] * square + TANH[1]
    series = series * square + TANH[2]
    series = series * square + TANH[3]
    series = series * square + TANH[4]
    near = series * square * size + size
    told = near if size < STEEP else ONE - TWO / (exp(size + size) + ONE)
    return told if x >= 0 else -told


@compiled(dense("float32", 2), dense("float32", 2), INT, INT)
def _move_on(gates: Floats, rows: Floats, hidden: int, cell: int) -> None:
    """The new cell, c = f c + i g, and the new hidden, h = o tanh(c), of gates laid out as torch has them."""
    size = gates.shape[1] // 4
    for row in range(len(gates)):
        entry, forget = gates[row, :size], gates[row, size : 2 * size]
        candidate, output = gates[row, 2 * size : 3 * size], gates[row, 3 * size :]
        h, c = rows[row, hidden : hidden + size], rows[row, cell : cell + size]
        for i in range(size):
            c[i] = sigmoid(forget[i]) * c[i] + sigmoid(entry[i]) * tanh(candidate[i])
            entry[i] = c[i]
        for i in range(size):
            h[i] = sigmoid(output[i]) * tanh(entry[i])


def _folded(network: StatefulLSTM, layer: int) -> Floats:
    """Weights of one layer as [inputs + hidden + 1, 4 gates of hidden each]."""
    lstm = network.lstm
    inward = getattr(lstm, f"weight_ih_l{layer}").detach().numpy()
    recurrent = getattr(lstm, f"weight_hh_l{layer}").detach().numpy()
    bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
    return np.ascontiguousarray(np.concatenate([inward.T, recurrent.T, bias.detach().numpy()[None]]))
