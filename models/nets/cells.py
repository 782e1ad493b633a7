"""The LSTM of many sessions at once, by one observation of each or by a chunk of each.

A call of `torch.nn.LSTM` costs some 80 us before it computes anything, which is most of the cost of a short
chunk. Here a layer multiplies `[x, h, 1]` with its two weight matrices and the sum of its two biases as one
matrix, followed by one compiled pass over its gates.

step       one observation of each row: one BLAS product a layer
advance    a chunk of each row: one compiled call a layer, products included. It multiplies as fast as BLAS
           where there are many rows, and up to three times faster where there are few

With 64 hidden units and one layer, microseconds a step of `torch.nn.LSTM` and of `advance` on one core of an
AMD EPYC (Zen 4): a lone chunk of 50 4.1 and 1.4, 64 chunks of 50 0.66 and 0.48, of which the products take
0.33, and 64 chunks of 1 to 50 1.7 and 0.52 (benchmarks/kernels.py).

The sigmoid and the tanh of the gates are arithmetic without branches or tables, so that the processor
computes eight or sixteen at once. Their error is about one unit in the last place. Where they are multiplied,
they share a division.

Source of the equations: the documentation of `torch.nn.LSTM`; Hochreiter and Schmidhuber (1997). Of the
polynomial: Moshier's Cephes library, `expf`; Cody and Waite, Software Manual for the Elementary
Functions (1980), for the reduction of the exponent.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Floats, Ints
from models.jit import INT, contiguous, jit, jit_inline, readonly, readonly_contiguous
from models.nets.lstm import StatefulLSTM

single = np.float32
HALF, ONE, TWO = single(0.5), single(1), single(2)
LOG2_E = single(1.44269504088896341)
LN_2_HIGH, LN_2_LOW = single(0.693359375), single(-2.12194440e-4)  # in two parts, to keep the remainder exact
EXP = tuple(
    map(single, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1))
)
WHOLE = single(3 << 22)  # adding it rounds a number to the nearest integer, which is then in the lowest bits
BITS_OF_ONE, MANTISSA = np.int32(127 << 23), np.int32(23)
FLAT = single(18.02)  # beyond half of it, tanh is 1 in float32
FAR = single(87)  # up to here exp neither overflows nor becomes denormal
GATED_FAR = single(60)  # up to here, neither does its product with the exp of FLAT
BLOCK = 4  # chunks, and rows of weights, that are multiplied at a time: 16 factors fit the registers


class LSTMCells:
    """All layers of a `StatefulLSTM` and its readout, for many rows at once.

    Parameters
    ----------
    network : StatefulLSTM, on the CPU; its weights are copied
    """

    def __init__(self, network: StatefulLSTM) -> None:
        lstm = network.lstm
        self.input_size, self.hidden_size = lstm.input_size, lstm.hidden_size
        self.layers = [_folded_weights(network, layer) for layer in range(lstm.num_layers)]
        self.blocks = [_padded(weights) for weights in self.layers]
        self.readout = np.ascontiguousarray(network.fc.weight.detach().numpy().T)
        self.bias = network.fc.bias.detach().numpy().copy()

    def step(self, x: Floats, rows: Floats, moved: Floats | None = None) -> Floats:
        """Move rows on by one observation.

        Parameters
        ----------
        x : [batch, inputs], scaled
        rows : [batch, at least 2 layers hidden], C-contiguous; each begins with (h, c) as
            [2, layers, hidden]
        moved : like `rows`; the new (h, c) are written here, and nothing else. Without it they overwrite
            those of `rows`

        Returns
        -------
        [batch, outputs], the readout of the last layer, scaled; without the input of `change_of`
        """
        size, layers = self.hidden_size, len(self.layers)
        moved = rows if moved is None else moved
        for layer, weights in enumerate(self.layers):
            hidden, cell = layer * size, (layers + layer) * size
            operand = np.empty((len(x), len(weights)), np.float32)
            _lay_out(x, rows, hidden, operand)
            _move_on(operand @ weights, rows, moved, hidden, cell)
            x = moved[:, hidden : hidden + size]
        return np.asarray(x @ self.readout + self.bias)

    def advance(self, x: Floats, lengths: Ints, rows: Floats) -> Floats:
        """Move rows on by chunks.

        Parameters
        ----------
        x : [total, inputs], scaled; the chunks one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        rows : [batch, at least 2 layers hidden], C-contiguous; each begins with (h, c) as
            [2, layers, hidden], which are overwritten

        Returns
        -------
        [total, outputs], the readout of the last layer, scaled; without the input of `change_of`

        Raises
        ------
        ValueError : the chunks do not fit the model or their lengths; compiled loops check no bounds
        """
        size, layers = self.hidden_size, len(self.layers)
        ends, order = lengths.cumsum(), np.argsort(-lengths, kind="stable")
        if x.shape[1] != self.input_size or ends[-1] != len(x) or lengths[order[-1]] < 1:
            raise ValueError(f"observations of shape {x.shape} are not {len(lengths)} chunks of this model")
        x = np.ascontiguousarray(x)
        for layer, weights in enumerate(self.blocks):
            hidden, cell = layer * size, (layers + layer) * size
            features = np.empty((len(x), size), np.float32)
            _advance_layer(x, ends - lengths, lengths, order, weights, rows, hidden, cell, features)
            x = features
        return np.asarray(x @ self.readout + self.bias)


@jit(readonly("float32", 2), readonly_contiguous("float32", 2), INT, contiguous("float32", 2))
def _lay_out(x: Floats, rows: Floats, hidden: int, operand: Floats) -> None:
    """Write `[x, h, 1]` of every row."""
    # Unsigned indices: checking whether a signed one counts from the end made the loop four times slower.
    inputs, start = np.uint64(x.shape[1]), np.uint64(hidden)
    last = np.uint64(operand.shape[1] - 1)
    for row in range(len(operand)):
        for i in range(inputs):
            operand[row, i] = x[row, i]
        for i in range(last - inputs):
            operand[row, inputs + i] = rows[row, start + i]
        operand[row, last] = 1


@jit_inline
def _power(x: np.float32) -> tuple[np.float32, np.float32]:
    """(2^k, e^r - 1) of x = k ln 2 + r, r at most half of ln 2 away from 0; x between -87 and 87."""
    shifted = x * LOG2_E + WHOLE
    k = shifted - WHOLE
    r = x - k * LN_2_HIGH - k * LN_2_LOW
    series = EXP[0] * r + EXP[1]
    series = series * r + EXP[2]
    series = series * r + EXP[3]
    series = series * r + EXP[4]
    series = series * r + HALF
    scale = np.int32((np.float32(shifted).view(np.int32) << MANTISSA) + BITS_OF_ONE).view(np.float32)
    return scale, series * r * r + r


@jit_inline
def exp(x: np.float32) -> np.float32:
    """e to the x, for x between -87 and 87."""
    scale, beyond = _power(x)
    return scale * beyond + scale


@jit_inline
def expm1(x: np.float32) -> np.float32:
    """e to the x, minus 1; precise near 0, too."""
    scale, beyond = _power(x)
    return scale * beyond + (scale - ONE)


@jit_inline
def sigmoid(x: np.float32) -> np.float32:
    """1 / (1 + exp(-x)); NaN stays NaN."""
    return ONE / (ONE + exp(min(max(-x, -FAR), FAR)))


@jit_inline
def sigmoid_times_tanh(gate: np.float32, x: np.float32) -> np.float32:
    """sigmoid(gate) tanh(x), with one division; NaN stays NaN."""
    closed = exp(min(max(-gate, -GATED_FAR), GATED_FAR))
    steep = expm1(min(max(x + x, -FLAT), FLAT))
    return steep / ((ONE + closed) * (steep + TWO))


@jit(contiguous("float32", 2), readonly_contiguous("float32", 2), contiguous("float32", 2), INT, INT)
def _move_on(gates: Floats, rows: Floats, moved: Floats, hidden: int, cell: int) -> None:
    """The new cell, c = f c + i g, and the new hidden, h = o tanh(c), of gates laid out as torch has them."""
    size = gates.shape[1] // 4
    for row in range(len(gates)):
        entry, forget = gates[row, :size], gates[row, size : 2 * size]
        candidate, output = gates[row, 2 * size : 3 * size], gates[row, 3 * size :]
        h, c, before = moved[row, hidden:], moved[row, cell:], rows[row, cell:]
        # No loop reads `rows` and writes `moved`: as they may be the same memory, it would not be vectorised.
        for i in range(size):
            entry[i] = sigmoid(forget[i]) * before[i] + sigmoid_times_tanh(entry[i], candidate[i])
        for i in range(size):
            c[i] = entry[i]
            h[i] = sigmoid_times_tanh(output[i], entry[i])


@jit(contiguous("float32"), readonly_contiguous("float32", 2), contiguous("float32"))
def _multiply_one(operand: Floats, weights: Floats, gates: Floats) -> None:
    """Write the product of the operand of one chunk and the weights."""
    gates[:] = 0
    for block in range(len(weights) // BLOCK):
        k = block * BLOCK
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a, b, c, d = operand[k], operand[k + 1], operand[k + 2], operand[k + 3]
        for i in range(len(gates)):
            gates[i] += a * w0[i] + b * w1[i] + c * w2[i] + d * w3[i]


@jit(contiguous("float32", 2), readonly_contiguous("float32", 2), contiguous("float32", 2))
def _multiply_four(operand: Floats, weights: Floats, gates: Floats) -> None:
    """The same for four chunks: each weight that is read serves four products."""
    gates[:] = 0
    x0, x1, x2, x3 = operand[0], operand[1], operand[2], operand[3]
    g0, g1, g2, g3 = gates[0], gates[1], gates[2], gates[3]
    for block in range(len(weights) // BLOCK):
        k = block * BLOCK
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a0, b0, c0, d0 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        a1, b1, c1, d1 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        a2, b2, c2, d2 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
        a3, b3, c3, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
        for i in range(len(g0)):
            a, b, c, d = w0[i], w1[i], w2[i], w3[i]
            g0[i] += a0 * a + b0 * b + c0 * c + d0 * d
            g1[i] += a1 * a + b1 * b + c1 * c + d1 * d
            g2[i] += a2 * a + b2 * b + c2 * c + d2 * d
            g3[i] += a3 * a + b3 * b + c3 * c + d3 * d


@jit(readonly_contiguous("float32"), contiguous("float32"))
def _copy(source: Floats, target: Floats) -> None:
    """Where they are short, several times faster than an assignment to a slice."""
    for i in range(len(source)):
        target[i] = source[i]


@jit(
    readonly_contiguous("float32", 2), readonly("int64"), readonly("int64"), readonly("int64"),
    readonly_contiguous("float32", 2), contiguous("float32", 2), INT, INT, contiguous("float32", 2),
)  # fmt: skip
def _advance_layer(
    x: Floats,
    starts: Ints,
    lengths: Ints,
    order: Ints,
    weights: Floats,
    rows: Floats,
    hidden: int,
    cell: int,
    features: Floats,
) -> None:
    """Move one layer of every row on by its chunk, and write its hidden after each observation to `features`.

    Four chunks at a time, the longest first, so that few wait for a longer neighbour.

    Parameters
    ----------
    x : [total, inputs]
    starts, lengths : [batch], where each chunk lies in `x`
    order : [batch], which sorts the chunks, the longest first
    weights : [inputs + hidden + 1, padded to whole blocks; 4 hidden]
    rows : [batch, carry]; this layer's h begins at column `hidden` and its c at column `cell`
    features : [total, hidden]
    """
    inputs, size, width = x.shape[1], features.shape[1], len(weights)
    ones = inputs + size
    operand = np.zeros((BLOCK, width + size), np.float32)  # [x, h, 1, 0..., c] of each chunk
    operand[:, ones] = 1
    gates = np.empty((BLOCK, 4 * size), np.float32)
    for first in range(0, len(order), BLOCK):
        chunks = order[first : first + BLOCK]
        active = len(chunks)
        for i in range(active):
            _copy(rows[chunks[i], hidden : hidden + size], operand[i, inputs:ones])
            _copy(rows[chunks[i], cell : cell + size], operand[i, width:])
        for step in range(lengths[chunks[0]]):
            while lengths[chunks[active - 1]] <= step:
                active -= 1
            for i in range(active):
                _copy(x[starts[chunks[i]] + step], operand[i, :inputs])
            if active == 1:
                _multiply_one(operand[0], weights, gates[0])
            else:
                _multiply_four(operand, weights, gates)
            _move_on(gates[:active], operand, operand, inputs, width)
            for i in range(active):
                _copy(operand[i, inputs:ones], features[starts[chunks[i]] + step])
        for i in range(len(chunks)):
            _copy(operand[i, inputs:ones], rows[chunks[i], hidden : hidden + size])
            _copy(operand[i, width:], rows[chunks[i], cell : cell + size])


def _folded_weights(network: StatefulLSTM, layer: int) -> Floats:
    """The weights of one layer as one matrix: [inputs + hidden + 1, 4 hidden]."""
    lstm = network.lstm
    inward = getattr(lstm, f"weight_ih_l{layer}").detach().numpy()
    recurrent = getattr(lstm, f"weight_hh_l{layer}").detach().numpy()
    bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
    return np.ascontiguousarray(np.concatenate([inward.T, recurrent.T, bias.detach().numpy()[None]]))


def _padded(weights: Floats) -> Floats:
    """With rows of zeros, so that there are whole blocks."""
    return np.pad(weights, ((0, -len(weights) % BLOCK), (0, 0)))
