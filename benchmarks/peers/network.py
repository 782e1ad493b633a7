"""The network that every peer serves: LSTM(1, 64) + Linear, weights from a file."""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

HIDDEN = 64
Carry = tuple[Tensor, Tensor]


class Network(nn.Module):
    """The textbook's network, ``(observations, carry) -> (predictions, carry)``."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, batch_first=True)
        self.fc = nn.Linear(HIDDEN, 1)

    def forward(self, observations: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        hidden, carry = self.lstm(observations, carry)  # [batch, steps, hidden]
        return self.fc(hidden), carry


def load_network() -> Network:
    """Load the file named by ``BENCHMARK_WEIGHTS``; one intra-op thread: two cost a factor of 3 to 4."""
    torch.set_num_threads(1)
    network = Network()
    network.load_state_dict(load_file(os.environ["BENCHMARK_WEIGHTS"]))
    return network.eval()
