"""The compiled arithmetic of recurrent layers: products, gates, and chunks of many sessions at once.

A layer of any kind computes two products, of its inputs and of its hidden state, and applies its gates to
their sum. The kinds differ in the gates alone (`move_on`), and in where the two products overlap:

lstm    both products have the columns  [i, f, g, o]
rnn     both have the columns           [h]
gru     inputs: [n, r, z]; hidden state: [r, z, n]. The products overlap in r and z, and the two n stay
        apart, because the reset gate multiplies one of them:  [n of x, r, z, n of h]

Every row is computed by the same operations in the same order, whatever its neighbours are and however many:
a session's numbers do not depend on the batch that it is in, down to the last bit.

The sigmoid and the tanh of the gates are arithmetic without branches or tables, so that the processor
computes eight or sixteen at once. Their error is about one unit in the last place. Where they are multiplied,
they share a division.

Source of the equations: the documentation of `torch.nn.LSTM`, `torch.nn.GRU` and `torch.nn.RNN`; Hochreiter
and Schmidhuber (1997); Cho et al. (2014). Of the polynomial: Moshier's Cephes library, `expf`; Cody and
Waite, Software Manual for the Elementary Functions (1980), for the reduction of the exponent.
"""

from __future__ import annotations

import numpy as np

from models.arrays import Floats, Ints
from models.jit import FLOAT, INT, contiguous, jit, jit_inline, jit_part, readonly, readonly_contiguous

LSTM, GRU, RNN = 0, 1, 2  # kinds of cells, as the compiled functions know them

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
LINE = 16  # float32 numbers of a cache line
BLOCK = 4  # chunks, and rows of weights, that are multiplied at a time: 16 factors fit the registers
CACHED = 2**21  # weights that stay in a cache of the processor while all rows use them
PANEL = 2**17  # weights of a panel, at most, of a layer with more
MANY = 64  # rows that go through the panels of such a layer together
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26
ERF_T = single(0.3275911)
ERF = tuple(map(single, (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)))
ERF_FAR = single(9)  # far beyond where erf is 1 in float32
SQRT_HALF = single(0.70710678118654752)
NO_CELL = -1  # the column of the cell state of a kind that has none


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
def tanh(x: np.float32) -> np.float32:
    """NaN stays NaN."""
    steep = expm1(min(max(x + x, -FLAT), FLAT))
    return steep / (steep + TWO)


@jit_inline
def sigmoid_times_tanh(gate: np.float32, x: np.float32) -> np.float32:
    """sigmoid(gate) tanh(x), with one division; NaN stays NaN."""
    closed = exp(min(max(-gate, -GATED_FAR), GATED_FAR))
    steep = expm1(min(max(x + x, -FLAT), FLAT))
    return steep / ((ONE + closed) * (steep + TWO))


@jit_inline
def between(gate: np.float32, before: np.float32, x: np.float32) -> np.float32:
    """z before + (1 - z) tanh(x), z = sigmoid(gate), with one division; NaN stays NaN."""
    closed = exp(min(max(-gate, -GATED_FAR), GATED_FAR))
    steep = expm1(min(max(x + x, -FLAT), FLAT))
    return (closed * steep + before * (steep + TWO)) / ((ONE + closed) * (steep + TWO))


@jit_inline
def erf(x: np.float32) -> np.float32:
    """The error function, to 6e-7; NaN stays NaN."""
    size = min(abs(x), ERF_FAR)
    t = ONE / (ONE + ERF_T * size)
    series = ERF[0] * t + ERF[1]
    series = series * t + ERF[2]
    series = series * t + ERF[3]
    series = series * t + ERF[4]
    rest = series * t * exp(-size * size)
    return ONE - rest if x > 0 else rest - ONE


# Of the three functions below no loop reads `rows` and writes `moved`. As they may be the same memory, such a
# loop would not be vectorised.


