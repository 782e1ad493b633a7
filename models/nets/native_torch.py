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
        moved = carries.copy()
        if longest * batch == len(scaled):
            by_session, moved[:, : self.state_size] = self._run(scaled.reshape(batch, longest, -1), carries)
            return self._levels(by_session.reshape(len(scaled), -1), scaled), moved
        order = np.argsort(-lengths, kind="stable")
        steps = list(time_major(lengths, order, longest))
        at = np.concatenate(steps)
        sizes = torch.tensor([len(step) for step in steps])
        packed, state = self._run(scaled[at], carries[order], sizes)
        outputs = np.empty_like(packed)
        outputs[at] = packed
        moved[order, : self.state_size] = state
        return self._levels(outputs, scaled), moved

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
