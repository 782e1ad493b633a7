"""Answers to `infer`: JSON, with the bytes of binary outputs behind it."""

from __future__ import annotations

import zlib
from typing import Any

import orjson

from app.jobs.answers import Advanced
from app.open_inference.inference import VERSION, Inference, told_of

LEAST_COMPRESSED = 1024
"""Bytes below which compressing costs more than sending: a client that accepts gzip takes plain, too."""

QUICK = 1
WRAPPINGS = {"gzip": 31, "deflate": 15}  # window bits that make zlib write each


def encode(asked: Inference, answer: Advanced) -> tuple[bytes, int | None]:
    """The body, and the length of the JSON in front of binary outputs; None where there are none."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, numbers in asked.outputs(answer):
        told: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": (1, *numbers.shape)}
        if asked.wanted.get(name, asked.binary):
            tail.append(numbers.astype("<f4", copy=False).tobytes())
            told["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            told["data"] = numbers.ravel()
        outputs.append(told)
    head = {
        "model_name": answer.model,
        "model_version": VERSION,
        "parameters": told_of(answer),
        "outputs": outputs,
    }
    if asked.id:
        head["id"] = asked.id
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def compressed(body: bytes, accepted: str) -> tuple[bytes, str]:
    """The body in an encoding that the client accepts, where that is worth it, and which; empty for none."""
    if len(body) < LEAST_COMPRESSED:
        return body, ""
    told = [part.partition(";") for part in accepted.replace(" ", "").split(",")]
    wanted = {name for name, _, weight in told if weight not in ("q=0", "q=0.0")}
    for encoding, bits in WRAPPINGS.items():
        if encoding in wanted:
            stream = zlib.compressobj(QUICK, zlib.DEFLATED, bits)
            return stream.compress(body) + stream.flush(), encoding
    return body, ""


def headers(encoding: str, header_length: int | None) -> dict[str, str]:
    """What goes with the body, its length aside."""
    told = {"content-type": "application/json"}
    if header_length is not None:
        told = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(header_length),
        }
    if encoding:
        told["content-encoding"] = encoding
    return told