@jit_part
def _move_lstm(gates: Floats, rows: Floats, moved: Floats, hidden: int, cell: int) -> None:
    """c = f c + i g, and h = o tanh(c)."""
    size = gates.shape[1] // 4
    for row in range(len(gates)):
        entry, forget = gates[row, :size], gates[row, size : 2 * size]
        candidate, output = gates[row, 2 * size : 3 * size], gates[row, 3 * size :]
        h, c, before = moved[row, hidden:], moved[row, cell:], rows[row, cell:]
        for i in range(size):
            entry[i] = sigmoid(forget[i]) * before[i] + sigmoid_times_tanh(entry[i], candidate[i])
        for i in range(size):
            c[i] = entry[i]
            h[i] = sigmoid_times_tanh(output[i], entry[i])


@jit_part
def _move_gru(gates: Floats, rows: Floats, moved: Floats, hidden: int) -> None:
    """h = z h + (1 - z) tanh(n of x + r n of h)."""
    size = gates.shape[1] // 4
    for row in range(len(gates)):
        candidate, reset = gates[row, :size], gates[row, size : 2 * size]
        update, recurrent = gates[row, 2 * size : 3 * size], gates[row, 3 * size :]
        h, before = moved[row, hidden:], rows[row, hidden:]
        for i in range(size):
            candidate[i] = between(update[i], before[i], candidate[i] + sigmoid(reset[i]) * recurrent[i])
        for i in range(size):
            h[i] = candidate[i]


@jit_part
def _move_rnn(gates: Floats, moved: Floats, hidden: int) -> None:
    """h = tanh of the sum."""
    for row in range(len(gates)):
        total, h = gates[row], moved[row, hidden:]
        for i in range(len(total)):
            h[i] = tanh(total[i])


@jit(INT, contiguous("float32", 2), readonly_contiguous("float32", 2), contiguous("float32", 2), INT, INT)
def move_on(kind: int, gates: Floats, rows: Floats, moved: Floats, hidden: int, cell: int) -> None:
    """Write the states that follow those of `rows`, given the sums of both products, to `moved`.

    Parameters
    ----------
    kind : LSTM, GRU or RNN
    gates : [batch, columns], laid out as the head of the module says; overwritten
    rows, moved : [batch, any width]; they may be the same memory
    hidden, cell : the columns where h and c begin
    """
    if kind == LSTM:
        _move_lstm(gates, rows, moved, hidden, cell)
    elif kind == GRU:
        _move_gru(gates, rows, moved, hidden)
    else:
        _move_rnn(gates, moved, hidden)


def padded_to_blocks(weights: Floats) -> Floats:
    """Weights with rows of zeros, so that there are whole blocks; C-contiguous."""
    return np.ascontiguousarray(np.pad(weights, ((0, -len(weights) % BLOCK), (0, 0))))


