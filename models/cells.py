"""The network's layers folded: one step of many sessions for the price of one matrix product.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is fine for a chunk of
fifty observations and is most of the cost of a chunk of one. Here a layer is one product of `[x, h, 1]`
with its two weight matrices and the sum of its two biases, by BLAS, and one compiled pass over its gates.

Source of the equations: the documentation of `torch.nn.LSTM`; Hochreiter and Schmidhuber (1997).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.compiled import INT, column, compiled, dense, read_dense
from models.network import StatefulLSTM
from models.squash import sigmoid, tanh

Floats = npt.NDArray[np.float32]


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
