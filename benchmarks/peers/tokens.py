"""A model of text as most would serve it: FastAPI, and a call of torch for each token of each session.

``uvicorn benchmarks.peers.tokens:app --loop uvloop --no-access-log``

The client sends a token and gets the next one, which is drawn from its logits. The states of the sessions are
in a dict.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from models.artifact.files import load

torch.set_num_threads(1)
app = FastAPI()
network = load(Path(os.environ["BENCHMARK_WEIGHTS"]).parent / "artifact").network()
TEMPERATURE = 0.8
states: dict[str, Any] = {}


class Token(BaseModel):
    """A request, and its answer."""

    token: int


@app.post("/sessions/{session}/token")
async def next_token(session: str, body: Token) -> Token:
    """Read a token, and draw the next one."""
    with torch.inference_mode():
        logits, states[session] = network(torch.tensor([[[float(body.token)]]]), states.get(session))
        likely = torch.softmax(logits[0, 0] / TEMPERATURE, 0)
        return Token(token=int(torch.multinomial(likely, 1)))
