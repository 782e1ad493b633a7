"""The native network: a `StatefulLSTM` that moves many sessions on, each by a chunk of its own length.

On the CPU the chunks are stepped by `LSTMCells` (NumPy and numba), which cost less than `torch.nn.LSTM` at
every length up to 256 hidden units (benchmarks/kernels.py). On a GPU they run through `torch.nn.LSTM`. There,
mixed lengths are packed: a padded row would move the carry of a shorter chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from models.arrays import Floats, Ints
from models.nets.cells import LSTMCells
from models.nets.chunks import longest_chunk, time_major
from models.nets.lstm import StatefulLSTM
from models.nets.numbers import SINGLE


class NativeNet:
    """A `StatefulLSTM` over carries whose first columns are (h, c) as [2, layers, hidden].

    Parameters
    ----------
    network : StatefulLSTM
        In eval mode; it is moved to the device.
    device : "cpu" or "cuda"
        `LSTMCells` is used on "cpu" alone.

    Attributes
    ----------
    cells : None where `torch.nn.LSTM` runs the chunks
    """

    input_type = output_type = SINGLE

    def __init__(self, network: StatefulLSTM, device: str) -> None:
        self.device = torch.device(device)
        self.cells = LSTMCells(network) if self.device.type == "cpu" else None
        self.network = network.to(self.device)
        self.layers, self.hidden = network.lstm.num_layers, network.lstm.hidden_size
        self.input_size, self.output_size = network.lstm.input_size, network.fc.out_features
        self.change_of = None if network.change_of is None else list(network.change_of)
        self.state_size = 2 * self.layers * self.hidden
        self.floats: Sequence[slice] = [slice(0, self.state_size)]

    @property
    def fresh(self) -> Floats:
        """Zeros: [state_size]."""
        return np.zeros(self.state_size, np.float32)

    def advance(self, scaled: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk.

        Parameters
        ----------
        scaled : [total, inputs], the chunks one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        carries : [batch, at least 2 layers hidden], in one piece; not written to

        Returns
        -------
        outputs : [total, outputs], scaled
        carries : like `carries`, a new array; only (h, c) have moved on
        """
        if self.cells is None:
            outputs, moved = self._by_network(scaled, lengths, carries)
        else:
            outputs, moved = self._by_cells(self.cells, scaled, lengths, carries)
        return self._levels(outputs, scaled), moved

    def step(self, inputs: Floats, carries: Floats) -> Floats:
        """Move every session on by one observation, in place.

        Parameters
        ----------
        inputs : [batch, inputs], scaled
        carries : [batch, at least 2 layers hidden], in one piece

        Returns
        -------
        [batch, outputs], scaled
        """
        if self.cells is not None:
            return self._levels(self.cells.step(inputs, carries), inputs)
        outputs, carries[:, : self.state_size] = self._run(inputs[:, None], carries)
        return self._levels(outputs[:, 0], inputs)

    def features(self, carries: Floats) -> Floats:
        """The hidden of the last layer: [batch, hidden], a view."""
        both = carries[:, : self.state_size].reshape(-1, 2, self.layers, self.hidden)
        return both[:, 0, -1]

    def _by_cells(
        self, cells: LSTMCells, scaled: Floats, lengths: Ints, carries: Floats
    ) -> tuple[Floats, Floats]:
        if longest_chunk(lengths, scaled) > 1:
            moved = carries.copy()
            return cells.advance(scaled, lengths, moved), moved
        moved = np.empty_like(carries)
        moved[:, self.state_size :] = carries[:, self.state_size :]
        return cells.step(scaled, carries, moved), moved

    def _by_network(self, scaled: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        batch, longest = len(lengths), longest_chunk(lengths, scaled)
        moved = carries.copy()
        if longest * batch == len(scaled):
            by_session, moved[:, : self.state_size] = self._run(scaled.reshape(batch, longest, -1), carries)
            return by_session.reshape(len(scaled), -1), moved
        order = np.argsort(-lengths, kind="stable")
        steps = list(time_major(lengths, order, longest))
        at = np.concatenate(steps)
        sizes = torch.tensor([len(step) for step in steps])
        packed, state = self._run(scaled[at], carries[order], sizes)
        outputs = np.empty_like(packed)
        outputs[at] = packed
        moved[order, : self.state_size] = state
        return outputs, moved

    def _run(
        self, observations: Floats, carries: Floats, sizes: torch.Tensor | None = None
    ) -> tuple[Floats, Floats]:
        """Run `torch.nn.LSTM` and the readout.

        Parameters
        ----------
        observations : [batch, steps, inputs], or [total, inputs] packed by `sizes`, the batch at each step
        carries : [batch, at least 2 layers hidden]

        Returns
        -------
        outputs : laid out as the observations
        state : [batch, 2 layers hidden]
        """
        both = carries[:, : self.state_size].reshape(-1, 2, self.layers, self.hidden)
        with torch.inference_mode():
            inputs = torch.from_numpy(observations).to(self.device)
            state = (self._layers_first(both[:, 0]), self._layers_first(both[:, 1]))
            features, (h, c) = self.network.lstm(
                inputs if sizes is None else PackedSequence(inputs, sizes), state
            )
            outputs = self.network.fc(features if sizes is None else features.data)
            moved = torch.stack([h, c]).permute(2, 0, 1, 3).flatten(1)  # [batch, 2 layers hidden]
            return outputs.cpu().numpy(), moved.cpu().numpy()

    def _layers_first(self, rows: Floats) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(1, 0, 2))).to(self.device)

    def _levels(self, outputs: Floats, scaled: Floats) -> Floats:
        return outputs if self.change_of is None else outputs + scaled[:, self.change_of]
