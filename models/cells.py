"""The network's layers folded for NumPy: one step of many sessions for the price of one matrix product.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is fine for a chunk of
fifty observations and is most of the cost of a chunk of one. Here a layer is one product of
`[x, h, 1]` with its two weight matrices and the sum of its two biases, gate by gate, so that every
gate lies contiguous. Because sigmoid(z) = (tanh(z / 2) + 1) / 2, halving the weights of the three
sigmoid gates lets one tanh serve all four.

Source of the equations: the documentation of `torch.nn.LSTM`; Hochreiter and Schmidhuber (1997).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
            operand = np.empty((len(x), weights.shape[1]), np.float32)  # [batch, inputs + hidden + 1]
            operand[:, : -size - 1] = x
            operand[:, -size - 1 : -1] = hidden[:, layer]
            operand[:, -1] = 1.0
            gates = np.matmul(operand, weights)  # [4, batch, hidden]
            np.tanh(gates, out=gates)
            entry, forget, candidate, output = gates
            forget += 1.0
            forget *= cell[:, layer]
            entry += 1.0
            entry *= candidate
            forget += entry
            forget *= 0.5  # the new cell
            cell[:, layer] = forget
            output += 1.0
            output *= np.tanh(forget, out=forget)
            output *= 0.5  # the new hidden
            hidden[:, layer] = output
            x = output
        return np.asarray(x @ self.readout + self.bias)


def _folded(network: StatefulLSTM, layer: int) -> Floats:
    """Weights of one layer as [4 gates, inputs + hidden + 1, hidden], sigmoid gates halved."""
    lstm = network.lstm
    size = lstm.hidden_size
    inward = getattr(lstm, f"weight_ih_l{layer}").detach().numpy()
    recurrent = getattr(lstm, f"weight_hh_l{layer}").detach().numpy()
    bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
    stacked = np.concatenate([inward, recurrent, bias.detach().numpy()[:, None]], axis=1)
    gates = stacked.reshape(4, size, -1).transpose(0, 2, 1)  # torch's order: input, forget, cell, output
    halves = np.array([0.5, 0.5, 1.0, 0.5], np.float32)[:, None, None]
    return np.ascontiguousarray(gates * halves, dtype=np.float32)
