"""The voice detector as most would serve it: FastAPI, a WebSocket a session, one onnxruntime call a frame.

``uvicorn benchmarks.peers.frames:app --loop uvloop --no-access-log``

Messages are 512 float32 each, answers one float32: nothing is spent on JSON. A session's state and the
samples before its frame are in a dict.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

CONTEXT = 64

app = FastAPI()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
detector = onnxruntime.InferenceSession(
    os.environ["BENCHMARK_WEIGHTS"], options, providers=["CPUExecutionProvider"]
)
RATE = np.array(16_000)
states: dict[str, Any] = {}
contexts: dict[str, Any] = {}
positions: dict[str, int] = {}


@app.websocket("/sessions/{session}/stream")
async def stream(socket: WebSocket, session: str) -> None:
    await socket.accept()
    await socket.send_json({"position": positions.get(session, 0)})
    with suppress(WebSocketDisconnect):
        while True:
            await socket.send_bytes(speech(session, await socket.receive_bytes()))


def speech(session: str, payload: bytes) -> bytes:
    """The probability of speech in a frame."""
    frame = np.frombuffer(payload, np.float32)[None]
    context = contexts.get(session, np.zeros((1, CONTEXT), np.float32))
    state = states.get(session, np.zeros((2, 1, 128), np.float32))
    feeds = {"input": np.concatenate([context, frame], axis=1), "state": state, "sr": RATE}
    probability, states[session] = detector.run(["output", "stateN"], feeds)
    contexts[session] = frame[:, -CONTEXT:]
    positions[session] = positions.get(session, 0) + 1
    answer: bytes = probability.tobytes()
    return answer
