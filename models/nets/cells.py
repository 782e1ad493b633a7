"""A native network for many sessions at once, by one observation of each or by a chunk of each.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is most of the cost of a short
chunk. Here a layer multiplies `[x, h]` with its two weight matrices four rows at a time, followed by one
compiled pass over their gates.

step       one observation of each row: one compiled call for all recurrent layers
advance    a chunk of each row: one compiled call a layer

They multiply as fast as BLAS where there are many rows, and up to three times faster where there are few. A
row has the same numbers, to the last bit, by steps and by chunks, alone and beside others.

With 64 hidden units and one layer, microseconds a step of `torch.nn.LSTM` and of `advance` on one core of an
AMD EPYC (Zen 4): a lone chunk of 50 4.1 and 1.4, 64 chunks of 50 0.66 and 0.48, of which the products take
0.33, and 64 chunks of 1 to 50 1.7 and 0.52 (benchmarks/kernels.py). Against the same networks in onnxruntime
(benchmarks/native_or_graph.py) one step of 64 sessions is 1.4 times faster for an LSTM, 1.7 for a GRU and 3.3
for plain cells; a lone chunk of 200 is 1.1, 1.5 and 2.9 times faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from models.arrays import Floats, Ints
from models.nets.architecture import Architecture, Cell
from models.nets.kernels import (
    GRU,
    LSTM,
    NO_CELL,
    RNN,
    advance_layer,
    padded_to_blocks,
    step_layers,
    whole_lines,
)
from models.nets.layers import layers_after, layers_before

CACHE_LINE = 64
KINDS: dict[Cell, int] = {"lstm": LSTM, "gru": GRU, "rnn": RNN}


class RecurrentLayer(NamedTuple):
    """The weights of one recurrent layer, as the compiled functions read them.

    kind : of its cells, for the compiled functions
    hidden, cell : the columns of a row where its h and its c begin (NO_CELL: it has none)
    inward, recurrent, bias : as in `advance_layer`
    """

    kind: int
    hidden: int
    cell: int
    inward: Floats
    recurrent: Floats
    bias: Floats


class Cells:
    """All layers of a `RecurrentNetwork`, for many rows at once.

    Parameters
    ----------
    weights : under the names of `RecurrentNetwork`'s state_dict, float32; they are copied

    Attributes
    ----------
    before, layers, after : what is applied to the inputs, one after the other
    """

    def __init__(self, weights: Mapping[str, Floats], architecture: Architecture) -> None:
        first = f"{architecture.cell}.weight"
        count = sum(name.startswith(f"{first}_hh_l") for name in weights)
        self.hidden_size = weights[f"{first}_hh_l0"].shape[1]
        self.input_size = 1 if architecture.embedding else weights[f"{first}_ih_l0"].shape[1]
        self.before = layers_before(weights, architecture)
        self.layers, self._stacked = _recurrent_layers(weights, architecture, count, self.hidden_size)
        self.after = layers_after(weights, architecture)
        self._features = weights[f"{first}_ih_l0"].shape[1]  # of the first recurrent layer

    def step(self, x: Floats, rows: Floats, moved: Floats | None = None) -> Floats:
        """Move rows on by one observation.

        Parameters
        ----------
        x : [batch, inputs], scaled
        rows : [batch, at least states layers hidden], C-contiguous; each begins with the states of all
            layers: (h, c) as [2, layers, hidden] of an LSTM, h as [layers, hidden] of others
        moved : like `rows`; the new states are written here, and nothing else. Without it they overwrite
            those of `rows`

        Returns
        -------
        [batch, outputs], the readout of the last layer, scaled; without the input of `change_of`
        """
        moved = rows if moved is None else moved
        for layer in self.before:
            x = layer(x)
        if x.shape[1] != self._features:
            raise ValueError(f"observations of shape {x.shape} do not fit this model")
        kind, size, count = self.layers[0].kind, self.hidden_size, len(self.layers)
        step_layers(kind, count, size, np.ascontiguousarray(x), self._stacked, rows, moved)
        x = moved[:, (count - 1) * size : count * size]
        for layer in self.after:
            x = layer(x)
        return x

    def advance(self, x: Floats, lengths: Ints, rows: Floats) -> Floats:
        """Move rows on by chunks.

        Parameters
        ----------
        x : [total, inputs], scaled; the chunks one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        rows : as in `step`; their states are overwritten

        Returns
        -------
        [total, outputs], the readout of the last layer, scaled; without the input of `change_of`

        Raises
        ------
        ValueError : the chunks do not fit the model or their lengths; compiled loops check no bounds
        """
        ends, order = lengths.cumsum(), np.argsort(-lengths, kind="stable")
        if x.shape[1] != self.input_size or ends[-1] != len(x) or lengths[order[-1]] < 1:
            raise ValueError(f"observations of shape {x.shape} are not {len(lengths)} chunks of this model")
        for layer in self.before:
            x = layer(x)
        x, starts = np.ascontiguousarray(x), ends - lengths
        for kind, hidden, cell, inward, recurrent, bias in self.layers:
            features = np.empty((len(x), self.hidden_size), np.float32)
            advance_layer(
                kind, x, starts, lengths, order, inward, recurrent, bias, rows, hidden, cell, features
            )
            x = features
        for layer in self.after:
            x = layer(x)
        return x


def _recurrent_layers(
    weights: Mapping[str, Floats], architecture: Architecture, count: int, size: int
) -> tuple[list[RecurrentLayer], Floats]:
    """The recurrent layers, whose weights are views, and all their weights as `step_layers` reads them."""
    parts = [part for number in range(count) for part in _weights_of_layer(weights, architecture, number)]
    ends = np.array([whole_lines(part.size) for part in parts]).cumsum().tolist()
    stacked = _aligned(ends[-1])
    views: list[Floats] = []
    for part, start in zip(parts, [0, *ends], strict=False):
        view = stacked[start : start + part.size].reshape(part.shape)
        view[...] = part
        views.append(view)
    layers = [
        RecurrentLayer(
            kind=KINDS[architecture.cell],
            hidden=number * size,
            cell=(count + number) * size if architecture.states > 1 else NO_CELL,
            bias=views[3 * number],
            inward=views[3 * number + 1],
            recurrent=views[3 * number + 2],
        )
        for number in range(count)
    ]
    return layers, stacked


def _weights_of_layer(
    weights: Mapping[str, Floats], architecture: Architecture, number: int
) -> tuple[Floats, Floats, Floats]:
    """Bias, inward and recurrent weights of the layer of this number, from 0."""
    inward, recurrent, inward_bias, recurrent_bias = (
        weights[f"{architecture.cell}.{name}_l{number}"]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    apart = 0  # columns by which the two products lie apart
    if architecture.cell == "gru":  # torch has the columns [r, z, n]
        apart = recurrent.shape[1]
        inward, inward_bias = np.roll(inward, apart, 0), np.roll(inward_bias, apart)
    bias = np.pad(inward_bias, (0, apart)) + np.pad(recurrent_bias, (apart, 0))
    return bias, padded_to_blocks(inward.T), padded_to_blocks(recurrent.T)


def _aligned(count: int) -> Floats:
    """Zeros that begin at a cache line: a lone chunk is a tenth slower where each load touches two."""
    memory = np.zeros(4 * count + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + 4 * count].view(np.float32)
