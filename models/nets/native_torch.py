"""The native network through torch's modules, as it runs on a GPU.

Mixed lengths are packed: a padded row would move the carry of a shorter chunk.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence

from models.arrays import Floats, Ints
from models.nets.chunks import longest_chunk, time_major
from models.nets.native import RecurrentNet
from models.nets.recurrent import RecurrentNetwork


class TorchNet(RecurrentNet):
    """The network on a device of torch's; `advance` and `step` are as in `NativeNet`.

    Parameters
    ----------
    network : RecurrentNetwork
        In eval mode; it is moved to the device.
    device : "cuda", or "cpu" to compare with
    """

    def __init__(self, network: RecurrentNetwork, device: str) -> None:
        recurrent = network.recurrent
        super().__init__(
            network.architecture,
            recurrent.num_layers,
            recurrent.hidden_size,
            network.input_size,
            network.fc.out_features,
            network.change_of,
        )
        self.device = torch.device(device)
        self.network = network.to(self.device)
        if self.device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # its products keep 10 bits of a number

    def advance(self, scaled: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
        """Move every session on by its chunk."""
        batch, longest = len(lengths), longest_chunk(lengths, scaled)
        if longest * batch == len(scaled):
            by_session, state = self._run(scaled.reshape(batch, longest, -1), carries)
            return self._levels(by_session.reshape(len(scaled), -1), scaled), self._moved(carries, state)
        order = np.argsort(-lengths, kind="stable")
        steps = list(time_major(lengths, order, longest))
        at = np.concatenate(steps)
        sizes = torch.tensor([len(step) for step in steps])
        packed, of_longest_first = self._run(scaled[at], carries[order], sizes)
        outputs = np.empty_like(packed)
        outputs[at] = packed
        state = np.empty_like(of_longest_first)
        state[order] = of_longest_first
        return self._levels(outputs, scaled), self._moved(carries, state)

    def step(self, inputs: Floats, carries: Floats) -> Floats:
        """Move every session on by one observation, in place."""
        outputs, carries[:, : self.state_size] = self._run(inputs[:, None], carries)
        return self._levels(outputs[:, 0], inputs)

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
        with torch.inference_mode():
            states = self._to_device(carries[:, : self.state_size])
            by_layer = states.view(-1, self.states, self.layers, self.hidden).permute(1, 2, 0, 3)
            inputs = self.network.embed(self._to_device(observations))
            features, state = self.network.recur(
                inputs if sizes is None else PackedSequence(inputs, sizes), tuple(by_layer.contiguous())
            )
            outputs = self.network.read_out(features if sizes is None else features.data)
            moved = torch.stack(state).permute(2, 0, 1, 3).flatten(1)  # [batch, state_size]
            return self._to_host(outputs), self._to_host(moved)

    def _moved(self, carries: Floats, state: Floats) -> Floats:
        """These carries with another state; what lies behind the state stays."""
        if state.shape == carries.shape:
            return state
        moved = np.empty_like(carries)
        moved[:, : self.state_size], moved[:, self.state_size :] = state, carries[:, self.state_size :]
        return moved

    # To and from a GPU through pinned memory, which torch keeps and gives out again: the device copies it by
    # itself, and no page is new. A batch of 4,096 carries of 16 kB takes 15 ms; 135 through other memory.

    def _to_device(self, rows: Floats) -> torch.Tensor:
        if self.device.type == "cpu":
            return torch.from_numpy(np.ascontiguousarray(rows))
        pinned = torch.empty(rows.shape, dtype=torch.float32, pin_memory=True)
        pinned.numpy()[...] = rows
        return pinned.to(self.device, non_blocking=True)

    def _to_host(self, rows: torch.Tensor) -> Floats:
        if self.device.type == "cpu":
            return np.asarray(rows.numpy())
        pinned = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True)
        return np.asarray(pinned.copy_(rows).numpy())
