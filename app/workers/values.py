"""Jobs and answers as bytes, for the sockets between the workers of one server.

MessagePack, in which each object of a known class is an extension: the class' number, then its fields in
order. So only the classes of `CLASSES` can arrive. An array is its type, its shape and its bytes. What
belongs to one process (replies, clients, usage) stays there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from app import errors
from app.errors import CarryoverError, OverLimit, Unavailable
from app.jobs.answers import BulkAnswer, ChunkAnswer, SessionHistory, SessionView
from app.jobs.jobs import (
    Advance,
    AdvanceMany,
    Annotate,
    Create,
    Delete,
    Export,
    Forecast,
    Fork,
    Import,
    Inspect,
    ReadHistory,
    Refuse,
    Reset,
    Retire,
    Watch,
    Write,
)
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.text import Draft, TextAnswer, TextRequest
from app.session.notes import Alert
from app.session.state_file import SessionState
from models.adaptation.learner import ErrorStatistics
from models.arrays import Ints
from models.artifact.learning import Learning
from models.generation.sampling import Sampling
from models.generation.stopping import Stop
from models.nets.signature import Port


@dataclass(slots=True)
class PartAnswer:
    """The answer to some chunks of a job, as to a job of their own.

    indexes : [n], of the chunks in the job
    """

    indexes: Ints
    outcome: Any


KEPT_HERE = frozenset(
    ("reply", "progress", "usage", "client", "watcher", "raw_observations", "digest", "clock")
)
"""Fields of jobs that belong to the process which made the job, or are set in the engine."""

CLASSES: tuple[type, ...] = (
    *(AdvanceMany, BulkAnswer, Advance, ChunkAnswer),
    *(Create, Delete, Export, Forecast, Fork, Import, Inspect, ReadHistory, Refuse, Reset, Retire, Watch),
    *(ChunkOptions, ErrorStatistics, Learning, PartAnswer, SessionHistory, SessionState, SessionView),
    *(Annotate, Alert),
    *(Write, TextRequest, TextAnswer, Draft, Sampling, Stop),
)
FIELDS = tuple(
    tuple(name for name in cls.__annotations__ if name not in KEPT_HERE and not name.startswith("_"))
    for cls in CLASSES
)
CODES = {cls: code for code, cls in enumerate(CLASSES)}
ERROR, PORTS, ARRAYS = 100, 101, 110
KINDS = tuple(map(np.dtype, ("float32", "float64", "int64", "uint64", "bool", "uint8")))
ARRAY_CODES = {kind: code for code, kind in enumerate(KINDS, ARRAYS)}


def encode(value: Any) -> bytes:
    """The bytes of a value: plain ones, arrays, errors, and objects of `CLASSES`.

    Raises
    ------
    TypeError : it contains something else
    """
    return _encode(_tagged(value))


def decode(data: bytes) -> Any:
    """The value of these bytes. Its arrays cannot be written to.

    Raises
    ------
    msgspec.DecodeError : the bytes are cut short or damaged
    """
    return _decode(data)


def _tagged(value: Any) -> Any:
    code = CODES.get(type(value))
    if type(value) is tuple and value and type(value[0]) is Port:
        return msgspec.msgpack.Ext(PORTS, _encode_ports(value))
    if code is None:
        return value
    return msgspec.msgpack.Ext(code, _encode([_tagged(getattr(value, name)) for name in FIELDS[code]]))


def _hook(value: Any) -> Any:
    """What MessagePack does not have."""
    if isinstance(value, np.ndarray):
        head = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        return msgspec.msgpack.Ext(ARRAY_CODES[value.dtype], head + value.tobytes())
    if isinstance(value, CarryoverError):
        retry = value.retry_after_seconds if isinstance(value, Unavailable) else 0
        fields = (type(value).__name__, value.detail, retry, value.extra)
        return msgspec.msgpack.Ext(ERROR, _encode(fields))
    if isinstance(value, SessionList):
        return value.names
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be sent to another worker")


def _unpack(code: int, data: memoryview) -> Any:
    if code >= ARRAYS:
        dimensions = data[0]
        shape = struct.unpack_from(f"<{dimensions}I", data, 1)
        return np.frombuffer(bytes(data[1 + 4 * dimensions :]), KINDS[code - ARRAYS]).reshape(shape)
    if code == PORTS:
        return _decode_ports(bytes(data))
    if code == ERROR:
        return _error(*_decode(data))
    cls, fields = CLASSES[code], dict(zip(FIELDS[code], _decode(data), strict=True))
    if cls is AdvanceMany:
        fields["sessions"] = SessionList(fields["sessions"])
    return cls(**fields)


@lru_cache(maxsize=64)  # the same few in every answer
def _encode_ports(ports: tuple[Port, ...]) -> bytes:
    return _encode(ports)


@lru_cache(maxsize=64)
def _decode_ports(data: bytes) -> tuple[Port, ...]:
    return msgspec.msgpack.decode(data, type=tuple[Port, ...])


def _error(name: str, detail: str, retry_after_seconds: int, extra: dict[str, Any]) -> CarryoverError:
    cls: type[CarryoverError] = getattr(errors, name)
    if issubclass(cls, OverLimit):
        return cls(detail, retry_after_seconds, **extra)
    return cls(detail, **extra)


_encode = msgspec.msgpack.Encoder(enc_hook=_hook).encode
_decode = msgspec.msgpack.Decoder(ext_hook=_unpack).decode
