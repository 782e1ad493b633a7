"""The fastest peer: mosec (``pip install mosec``), dynamic batching over a dict of carries, one worker.

``python -m benchmarks.peers.batching --address 127.0.0.1 --port PORT``

msgspec in place of the standard library's JSON, one cell step in place of `nn.LSTM` for one observation, and
of the batch sizes 32, 64, 256 and the waits 0, 1, 3, 10 ms those that were fastest at 64 and 256 connections
(the environment overrides them). 64 suits 64 connections exactly; alone, a request waits in vain.
"""

# mypy: ignore-errors
# (mosec is optional, and where it is installed it is untyped)

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import msgspec
import torch
from mosec import Server, Worker
from torch import Tensor

from benchmarks.peers.network import HIDDEN, load_network

MAX_BATCH = int(os.environ.get("BENCHMARK_MOSEC_BATCH", "64"))


class Chunk(msgspec.Struct):
    """A request's body."""

    session: str
    observations: list[list[float]]


class Stepper(Worker):
    """Advances a batch of chunks; a session's row is its h and c, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.network = load_network()
        self.cell = torch.nn.LSTMCell(1, HIDDEN)
        self.cell.load_state_dict(
            {name.removesuffix("_l0"): value for name, value in self.network.lstm.state_dict().items()}
        )
        self.rows: dict[str, Tensor] = {}
        self.positions: dict[str, int] = {}
        self.fresh = torch.zeros(2 * HIDDEN)
        self.decoder = msgspec.json.Decoder(Chunk)
        self.encoder = msgspec.json.Encoder()

    def deserialize(self, data: bytes) -> Chunk:
        return self.decoder.decode(data)

    def serialize(self, data: dict[str, Any]) -> bytes:
        return self.encoder.encode(data)

    @torch.inference_mode()
    def forward(self, data: list[Chunk]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{}] * len(data)
        for places in passes(data):
            chunks = [data[place] for place in places]
            for place, answer in zip(places, self.advance(chunks), strict=True):
                answers[place] = answer
        return answers

    def advance(self, chunks: list[Chunk]) -> Iterable[dict[str, Any]]:
        rows = torch.stack([self.rows.get(chunk.session, self.fresh) for chunk in chunks])
        observations = torch.tensor([chunk.observations for chunk in chunks])  # [batch, steps, 1]
        predictions, moved = self.step(observations, rows)
        for chunk, row, prediction in zip(chunks, moved.unbind(0), predictions.tolist(), strict=True):
            self.rows[chunk.session] = row
            position = self.positions.get(chunk.session, 0) + len(chunk.observations)
            self.positions[chunk.session] = position
            yield {"session": chunk.session, "position": position, "predictions": prediction}

    def step(self, observations: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        h, c = rows.split(HIDDEN, dim=1)
        if observations.shape[1] == 1:
            h, c = self.cell(observations[:, 0], (h, c))
            return self.network.fc(h).unsqueeze(1), torch.cat((h, c), dim=1)
        carry = (h.contiguous().unsqueeze(0), c.contiguous().unsqueeze(0))
        predictions, (last_h, last_c) = self.network(observations, carry)
        return predictions, torch.cat((last_h[0], last_c[0]), dim=1)


def passes(chunks: list[Chunk]) -> Iterable[list[int]]:
    """Split a batch into the places that one pass may take: one length, each session once, in order."""
    seen: dict[str, int] = {}
    keys = []
    for place, chunk in enumerate(chunks):
        index = seen.get(chunk.session, 0)
        seen[chunk.session] = index + 1
        keys.append((index, len(chunk.observations), place))
    for _, group in groupby(sorted(keys), key=lambda key: key[:2]):
        yield [place for _, _, place in group]


if __name__ == "__main__":
    server = Server()
    wait_ms = int(os.environ.get("BENCHMARK_MOSEC_WAIT_MS", "3"))
    server.append_worker(Stepper, num=1, max_batch_size=MAX_BATCH, max_wait_time=wait_ms)
    server.run()
