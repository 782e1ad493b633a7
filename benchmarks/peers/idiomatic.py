"""The service that most would write: FastAPI, pydantic both ways, a dict of (h, c), a model call a request.

``uvicorn benchmarks.peers.idiomatic:app --loop uvloop --http httptools --no-access-log``
"""

from __future__ import annotations

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.network import HIDDEN, load_network


class Chunk(BaseModel):
    """A request's body."""

    observations: list[list[float]]


class Answer(BaseModel):
    """A prediction for each observation."""

    session: str
    position: int
    predictions: list[list[float]]


app = FastAPI()
network = load_network()
carries: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
positions: dict[str, int] = {}


@app.post("/sessions/{session}/observations", response_model=Answer)
async def observe(session: str, chunk: Chunk) -> Answer:
    observations = torch.tensor(chunk.observations).unsqueeze(0)  # [1, steps, 1]
    fresh = (torch.zeros(1, 1, HIDDEN), torch.zeros(1, 1, HIDDEN))
    with torch.no_grad():
        predictions, carries[session] = network(observations, carries.get(session, fresh))
    positions[session] = positions.get(session, 0) + len(chunk.observations)
    return Answer(session=session, position=positions[session], predictions=predictions[0].tolist())
