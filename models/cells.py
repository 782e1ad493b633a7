"""The network's layers folded: one step of many sessions for the price of one matrix product.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is fine for a chunk of
fifty observations and is most of the cost of a chunk of one. Here a layer is one product of
`[x, h, 1]` with its two weight matrices and the sum of its two biases. Because
sigmoid(z) = (tanh(z / 2) + 1) / 2, halving the weights of the three sigmoid gates lets one tanh serve all
four. The product and the tanh are NumPy's, which has them for every processor; what is between them is
compiled, three passes over the gates in place of twelve.

Source of the equations: the documentation of `torch.nn.LSTM`; Hochreiter and Schmidhuber (1997).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.compiled import changed, column, compiled, dense
from models.network import StatefulLSTM

Floats = npt.NDArray[np.float32]


class Cells:
    """All layers of a `StatefulLSTM` and its readout, for one observation of each row at a time."""

    def __init__(self, network: StatefulLSTM) -> None:
        lstm = network.lstm
        self.hidden_size = lstm.hidden_size
        self.layers = [_folded(network, layer) for layer in range(lstm.num_layers)]
        self.readout = np.ascontiguousarray(network.fc.weight.detach().numpy().T)
        self.bias = network.fc.bias.detach().numpy().copy()

    def step(self, x: Floats, hidden: Floats, cell: Floats) -> Floats:
        """Move `hidden` and `cell` on by one observation, in place.

        Parameters
        ----------
        x : [batch, inputs], scaled
        hidden, cell : [batch, layers, hidden], overwritten

        Returns
        -------
        [batch, outputs], the readout of the last layer, scaled.
        """
        size = self.hidden_size
        for layer, weights in enumerate(self.layers):
            operand = np.empty((len(x), len(weights)), np.float32)
            _lay_out(x, hidden[:, layer], operand)
            gates = operand @ weights  # [batch, 4 hidden]
            np.tanh(gates, out=gates)
            x = np.empty((len(x), size), np.float32)
            _remember(gates, cell[:, layer], x)
            np.tanh(x, out=x)
            _let_out(gates, x, hidden[:, layer])
        return np.asarray(x @ self.readout + self.bias)


@compiled(column("float32", 2), column("float32", 2), dense("float32", 2))
def _lay_out(x: Floats, hidden: Floats, operand: Floats) -> None:
    """`[x, h, 1]` of every row."""
    inputs, size = x.shape[1], hidden.shape[1]
    for row in range(len(x)):
        for i in range(inputs):
            operand[row, i] = x[row, i]
        for i in range(size):
            operand[row, inputs + i] = hidden[row, i]
        operand[row, inputs + size] = 1


@compiled(dense("float32", 2), changed("float32", 2), dense("float32", 2))
def _remember(gates: Floats, cell: Floats, copy: Floats) -> None:
    """The new cell, of the gates behind their tanh: f c + i g."""
    half, one, size = np.float32(0.5), np.float32(1), cell.shape[1]
    for row in range(len(gates)):
        for i in range(size):
            kept = (gates[row, size + i] + one) * cell[row, i]
            told = (gates[row, i] + one) * gates[row, 2 * size + i]
            cell[row, i] = copy[row, i] = half * (kept + told)


@compiled(dense("float32", 2), dense("float32", 2), changed("float32", 2))
def _let_out(gates: Floats, squashed: Floats, hidden: Floats) -> None:
    """The new hidden, o tanh(c), in place of tanh(c), too."""
    half, one, size = np.float32(0.5), np.float32(1), hidden.shape[1]
    for row in range(len(gates)):
        for i in range(size):
            hidden[row, i] = squashed[row, i] = half * (gates[row, 3 * size + i] + one) * squashed[row, i]


def _folded(network: StatefulLSTM, layer: int) -> Floats:
    """Weights of one layer as [inputs + hidden + 1, 4 gates of hidden each], sigmoid gates halved."""
    lstm = network.lstm
    inward = getattr(lstm, f"weight_ih_l{layer}").detach().numpy()
    recurrent = getattr(lstm, f"weight_hh_l{layer}").detach().numpy()
    bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
    stacked = np.concatenate([inward, recurrent, bias.detach().numpy()[:, None]], axis=1)
    halves = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), lstm.hidden_size)  # torch's order: i, f, g, o
    return np.ascontiguousarray(stacked.T * halves, dtype=np.float32)
