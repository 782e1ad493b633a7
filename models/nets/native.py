"""A network of ours that moves many sessions on, each by a chunk of its own length.

On the CPU the chunks are stepped by `Cells` (NumPy and numba), which cost less than `torch.nn.LSTM` at
every length up to 256 hidden units (benchmarks/kernels.py), and need no torch. On a GPU they run through
torch's modules (models/nets/native_torch.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.arrays import Floats, Ints
from models.nets.architecture import Architecture
from models.nets.cells import Cells
from models.nets.chunks import longest_chunk
from models.nets.numbers import SINGLE


class RecurrentNet:
    """What is the same wherever the network runs. The carries begin with the states of its layers.

    These are (h, c) as [2, layers, hidden] of an LSTM, and h as [layers, hidden] of others.

    Parameters
    ----------
    layers, hidden, input_size, output_size : of the network
    change_of : for each output its input column, where the network predicts changes
    """

    input_type = output_type = SINGLE
    batch_invariant = False

    def __init__(
        self,
        architecture: Architecture,
        layers: int,
        hidden: int,
        input_size: int,
        output_size: int,
        change_of: Sequence[int] | None,
    ) -> None:
        self.architecture, self.layers, self.hidden = architecture, layers, hidden
        self.states = architecture.states
        self.input_size, self.output_size = input_size, output_size
        self.change_of = None if change_of is None else list(change_of)
        self.state_size = self.states * layers * hidden
        self.floats: Sequence[slice] = [slice(0, self.state_size)]

    @property
    def fresh(self) -> Floats:
        """Zeros: [state_size]."""
        return np.zeros(self.state_size, np.float32)

    def features(self, carries: Floats) -> Floats:
        """The hidden of the last layer: [batch, hidden], a view."""
        return carries[:, (self.layers - 1) * self.hidden : self.layers * self.hidden]

    def _levels(self, outputs: Floats, scaled: Floats) -> Floats:
        return outputs if self.change_of is None else outputs + scaled[:, self.change_of]


class NativeNet(RecurrentNet):
    """The network on the CPU.

    Parameters
    ----------
    weights : under the names of `RecurrentNetwork`'s state_dict, float32; they are copied
    change_of : for each output its input column, where the network predicts changes
    """

    batch_invariant = True

    def __init__(
        self,
        weights: Mapping[str, Floats],
        architecture: Architecture,
        change_of: Sequence[int] | None = None,
    ) -> None:
        self.cells = cells = Cells(weights, architecture)
        super().__init__(
            architecture,
            len(cells.layers),
            cells.hidden_size,
            cells.input_size,
            len(weights["fc.bias"]),
            change_of,
        )

    def advance(self, scaled: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk, of scaled numbers; see `Net.advance`."""
        if longest_chunk(lengths, scaled) > 1:
            moved = carries.copy()
            return self._levels(self.cells.advance(scaled, lengths, moved), scaled), moved
        moved = np.empty_like(carries)
        moved[:, self.state_size :] = carries[:, self.state_size :]
        return self._levels(self.cells.step(scaled, carries, moved), scaled), moved

    def step(self, inputs: Floats, carries: Floats) -> Floats:
        """Move every session on by one observation, of scaled numbers, in place; see `Net.step`."""
        return self._levels(self.cells.step(inputs, carries), inputs)
