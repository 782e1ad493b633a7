"""The Arrow form: an IPC stream of record batches. It needs pyarrow (`carryover-server[arrow]`).

Columns of a request: `session` (utf8), `observations`, and `at` (int64), `epoch` (utf8), which may be
absent or null. `observations` is for each session a number, a list or fixed-size list of numbers (one
observation) or a list of those (a chunk). The schema's metadata may name a `model`.

Columns of the answer: `position` (int64), `epoch` (utf8), `predictions` (list of lists of float32),
`replayed` (bool) and `error` (utf8: the problem as JSON). Either `error` or all others are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from app.codec.bulk.request import (
    BulkLimits,
    BulkRequest,
    build_request,
    check_column_length,
    check_session_count,
)
from app.codec.bulk.session_lists import SessionListCache
from app.codec.problems import problem
from app.errors import Malformed, TooLarge, Unprocessable, UnsupportedType
from app.jobs.answers import BulkAnswer, epoch_token, parse_epoch
from app.jobs.jobs import AdvanceMany
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import Floats, Ints

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
MAX_BYTES = 64 * 2**20  # of a request in memory


def decode(body: bytes, limits: BulkLimits, _: SessionListCache) -> BulkRequest:
    """Decode a request. Its list of sessions is not kept: it has no text to find it by.

    Raises
    ------
    UnsupportedType : pyarrow is not installed
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    pa = import_pyarrow()
    try:
        table = _table(pa, body)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise Malformed(f"the body is not an Arrow IPC stream: {error}") from None
    for name in ("session", "observations"):
        if len(table.schema.get_all_field_indices(name)) != 1:
            raise Unprocessable(f"the table must have one column {name!r}", field=name)
    check_session_count(table.num_rows, limits)
    try:
        columns = _columns(pa, table)
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise Unprocessable(f"the columns are not those of a bulk request: {error}") from None
    return build_request(columns, limits)


def encode(answer: BulkAnswer, request: BulkRequest) -> bytes:
    """Encode an answer: a stream of one record batch."""
    pa = import_pyarrow()
    applied = np.ones(request.count, bool)
    applied[list(answer.errors)] = False
    replayed = np.zeros(request.count, bool)
    replayed[answer.replayed] = True
    tokens = [
        epoch_token(epoch) if ok else None for epoch, ok in zip(answer.epochs.tolist(), applied, strict=True)
    ]
    errors = [
        orjson.dumps(problem(answer.errors[i])[1]).decode() if i in answer.errors else None
        for i in range(request.count)
    ]
    batch = pa.record_batch(
        {
            "position": pa.array(answer.positions, mask=~applied),
            "epoch": pa.array(tokens, pa.string()),
            "predictions": _predictions(pa, answer, applied),
            "replayed": pa.array(replayed, mask=~applied),
            "error": pa.array(errors, pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def import_pyarrow() -> Any:
    """Return the module `pyarrow`.

    Raises
    ------
    UnsupportedType : it is not installed
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise UnsupportedType(
            "pyarrow is not installed on this server; send JSON or application/octet-stream"
        ) from None
    return pa


def _table(pa: Any, body: bytes) -> pa.Table:
    # Compressed batches are refused before pyarrow reads them: it would allocate whatever size they claim.
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        if _is_compressed(message):
            raise Unprocessable("compressed record batches are not accepted")
    table = pa.ipc.open_stream(body).read_all()
    table.validate(full=True)  # before any other use: wrong offsets crash the process
    if table.nbytes > MAX_BYTES:
        raise TooLarge(f"a request has at most {MAX_BYTES} bytes in memory", limit=MAX_BYTES)
    return table


def _columns(pa: Any, table: pa.Table) -> AdvanceMany:
    count = table.num_rows
    sessions = [name if isinstance(name, str) else "" for name in table["session"].to_pylist()]
    observations, lengths, gaps = _observations(pa, table["observations"].combine_chunks())
    check_column_length("observations", len(lengths), count)
    at = epochs = None
    if "at" in table.column_names:
        at = table["at"].cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
    if "epoch" in table.column_names:
        tokens = table["epoch"].cast(pa.string()).to_pylist()
        epochs = np.array([0 if text is None else parse_epoch(text) for text in tokens], np.uint64)
    model = (table.schema.metadata or {}).get(b"model")
    columns = AdvanceMany(
        SessionList(sessions), observations, lengths, at, epochs, None if model is None else model.decode()
    )
    columns.options = ChunkOptions(gaps=True) if gaps else None
    return columns


def _observations(pa: Any, column: Any) -> tuple[Floats, Ints, bool]:
    """Observations [total, inputs], lengths [n], and whether nulls are among the numbers, which means not
    observed. A null list is an empty list."""
    if isinstance(column, pa.ChunkedArray):  # combine_chunks returns it unchanged when it has no chunks
        column = pa.concat_arrays(column.chunks)
    count = len(column)
    lengths = np.ones(count, np.int64)
    if _is_list(pa, column.type) and _is_list(pa, column.type.value_type):
        lengths = _lengths(column)
        column = column.flatten()
    width = 1
    if _is_list(pa, column.type):
        widths = np.unique(_lengths(column))
        if len(widths) > 1:
            raise ValueError("every observation must have as many numbers as the first")
        width = int(widths[0]) if len(widths) else 1
        column = column.flatten()
    if not width:
        raise ValueError("an observation needs at least one number")
    column = column.cast(pa.float32())
    gaps = column.null_count > 0 and not np.isnan(column.drop_null().to_numpy(zero_copy_only=False)).any()
    numbers = column.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(numbers, np.float32).reshape(-1, width), lengths, gaps


def _is_list(pa: Any, kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _lengths(column: Any) -> Ints:
    import pyarrow.compute as pc

    lengths: Ints = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def _predictions(pa: Any, answer: BulkAnswer, applied: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    """Predictions as a list of rows for each chunk."""
    widths = np.repeat(np.broadcast_to(answer.outputs, answer.steps.shape), answer.steps)
    rows = pa.ListArray.from_arrays(_offsets(pa, widths), pa.array(answer.predictions, pa.float32()))
    return pa.ListArray.from_arrays(_offsets(pa, answer.steps), rows, mask=pa.array(~applied))


def _offsets(pa: Any, lengths: Ints) -> Any:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _is_compressed(message: Any) -> bool:
    """Whether the buffers of a record batch message are compressed (Arrow's Message.fbs).

    Read from the bytes, because pyarrow says so only after it has decompressed them. A flatbuffer's table
    begins with the distance back to its vtable, whose third and fourth entries are at offsets 8 and 10.
    """
    if message.type != "record batch":
        return False
    data = message.metadata.to_pybytes()

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    def field(table: int, at: int) -> int:
        fields = table - number(table, 4)
        return number(fields + at, 2) if at < number(fields, 2) else 0

    root = number(0, 4)
    header = root + field(root, 8)
    batch = header + number(header, 4)
    return field(batch, 10) != 0
