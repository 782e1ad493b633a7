"""mosec as its guide shows it (``pip install mosec``): its own JSON, `nn.LSTM` a batch, a dict of (h, c).

``python -m benchmarks.peers.batching_plain --address 127.0.0.1 --port PORT``
"""

# mypy: ignore-errors
# (mosec is optional, and where it is installed it is untyped)

from __future__ import annotations

from typing import Any

import torch
from mosec import Server, Worker

from benchmarks.peers.network import HIDDEN, load_network

MAX_BATCH = 256
WAIT_MS = 1


class Stepper(Worker):
    """Advances a batch of chunks of one length, each of another session: all that a first version handles."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network()
        self.carries: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.positions: dict[str, int] = {}

    @torch.no_grad()
    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        fresh = (torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN))
        names = [chunk["session"] for chunk in data]
        carries = [self.carries.get(name, fresh) for name in names]
        carry = (torch.stack([h for h, _ in carries], dim=1), torch.stack([c for _, c in carries], dim=1))
        observations = torch.tensor([chunk["observations"] for chunk in data])  # [batch, steps, 1]
        predictions, (h, c) = self.network(observations, carry)
        for row, name in enumerate(names):
            self.carries[name] = (h[:, row], c[:, row])
            self.positions[name] = self.positions.get(name, 0) + observations.shape[1]
        return [
            {"session": name, "position": self.positions[name], "predictions": rows}
            for name, rows in zip(names, predictions.tolist(), strict=True)
        ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Stepper, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS)
    server.run()
