"""Answers to `infer`: JSON, followed by the bytes of binary outputs."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import orjson

from app.jobs.answers import ChunkAnswer
from app.open_inference.inference import VERSION, Inference, response_parameters
from app.open_inference.tensors import DATATYPES
from models.arrays import AnyArray

MIN_COMPRESSED_BYTES = 1024  # below this, compressing takes longer than sending
FASTEST = 1  # zlib's level
WINDOW_BITS = {"gzip": 31, "deflate": 15}  # tells zlib which format to write


def encode_response(inference: Inference, answer: ChunkAnswer) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON, or None where no output is binary."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, tensor in inference.outputs(answer):
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[tensor.dtype.name],
            "shape": tensor.shape,
        }
        if inference.requested_outputs.get(name, inference.binary):
            tail.append(little_endian(tensor))
            output["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            flat = tensor.ravel()
            output["data"] = flat.astype(np.float32) if flat.dtype == np.float16 else flat
        outputs.append(output)
    head = {
        "model_name": answer.model,
        "model_version": VERSION,
        "parameters": response_parameters(answer),
        "outputs": outputs,
    }
    if inference.id:
        head["id"] = inference.id
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def little_endian(tensor: AnyArray) -> bytes:
    """The bytes of a tensor."""
    return tensor.astype(tensor.dtype.newbyteorder("<"), copy=False).tobytes()


def compress(body: bytes, accepted: str) -> tuple[bytes, str]:
    """The body as it is sent, and its encoding; empty where compressing is not accepted or not worth it."""
    if len(body) < MIN_COMPRESSED_BYTES:
        return body, ""
    parts = [part.partition(";") for part in accepted.replace(" ", "").split(",")]
    names = {name for name, _, weight in parts if weight not in ("q=0", "q=0.0")}
    for encoding, bits in WINDOW_BITS.items():
        if encoding in names:
            stream = zlib.compressobj(FASTEST, zlib.DEFLATED, bits)
            return stream.compress(body) + stream.flush(), encoding
    return body, ""


def headers(encoding: str, header_length: int | None) -> dict[str, str]:
    """Headers of the answer, except `content-length`."""
    fields = {"content-type": "application/json"}
    if header_length is not None:
        fields = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(header_length),
        }
    if encoding:
        fields["content-encoding"] = encoding
    return fields