def in_panels(weights: Floats, panels: int) -> Floats:
    """[panels, rows, columns of a panel], C-contiguous, of weights [rows, columns]."""
    rows, columns = weights.shape
    return np.ascontiguousarray(weights.reshape(rows, panels, columns // panels).transpose(1, 0, 2))


def panels_of(rows: int, columns: int) -> int:
    """Into how many panels the weights of a layer are divided: all of one width, and none narrow."""
    if rows * columns <= CACHED:
        return 1
    counts = range(2, columns // LINE + 1)
    return next((n for n in counts if columns % n == 0 and rows * columns // n <= PANEL), 1)


@jit_part
def _rows_together(panels: int) -> int:
    return BLOCK if panels == 1 else MANY


@jit_part
def whole_lines(count: int) -> int:
    """So many float32 numbers, and what is left of their last cache line."""
    return (count + LINE - 1) // LINE * LINE


@jit_part
def _whole_blocks(count: int) -> int:
    return (count + BLOCK - 1) // BLOCK * BLOCK


@jit_part
def _multiply_one(operand: Floats, weights: Floats, gates: Floats) -> None:
    """Add the product of the operand of one chunk and the weights."""
    for block in range(len(weights) // BLOCK):
        k = block * BLOCK
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a, b, c, d = operand[k], operand[k + 1], operand[k + 2], operand[k + 3]
        for i in range(weights.shape[1]):
            gates[i] += a * w0[i] + b * w1[i] + c * w2[i] + d * w3[i]


@jit_part
def _multiply_four(operand: Floats, start: int, weights: Floats, gates: Floats, shift: int) -> None:
    """The same for four chunks: each weight that is read serves four products.

    The product of the columns of `operand` from `start` on is added to those of `gates` from `shift` on.
    """
    x0, x1, x2, x3 = operand[0, start:], operand[1, start:], operand[2, start:], operand[3, start:]
    g0, g1, g2, g3 = gates[0, shift:], gates[1, shift:], gates[2, shift:], gates[3, shift:]
    for block in range(len(weights) // BLOCK):
        k = block * BLOCK
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        a0, b0, c0, d0 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
        a1, b1, c1, d1 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
        a2, b2, c2, d2 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
        a3, b3, c3, d3 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
        for i in range(weights.shape[1]):
            a, b, c, d = w0[i], w1[i], w2[i], w3[i]
            g0[i] += a0 * a + b0 * b + c0 * c + d0 * d
            g1[i] += a1 * a + b1 * b + c1 * c + d1 * d
            g2[i] += a2 * a + b2 * b + c2 * c + d2 * d
            g3[i] += a3 * a + b3 * b + c3 * c + d3 * d


@jit_part
def _copy(source: Floats, target: Floats) -> None:
    """Where they are short, several times faster than an assignment to a slice."""
    for i in range(len(source)):
        target[i] = source[i]


@jit_part
def _add_product(
    active: int, operand: Floats, start: int, weights: Floats, gates: Floats, shift: int
) -> None:
    """Add the product of the first `active` rows and the weights, `[panels, rows, columns]`.

    It takes the columns of `operand` from `start` on, and is added to those of `gates` from `shift` on. All
    rows use a panel before the next is read.
    """
    for panel in range(len(weights)):
        begin = shift + panel * weights.shape[2]
        if active == 1:
            _multiply_one(operand[0, start : start + weights.shape[1]], weights[panel], gates[0, begin:])
        else:
            for row in range(0, active, BLOCK):
                block = slice(row, row + BLOCK)
                _multiply_four(operand[block], start, weights[panel], gates[block], begin)


@jit_part
def _begin_with(bias: Floats, active: int, gates: Floats) -> None:
    """Write the bias to the first `active` rows, or to the whole blocks that have them."""
    for i in range(active if active == 1 else _whole_blocks(active)):
        _copy(bias, gates[i])


@jit_part
def _multiply(
    active: int, operand: Floats, inward: Floats, recurrent: Floats, bias: Floats, gates: Floats
) -> None:
    """Write the sums of both products and the bias of the first `active` rows.

    Parameters
    ----------
    operand, gates : whole blocks of rows
    """
    shift = len(bias) - len(recurrent) * recurrent.shape[2]
    _begin_with(bias, active, gates)
    _add_product(active, operand, 0, inward, gates, 0)
    _add_product(active, operand, inward.shape[1], recurrent, gates, shift)


@jit(
    INT, readonly_contiguous("float32", 2), readonly("int64"), readonly("int64"), readonly("int64"),
    readonly_contiguous("float32", 3), readonly_contiguous("float32", 3), readonly_contiguous("float32"),
    contiguous("float32", 2), INT, INT, contiguous("float32", 2),
)  # fmt: skip
def advance_layer(
    kind: int,
    x: Floats,
    starts: Ints,
    lengths: Ints,
    order: Ints,
    inward: Floats,
    recurrent: Floats,
    bias: Floats,
    rows: Floats,
    hidden: int,
    cell: int,
    features: Floats,
) -> None:
    """Move one layer of every row on by its chunk, and write its hidden after each observation to `features`.

    A few chunks at a time, the longest first, so that few wait for a longer neighbour.

    Parameters
    ----------
    kind : LSTM, GRU or RNN
    x : [total, inputs]
    starts, lengths : [batch], where each chunk lies in `x`
    order : [batch], which sorts the chunks, the longest first
    inward, recurrent : weights of the inputs and of the hidden state, each [panels, rows, columns], padded
        with rows of zeros to whole blocks; the product of the inputs begins at the first column of the gates,
        that of the hidden state ends at the last
    bias : [columns of the gates]
    rows : [batch, carry]; this layer's h begins at column `hidden`, and its c at column `cell` or it has none
        (NO_CELL)
    features : [total, hidden]
    """
    inputs, size = x.shape[1], features.shape[1]
    begin, end = inward.shape[1], inward.shape[1] + recurrent.shape[1]
    together = _rows_together(len(inward))
    operand = np.zeros((together, end + size), np.float32)  # [x, 0..., h, 0..., c] of each chunk
    gates = np.empty((together, len(bias)), np.float32)
    for first in range(0, len(order), together):
        chunks = order[first : first + together]
        active = len(chunks)
        for i in range(active):
            _copy(rows[chunks[i], hidden : hidden + size], operand[i, begin : begin + size])
            if cell != NO_CELL:
                _copy(rows[chunks[i], cell : cell + size], operand[i, end:])
        for step in range(lengths[chunks[0]]):
            while lengths[chunks[active - 1]] <= step:
                active -= 1
            for i in range(active):
                _copy(x[starts[chunks[i]] + step], operand[i, :inputs])
            _multiply(active, operand, inward, recurrent, bias, gates)
            move_on(kind, gates[:active], operand, operand, begin, end)
            for i in range(active):
                _copy(operand[i, begin : begin + size], features[starts[chunks[i]] + step])
        for i in range(len(chunks)):
            _copy(operand[i, begin : begin + size], rows[chunks[i], hidden : hidden + size])
            if cell != NO_CELL:
                _copy(operand[i, end:], rows[chunks[i], cell : cell + size])


@jit(
    INT, INT, INT, readonly("int64"), readonly_contiguous("float32", 2), readonly_contiguous("float32"),
    readonly_contiguous("float32", 2), contiguous("float32", 2),
)  # fmt: skip
def step_layers(
    kind: int, layers: int, size: int, panels: Ints, x: Floats, weights: Floats, rows: Floats, moved: Floats
) -> None:
    """Move all layers of every row on by one observation.

    Parameters
    ----------
    kind : LSTM, GRU or RNN
    size : hidden units of a layer
    panels : [layers], of the weights
    x : [batch, inputs]
    weights : of one layer after the other, each its bias, inward and recurrent as in `advance_layer`; each
        begins at a whole cache line (`whole_lines`)
    rows, moved : [batch, carry]; they may be the same memory. The h of all layers come first, then their c
    """
    columns = size if kind == RNN else 4 * size
    width = 3 * size if kind == GRU else columns  # of each of the two products
    end_of_hidden, at = _whole_blocks(size), 0
    for layer in range(layers):
        hidden, cell = layer * size, (layers + layer) * size if kind == LSTM else NO_CELL
        inputs = size if layer else x.shape[1]
        begin = _whole_blocks(inputs)
        bias, at = weights[at : at + columns], at + whole_lines(columns)
        shape = panels[layer], begin, width // panels[layer]
        inward = weights[at : at + begin * width].reshape(shape)
        at += whole_lines(begin * width)
        shape = panels[layer], end_of_hidden, width // panels[layer]
        recurrent = weights[at : at + end_of_hidden * width].reshape(shape)
        at += whole_lines(end_of_hidden * width)
        together = _rows_together(panels[layer])
        operand = np.zeros((together, begin + end_of_hidden), np.float32)  # [x, 0..., h, 0...] of each row
        gates = np.empty((together, columns), np.float32)
        for first in range(0, len(x), together):
            active = min(together, len(x) - first)
            for i in range(active):
                if layer:
                    _copy(moved[first + i, hidden - size : hidden], operand[i, :inputs])
                else:
                    _copy(x[first + i], operand[i, :inputs])
                _copy(rows[first + i, hidden : hidden + size], operand[i, begin : begin + size])
            _multiply(active, operand, inward, recurrent, bias, gates)
            block = slice(first, first + active)
            move_on(kind, gates[:active], rows[block], moved[block], hidden, cell)


@jit(
    readonly_contiguous("float32", 2), readonly_contiguous("float32", 3), readonly_contiguous("float32"),
    contiguous("float32", 2),
)  # fmt: skip
def apply_wide(x: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """Write the product of every row and the weights, plus the bias.

    Parameters
    ----------
    weights : [panels, inputs, outputs], padded with rows of zeros to whole blocks
    """
    together = _rows_together(len(weights))
    operand = np.zeros((together, weights.shape[1]), np.float32)
    sums = np.empty((together, len(bias)), np.float32)
    for first in range(0, len(x), together):
        active = min(together, len(x) - first)
        for i in range(active):
            _copy(x[first + i], operand[i, : x.shape[1]])
        _begin_with(bias, active, sums)
        _add_product(active, operand, 0, weights, sums, 0)
        for i in range(active):
            _copy(sums[i], out[first + i])


@jit(
    readonly_contiguous("float32", 2), readonly_contiguous("float32", 2), readonly_contiguous("float32"),
    contiguous("float32", 2), reorder_sums=True,
)  # fmt: skip
def apply_narrow(x: Floats, weights: Floats, bias: Floats, out: Floats) -> None:
    """The same for few outputs, each one sum over the inputs.

    Parameters
    ----------
    weights : [outputs, inputs]
    """
    for row in range(len(x)):
        inputs = x[row]
        for output in range(len(bias)):
            factors, total = weights[output], single(0)
            for i in range(len(inputs)):
                total += inputs[i] * factors[i]
            out[row, output] = total + bias[output]


@jit(readonly_contiguous("float32", 2), contiguous("float32", 2))
def apply_sigmoid(x: Floats, out: Floats) -> None:
    """Write the sigmoid of every number."""
    for row in range(len(out)):
        source, target = x[row], out[row]
        for i in range(len(target)):
            target[i] = sigmoid(source[i])


@jit(readonly_contiguous("float32", 2), contiguous("float32", 2))
def apply_silu(x: Floats, out: Floats) -> None:
    """Write `x sigmoid(x)` of every number."""
    for row in range(len(out)):
        source, target = x[row], out[row]
        for i in range(len(target)):
            target[i] = source[i] * sigmoid(source[i])


@jit(readonly_contiguous("float32", 2), contiguous("float32", 2))
def apply_gelu(x: Floats, out: Floats) -> None:
    """Write `x (1 + erf(x / sqrt(2))) / 2` of every number."""
    for row in range(len(out)):
        source, target = x[row], out[row]
        for i in range(len(target)):
            target[i] = HALF * source[i] * (ONE + erf(source[i] * SQRT_HALF))


@jit(
    readonly_contiguous("float32", 2),
    readonly_contiguous("float32"),
    readonly_contiguous("float32"),
    FLOAT,
    contiguous("float32", 2),
    reorder_sums=True,
)
def normalize(x: Floats, scale: Floats, bias: Floats, epsilon: float, out: Floats) -> None:
    """Write every row less its mean, divided by its standard deviation, times `scale` plus `bias`."""
    for row in range(len(out)):
        source, target = x[row], out[row]
        mean, square = single(0), single(0)
        for i in range(len(target)):
            mean += source[i]
        mean /= single(len(target))
        for i in range(len(target)):
            square += (source[i] - mean) * (source[i] - mean)
        steep = ONE / single(np.sqrt(square / single(len(target)) + single(epsilon)))
        for i in range(len(target)):
            target[i] = (source[i] - mean) * steep * scale[i] + bias[i]
