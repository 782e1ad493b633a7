"""Request bodies of at most 8 MiB that cost a careless server far more time or memory."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

LIMIT = 8 * 2**20 - 4096
"""The default of CARRYOVER_BODY_BYTES, less a margin."""
JSON, STATE, ARROW = "application/json", "application/octet-stream", "application/vnd.apache.arrow.stream"


def fitting(count: int, size: int) -> int:
    """How many items of `size` bytes fit into the limit, and at most `count`."""
    return min(count, LIMIT // size)


def empty_strings(field: str, count: int) -> bytes:
    """An object whose `field` is a list of empty strings where numbers should be."""
    return f'{{"steps":1,"{field}":['.encode() + b",".join([b'""'] * fitting(count, 3)) + b"]}"


def unknown_fields(count: int) -> bytes:
    """An object with fields that no call knows."""
    return b'{"id":"bomb",' + b",".join(b'"x%d":0' % i for i in range(fitting(count, 12))) + b"}"


def nested(depth: int) -> bytes:
    """Lists within lists."""
    return b'{"observations":' + b"[" * fitting(depth, 1)


def numbers(count: int) -> bytes:
    """One chunk of very many observations."""
    return b'{"observations":[' + b",".join([b"0"] * fitting(count, 2)) + b"]}"


def bulk_nulls(sessions: int, steps: int) -> bytes:
    """A bulk request whose chunks consist of missing observations."""
    chunk = [None] * steps
    body = {"sessions": [f"b{i}" for i in range(sessions)], "observations": [chunk] * sessions}
    return json.dumps(body, separators=(",", ":")).encode()


def bulk_errors(sessions: int) -> bytes:
    """A bulk request in which every chunk is wrong."""
    body = {"sessions": [f"b{i}" for i in range(sessions)], "observations": [["x", {}]] * sessions}
    return json.dumps(body, separators=(",", ":")).encode()


def v2_parameters(count: int) -> bytes:
    """An inference request with very many parameters."""
    count = fitting(count, 14)
    tensor = {"name": "observations", "datatype": "FP32", "shape": [1, 1, 1], "data": [0.5]}
    parameters: dict[str, Any] = {f"p{i}": 0 for i in range(count)} | {"sequence_id": "v2"}
    return json.dumps({"inputs": [tensor], "parameters": parameters}, separators=(",", ":")).encode()


@lru_cache(maxsize=2)  # several attacks send the largest
def gzipped_zeros(size: int) -> bytes:
    """A body that is about a thousand times its size after decompression."""
    block = b"0" * 2**20
    count = max(1, size // len(block))
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    compressed = compressor.compress(block) + compressor.flush(zlib.Z_FULL_FLUSH)  # may be repeated as it is
    checksum = 0
    for _ in range(count):
        checksum = zlib.crc32(block, checksum)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952: deflate, without a name and a time
    tail = compressor.flush() + struct.pack("<II", checksum, count * len(block) % 2**32)
    return (head + count * compressed + tail)[:LIMIT]


def arrow(sessions: int, name_bytes: int, encoding: str) -> bytes:
    """An Arrow bulk request; `encoding`: plain, dictionary or run-end names, which repeat one long name."""
    import pyarrow as pa

    if encoding == "plain":
        names: Any = pa.array([f"a{i}" for i in range(sessions)])
    elif encoding == "dictionary":
        names = pa.DictionaryArray.from_arrays(
            pa.array([0] * sessions, pa.int32()), pa.array(["n" * name_bytes])
        )
    else:
        names = pa.RunEndEncodedArray.from_arrays(
            pa.array([sessions], pa.int32()), pa.array(["n" * name_bytes])
        )
    table = pa.table({"session": names, "observations": pa.array([0.5] * sessions)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def state_of_empty_tensors(count: int) -> bytes:
    """A safetensors file of very many empty tensors."""
    count = fitting(count, 60)
    return safetensors(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    )


def state_of_metadata(count: int) -> bytes:
    """A safetensors file with very many entries of metadata."""
    return safetensors({"__metadata__": {f"k{i}": "" for i in range(fitting(count, 14))}})


def safetensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def change_state(state: bytes, **changes: str) -> bytes:
    """Change fields of an exported state's metadata; its checksum is made to match."""
    (length,) = struct.unpack_from("<Q", state)
    header = json.loads(state[8 : 8 + length])
    data = state[8 + length :]
    metadata = header.pop("__metadata__") | changes
    del metadata["checksum"]
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    kinds = {"F32": "<f4", "I64": "<i8", "U64": "<u8", "BOOL": "|b1", "F64": "<f8"}
    for name in sorted(header):
        tensor = header[name]
        start, end = tensor["data_offsets"]
        digest.update(f"{name} {kinds[tensor['dtype']]} {tuple(tensor['shape'])}".encode())
        digest.update(data[start:end])
    return safetensors({"__metadata__": metadata | {"checksum": digest.hexdigest()}} | header, data)


def grpc_parameters(count: int) -> bytes:
    """A `ModelInferRequest` with very many parameters, as protobuf."""
    count = fitting(count, 16)
    integer = _field(2, 2, b"\x10\x01")  # value: InferParameter{int64_param: 1}
    return b"".join(
        [
            _field(1, 2, b"bench"),
            *(_field(4, 2, _field(1, 2, b"p%d" % i) + integer) for i in range(count)),
        ]
    )


def grpc_chunk(sequence: int) -> bytes:
    """A `ModelInferRequest` that starts a sequence with one observation, as protobuf."""
    number = _field(2, 2, _field_varint(2, sequence))
    yes = _field(2, 2, _field_varint(1, 1))
    tensor = [
        _field(1, 2, b"observations"),
        _field(2, 2, b"FP32"),
        _field(3, 2, bytes([1, 1, 1])),  # shape
    ]
    return b"".join(
        [
            _field(1, 2, b"bench"),
            _field(4, 2, _field(1, 2, b"sequence_id") + number),
            _field(4, 2, _field(1, 2, b"sequence_start") + yes),
            _field(5, 2, b"".join(tensor)),
            _field(7, 2, struct.pack("<f", 0.5)),
        ]
    )


def chunked(parts: Iterable[bytes]) -> Iterable[bytes]:
    """Encode parts as HTTP chunks."""
    for part in parts:
        yield b"%x\r\n%b\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


def _field(number: int, wire_type: int, payload: bytes) -> bytes:
    return _varint(number << 3 | wire_type) + _varint(len(payload)) + payload


def _field_varint(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])
