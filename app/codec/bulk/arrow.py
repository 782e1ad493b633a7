"""The Arrow form: an IPC stream of record batches in, one out. It needs pyarrow (`carryover[arrow]`).

Columns of a request: `session` (utf8), `observations`, and `at` (int64), `epoch` (utf8), which may be
absent or null. `observations` is a number each, a list or fixed-size list of numbers (one observation)
or a list of those (a chunk). A model is named in the schema's metadata, under `model`.

Columns of the answer: `position` (int64), `epoch` (utf8), `predictions` (list of lists of float32),
`replayed` (bool) and `error` (utf8: the problem as JSON); either the last or the others are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from app.api.errors import problem
from app.codec.bulk.request import BulkLimits, Request, check_column, check_count, request
from app.errors import Malformed, TooLarge, Unprocessable, UnsupportedType
from app.jobs.answers import AdvancedMany, epoch_of, token
from app.jobs.jobs import AdvanceMany
from app.jobs.options import Extras
from app.jobs.session_list import Roster
from app.session.rows import Floats, Ints

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
MOST_BYTES = 64 * 2**20  # of a request once it lies in memory


def decode(body: bytes, limits: BulkLimits) -> Request:
    """The request in this stream.

    Raises
    ------
    UnsupportedType : pyarrow is not installed
    Malformed, Unprocessable, TooLarge
    """
    pa = needed()
    try:
        table = _table(pa, body)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise Malformed(f"the body is not an Arrow IPC stream: {error}") from None
    for name in ("session", "observations"):
        if len(table.schema.get_all_field_indices(name)) != 1:
            raise Unprocessable(f"the table must have one column {name!r}", field=name)
    check_count(table.num_rows, limits)
    try:
        columns = _columns(pa, table)
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise Unprocessable(f"the columns are not those of a bulk request: {error}") from None
    return request(columns, limits)


def encode(answer: AdvancedMany, asked: Request) -> bytes:
    """The answer as a stream of one record batch."""
    pa = needed()
    fine = np.ones(asked.count, bool)
    fine[list(answer.errors)] = False
    replayed = np.zeros(asked.count, bool)
    replayed[answer.replayed] = True
    tokens = [token(epoch) if ok else None for epoch, ok in zip(answer.epochs.tolist(), fine, strict=True)]
    errors = [
        orjson.dumps(problem(answer.errors[i])[1]).decode() if i in answer.errors else None
        for i in range(asked.count)
    ]
    batch = pa.record_batch(
        {
            "position": pa.array(answer.positions, mask=~fine),
            "epoch": pa.array(tokens, pa.string()),
            "predictions": _nested(pa, answer, fine),
            "replayed": pa.array(replayed, mask=~fine),
            "error": pa.array(errors, pa.string()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def needed() -> Any:
    """pyarrow.

    Raises
    ------
    UnsupportedType : it is not installed
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise UnsupportedType("this server has no pyarrow; send JSON or application/octet-stream") from None
    return pa


def _table(pa: Any, body: bytes) -> pa.Table:
    # Raw size first: a compressed batch would be unpacked to whatever it claims before we could ask.
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        if _is_compressed(message):
            raise Unprocessable("compressed record batches are not taken")
    table = pa.ipc.open_stream(body).read_all()
    table.validate(full=True)  # before anything else looks at it: offsets that lie crash the process
    if table.nbytes > MOST_BYTES:
        raise TooLarge(f"a request has at most {MOST_BYTES} bytes in memory", limit=MOST_BYTES)
    return table


def _columns(pa: Any, table: pa.Table) -> AdvanceMany:
    count = table.num_rows
    sessions = [name if isinstance(name, str) else "" for name in table["session"].to_pylist()]
    observations, lengths, gaps = _observed(pa, table["observations"].combine_chunks())
    check_column("observations", len(lengths), count)
    at = epochs = None
    if "at" in table.column_names:
        at = table["at"].cast(pa.int64()).fill_null(-1).to_numpy().astype(np.int64)
    if "epoch" in table.column_names:
        told = table["epoch"].cast(pa.string()).to_pylist()
        epochs = np.array([0 if one is None else epoch_of(one) for one in told], np.uint64)
    model = (table.schema.metadata or {}).get(b"model")
    columns = AdvanceMany(
        Roster(sessions), observations, lengths, at, epochs, None if model is None else model.decode()
    )
    columns.extras = Extras(gaps=True) if gaps else None
    return columns


def _observed(pa: Any, column: Any) -> tuple[Floats, Ints, bool]:
    """Observations [total, inputs], lengths [n], and whether nulls are among the numbers: those were not
    observed. A null list is empty."""
    if isinstance(column, pa.ChunkedArray):  # combine_chunks leaves one when there are none
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


def _nested(pa: Any, answer: AdvancedMany, fine: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    """Predictions as a list of rows each."""
    widths = np.repeat(np.broadcast_to(answer.outputs, answer.steps.shape), answer.steps)
    rows = pa.ListArray.from_arrays(_offsets(pa, widths), pa.array(answer.numbers, pa.float32()))
    return pa.ListArray.from_arrays(_offsets(pa, answer.steps), rows, mask=pa.array(~fine))


def _offsets(pa: Any, lengths: Ints) -> Any:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _is_compressed(message: Any) -> bool:
    """Whether a record batch message says that its buffers are compressed (Arrow's Message.fbs).

    Read by hand, because pyarrow tells only after it has unpacked them: a flatbuffer's table begins with
    the distance back to its table of fields, whose third and fourth entries lie at 8 and 10.
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
