"""The native network: a `RecurrentNetwork` that moves many sessions on, each by a chunk of its own length.

On the CPU the chunks are stepped by `Cells` (NumPy and numba), which cost less than `torch.nn.LSTM` at
every length up to 256 hidden units (benchmarks/kernels.py). On a GPU they run through torch's modules. There,
mixed lengths are packed: a padded row would move the carry of a shorter chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from models.arrays import Floats, Ints
from models.nets.cells import Cells
from models.nets.chunks import longest_chunk, time_major
from models.nets.numbers import SINGLE
from models.nets.recurrent import RecurrentNetwork


class NativeNet:
    """A `RecurrentNetwork` over carries that begin with the states of its layers.

    These are (h, c) as [2, layers, hidden] of an LSTM, and h as [layers, hidden] of others.

    Parameters
    ----------
    network : RecurrentNetwork
        In eval mode; it is moved to the device.
    device : "cpu" or "cuda"
        `Cells` is used on "cpu" alone.

    Attributes
    ----------
    cells : None where torch runs the chunks
    """

    input_type = output_type = SINGLE

    def __init__(self, network: RecurrentNetwork, device: str) -> None:
        self.device = torch.device(device)
        self.cells = Cells(network) if self.device.type == "cpu" else None
        self.network = network.to(self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # its products keep 10 bits of a number
        self.layers, self.hidden = network.recurrent.num_layers, network.recurrent.hidden_size
        self.states = network.architecture.states
        self.input_size, self.output_size = network.input_size, network.fc.out_features
        self.change_of = None if network.change_of is None else list(network.change_of)
        self.state_size = self.states * self.layers * self.hidden
        self.floats: Sequence[slice] = [slice(0, self.state_size)]

    @property
    def fresh(self) -> Floats:
        """Zeros: [state_size]."""
        return np.zeros(self.state_size, np.float32)

    def advance(self, scaled: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk, of scaled numbers; see `Net.advance`."""
        if self.cells is None:
            outputs, moved = self._by_network(scaled, lengths, carries)
        else:
            outputs, moved = self._by_cells(self.cells, scaled, lengths, carries)
        return self._levels(outputs, scaled), moved

    def step(self, inputs: Floats, carries: Floats) -> Floats:
        """Move every session on by one observation, of scaled numbers, in place; see `Net.step`."""
        if self.cells is not None:
            return self._levels(self.cells.step(inputs, carries), inputs)
        outputs, carries[:, : self.state_size] = self._run(inputs[:, None], carries)
        return self._levels(outputs[:, 0], inputs)

    def features(self, carries: Floats) -> Floats:
        """The hidden of the last layer: [batch, hidden], a view."""
        return carries[:, (self.layers - 1) * self.hidden : self.layers * self.hidden]

    def _by_cells(
        self, cells: Cells, scaled: Floats, lengths: Ints, carries: Floats
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
        """Run torch's modules.

        Parameters
        ----------
        observations : [batch, steps, inputs], or [total, inputs] packed by `sizes`, the batch at each step
        carries : [batch, at least state_size]

        Returns
        -------
        outputs : laid out as the observations
        state : [batch, state_size]
        """
        states = carries[:, : self.state_size].reshape(-1, self.states, self.layers, self.hidden)
        with torch.inference_mode():
            inputs = self.network.embed(torch.from_numpy(observations).to(self.device))
            features, state = self.network.recur(
                inputs if sizes is None else PackedSequence(inputs, sizes),
                tuple(self._layers_first(states[:, i]) for i in range(self.states)),
            )
            outputs = self.network.read_out(features if sizes is None else features.data)
            moved = torch.stack(state).permute(2, 0, 1, 3).flatten(1)  # [batch, state_size]
            return outputs.cpu().numpy(), moved.cpu().numpy()

    def _layers_first(self, rows: Floats) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows.transpose(1, 0, 2))).to(self.device)

    def _levels(self, outputs: Floats, scaled: Floats) -> Floats:
        return outputs if self.change_of is None else outputs + scaled[:, self.change_of]
