"""The Arrow form: an IPC stream of record batches.

Columns of a request: `session` (utf8), `observations`, and `at` (int64), `epoch` (utf8), which may be
absent or null. `observations` is for each session a number, a list or fixed-size list of numbers (one
observation) or a list of those (a chunk). Without `observations` every other column is an input of the
sessions' network (`app.codec.bulk.arrow_named`); `inputs.at` is the input `at`. The schema's metadata may
name a `model`, and have `levels` of intervals as a JSON list.

Columns of the answer: `position` (int64), `epoch` (utf8), `predictions` (list of lists of float32) or, where
the inputs have names, a column for each output, `replayed` (bool) and `error` (utf8: the problem as JSON).
Either `error` or all others are null. With levels there is `quantiles`, a struct of columns like
`predictions` by quantile, such as `0.05`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson

from app.codec.body_errors import invalid_number_error, ragged_row_error, too_many_observations_error
from app.codec.bulk import arrow_named
from app.codec.bulk.arrow_arrays import doubles, is_list, is_number, leaf, list_lengths, list_offsets
from app.codec.bulk.request import (
    BulkLimits,
    BulkRequest,
    build_jobs,
    build_request,
    check_session_count,
    last_of,
)
from app.codec.chunks import validate_levels
from app.codec.limits import (
    DECODE_ERRORS,
    MAX_EXACT_FLOAT32,
    MAX_FLOAT32,
    MAX_POSITION,
    Limits,
    validate_model_name,
    validate_session_id,
)
from app.codec.problems import problem
from app.errors import CarryoverError, Malformed, TooLarge, Unprocessable
from app.jobs.answers import BulkAnswer, epoch_token, parse_epoch
from app.jobs.jobs import AdvanceMany
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from models.arrays import Bools, Epochs, Ints, Numbers

if TYPE_CHECKING:
    import pyarrow as pa

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
COLUMNS = ("session", "observations", "at", "epoch")  # others are inputs; beside `observations`, not read
ANSWER_COLUMNS = ("position", "epoch", "predictions", "replayed", "error", "quantiles")
MAX_BYTES = 64 * 2**20  # of a request in memory
MAX_NUMBERS = 1_000_000  # in one request
MAX_BATCHES = 1024
MAX_DICTIONARY_BATCHES = 16  # where a column has a dictionary: each batch is looked up in all of it
MAX_SCHEMA_BYTES = 2**20
SLICE_CHUNKS = 64  # checked alone between two pauses: about a millisecond


def decode(body: bytes, limits: BulkLimits) -> BulkRequest:
    """Decode a request.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    return last_of(decode_in_slices(body, limits))


def decode_in_slices(body: bytes, limits: BulkLimits) -> Generator[None, None, BulkRequest]:
    """Decode a request, with pauses where its chunks are not alike.

    Raises
    ------
    Malformed, Unprocessable, TooLarge : the whole request is refused
    """
    pa = import_pyarrow()
    try:
        table = _table(pa, body)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise Malformed(f"the body is not an Arrow IPC stream: {error}") from None
    check_session_count(table.num_rows, limits)
    try:
        columns = _Columns(pa, table)
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise Unprocessable(f"the columns are not those of a bulk request: {error}") from None
    return (yield from columns.request(limits))


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
    outputs = arrow_named.outputs(pa, answer, applied, ANSWER_COLUMNS) if request.named else None
    columns = {
        "position": pa.array(answer.positions, mask=~applied),
        "epoch": pa.array(tokens, pa.string()),
        **({"predictions": _predictions(pa, answer, applied)} if outputs is None else outputs),
        "replayed": pa.array(replayed, mask=~applied),
        "error": pa.array(errors, pa.string()),
    }
    if answer.quantiles:
        columns["quantiles"] = _quantiles(pa, answer)
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def warm_up() -> None:
    """Import pyarrow, and let it set up what it sets up on first use."""
    pa = import_pyarrow()
    table = pa.table({"session": ["a"], "observations": [[0.5]], "at": [0], "epoch": ["0"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    limits = BulkLimits(1, Limits(1, 1, 1))
    request = decode(sink.getvalue().to_pybytes(), limits)
    nothing = np.zeros(1, np.int64)
    encode(BulkAnswer(nothing, nothing.view(np.uint64), nothing, 1, np.zeros(0, np.float32), [], {}), request)


def import_pyarrow() -> Any:
    """Return the module `pyarrow`, with its parts; the bulk's other forms do without it."""
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.ipc

    return pa


def _table(pa: Any, body: bytes) -> pa.Table:
    """The columns that are read. Nothing is decompressed or expanded before it is checked."""
    batches = 0
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        batches += 1
        if batches > MAX_BATCHES:
            raise TooLarge(f"a request has at most {MAX_BATCHES} record batches", limit=MAX_BATCHES)
        if message.metadata.size > MAX_SCHEMA_BYTES:
            raise TooLarge(f"a schema has at most {MAX_SCHEMA_BYTES} bytes", limit=MAX_SCHEMA_BYTES)
        if _is_compressed(message):
            raise Unprocessable("compressed record batches are not accepted")
    schema = pa.ipc.open_stream(body).schema
    others = [name for name in COLUMNS if name != "observations"]
    named = [] if "observations" in schema.names else arrow_named.input_indexes(pa, schema, others)
    indexes = [_index(pa, schema, name) for name in (others if named else COLUMNS)]
    read = sorted([*named, *(index for index in indexes if index is not None)])
    if batches > MAX_DICTIONARY_BATCHES and any(
        pa.types.is_dictionary(schema.field(index).type) for index in read
    ):
        raise TooLarge(f"with dictionaries a request has at most {MAX_DICTIONARY_BATCHES} record batches")
    options = pa.ipc.IpcReadOptions(included_fields=read, use_threads=False)
    table = pa.ipc.open_stream(body, options=options).read_all()
    table.validate(full=True)  # before any other use: wrong offsets crash the process
    if table.nbytes > MAX_BYTES:
        raise TooLarge(f"a request has at most {MAX_BYTES} bytes in memory", limit=MAX_BYTES)
    return table


def _index(pa: Any, schema: Any, name: str) -> int | None:
    """Where a column is, after a check of its type: some types claim far more values than they have bytes."""
    found = schema.get_all_field_indices(name)
    if len(found) > 1 or (not found and name in ("session", "observations")):
        raise Unprocessable(f"the table must have one column {name!r}", field=name)
    if not found:
        return None
    kind = schema.field(found[0]).type
    if name == "observations":
        numbers = leaf(pa, kind, 2)
        valid = is_number(pa, numbers) or pa.types.is_null(numbers)
    elif name == "at":
        valid = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)
    else:
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        valid = pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_null(text)
    if not valid:
        raise Unprocessable(f"the column {name!r} cannot be of type {str(kind)[:80]}", field=name)
    return int(found[0])


class _Columns:
    """The columns of a request of n chunks.

    sessions : [n] names, empty for null
    observations : in rows, or by name
    at : [n], -1 for none; wrong_at : [n] whether it is not a position
    epochs : [n], 0 for none
    """

    def __init__(self, pa: Any, table: pa.Table) -> None:
        self.count = count = table.num_rows
        self.sessions = [name or "" for name in _texts(pa, _array(pa, table["session"]))]
        names = table.column_names
        self.observations: _Rows | arrow_named.NamedInputs
        if "observations" in names:
            self.observations = _Rows(pa, _array(pa, table["observations"]))
        else:
            inputs = {
                arrow_named.input_of(name, COLUMNS): _array(pa, table[name])
                for name in names
                if name not in COLUMNS
            }
            self.observations = arrow_named.NamedInputs.of_table(pa, inputs, MAX_NUMBERS)
        self.at: Ints | None = None
        self.wrong_at = np.zeros(count, bool)
        if "at" in names:
            self._at_values = _array(pa, table["at"])
            self.at, self.wrong_at = _positions(pa, self._at_values)
        self.epochs: Epochs | None = None
        if "epoch" in names:
            tokens = _texts(pa, _array(pa, table["epoch"]))
            self.epochs = np.array([0 if text is None else parse_epoch(text) for text in tokens], np.uint64)
        metadata = table.schema.metadata or {}
        model, levels = metadata.get(b"model"), metadata.get(b"levels")
        self.model = None if model is None else validate_model_name(model.decode())
        self._levels = () if levels is None else _levels(levels)

    def request(self, limits: BulkLimits) -> Generator[None, None, BulkRequest]:
        """The request: one job where the rows are alike, else chunk by chunk, with pauses."""
        rows = self.observations
        if not isinstance(rows, _Rows) or not rows.are_alike or self.wrong_at.any():
            return (yield from self._request_of_chunks(limits))
        observations = rows.numbers.reshape(-1, rows.widths[0])
        job = AdvanceMany(
            SessionList(self.sessions), observations, rows.lengths, self.at, self.epochs, self.model
        )
        job.options = self._options(observations)
        return build_request(job, limits)

    def _request_of_chunks(self, limits: BulkLimits) -> Generator[None, None, BulkRequest]:
        errors: dict[int, CarryoverError] = {}
        chunks: dict[int, Numbers | dict[str, Numbers]] = {}
        for i in range(self.count):
            try:
                validate_session_id(self.sessions[i])
                if self.wrong_at[i]:
                    value = self._at_values[i].as_py()
                    raise Unprocessable(f"at must be 0 to {MAX_POSITION}, not {value}", field="at")
                chunks[i] = self.observations.chunk(i, limits.chunk)
            except CarryoverError as error:
                errors[i] = error
            if i % SLICE_CHUNKS == SLICE_CHUNKS - 1:
                yield
        at = [-1] * self.count if self.at is None else self.at.tolist()
        epochs = [0] * self.count if self.epochs is None else self.epochs.tolist()
        jobs = build_jobs(self.sessions, chunks, at, epochs, self.model)
        named = isinstance(self.observations, arrow_named.NamedInputs)
        for _, job in jobs:
            if not named:
                job.options = self._options(job.observations)
            elif self._levels and job.options is not None:
                job.options = msgspec.structs.replace(job.options, levels=self._levels)
        return BulkRequest(self.count, jobs, errors, named=named)

    def _options(self, observations: Numbers) -> ChunkOptions | None:
        gaps = bool(np.isnan(observations).any())
        return ChunkOptions(gaps=gaps, levels=self._levels) if gaps or self._levels else None


class _Rows:
    """The column `observations`: chunks of rows.

    lengths : [n] observations of each chunk
    widths : [total] numbers of each observation
    numbers : [sum of widths], NaN where null; float32 unless a number is beyond 2**24
    invalid : [sum of widths] whether a number is NaN, or not finite in float32
    """

    def __init__(self, pa: Any, column: Any) -> None:
        self.lengths = np.ones(len(column), np.int64)
        if is_list(pa, column.type) and is_list(pa, column.type.value_type):
            self.lengths = list_lengths(column)
            column = column.flatten()  # a null list has no items
        self.widths = np.ones(len(column), np.int64)
        if is_list(pa, column.type):
            self.widths = list_lengths(column)
            column = column.flatten()
        if len(column) > MAX_NUMBERS:
            raise TooLarge(f"a request has at most {MAX_NUMBERS} numbers", limit=MAX_NUMBERS)
        exact, nulls = doubles(pa, column)
        self.invalid = (np.abs(exact) > MAX_FLOAT32) | (np.isnan(exact) & ~nulls)
        self.numbers: Numbers = exact
        if not (np.abs(exact) > MAX_EXACT_FLOAT32).any():
            self.numbers = exact.astype(np.float32)
        self._rows = np.concatenate([[0], np.cumsum(self.lengths)])
        self._numbers = np.concatenate([[0], np.cumsum(self.widths)])

    @property
    def are_alike(self) -> bool:
        """Whether all rows have one width, of at least 1, and valid numbers."""
        same = len(self.widths) and self.widths.min() == self.widths.max() > 0
        return bool(same) and not self.invalid.any()

    def chunk(self, i: int, limits: Limits) -> Numbers:
        """[steps, inputs] of the chunk at this index.

        Raises
        ------
        Unprocessable, TooLarge
        """
        rows = slice(*self._rows[i : i + 2].tolist())
        if rows.stop - rows.start > limits.observations:
            raise too_many_observations_error(limits, str(rows.stop - rows.start))
        numbers = slice(int(self._numbers[rows.start]), int(self._numbers[rows.stop]))
        return _chunk(self.widths[rows], self.numbers[numbers], self.invalid[numbers])


def _chunk(widths: Ints, numbers: Numbers, invalid: Bools) -> Numbers:
    """[steps, inputs] of the numbers of a chunk."""
    if not len(widths):
        raise Unprocessable("the chunk is empty: it needs at least one observation")
    width = int(widths[0])
    if not (widths == width).all():
        row = int(np.flatnonzero(widths != width)[0])
        raise ragged_row_error(row, f"{widths[row]} numbers", f"{width} numbers")
    if not width:
        raise Unprocessable("row 0 is empty: an observation needs at least one number", row=0)
    if invalid.any():
        place = int(np.flatnonzero(invalid)[0])
        row, column = divmod(place, width)
        raise invalid_number_error(row, column, f"is {numbers[place]}, which is not a finite float32")
    return numbers.reshape(-1, width)


def _levels(text: bytes) -> tuple[float, ...]:
    """The levels of intervals in the metadata."""
    try:
        return validate_levels(msgspec.json.decode(text, type=list[float]))
    except DECODE_ERRORS:
        raise Unprocessable("the metadata's levels are not a JSON list of numbers", field="levels") from None


def _array(pa: Any, column: Any) -> Any:
    """A column as one array."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _texts(pa: Any, column: Any) -> list[str | None]:
    """A column of text. An entry of a dictionary is one string, however often it occurs."""
    if not pa.types.is_dictionary(column.type):
        texts: list[str | None] = column.to_pylist()
        return texts
    texts = column.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in column.indices.to_pylist()]


def _positions(pa: Any, column: Any) -> tuple[Ints, Bools]:
    """Positions, -1 for none, and which entries are not positions."""
    none = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, np.int64), np.zeros(len(column), bool)
    if pa.types.is_floating(column.type):  # pandas writes whole numbers so where some are missing
        values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        none = none | np.isnan(values)
        wrong = ~none & ((values != np.floor(values)) | (values < 0) | (values >= 2.0**63))
    else:
        values = column.fill_null(0).to_numpy(zero_copy_only=False)
        wrong = ~none & ((values > MAX_POSITION) | (values < -1))  # -1 is none, as in the binary form
    positions = np.full(len(column), -1, np.int64)
    positions[~(none | wrong)] = values[~(none | wrong)]
    return positions, wrong


def _predictions(pa: Any, answer: BulkAnswer, applied: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    """Predictions as a list of rows for each chunk."""
    widths = np.repeat(np.broadcast_to(answer.outputs, answer.steps.shape), answer.steps)
    rows = pa.ListArray.from_arrays(list_offsets(pa, widths), pa.array(answer.predictions))
    return pa.ListArray.from_arrays(list_offsets(pa, answer.steps), rows, mask=pa.array(~applied))


def _quantiles(pa: Any, answer: BulkAnswer) -> Any:
    """A struct by quantile, each a list of rows for each chunk; null for the chunks that do not have it."""
    ends = {
        name: pa.array(
            [list(arrays[i]) if i in arrays else None for i in range(len(answer.steps))],
            pa.list_(pa.list_(pa.float32())),
        )
        for name, arrays in answer.quantiles.items()
    }
    return pa.StructArray.from_arrays(list(ends.values()), names=list(ends))


def _is_compressed(message: Any) -> bool:
    """Whether the buffers of a message are compressed (Arrow's Message.fbs).

    Read from the bytes, because pyarrow says so only after it has decompressed them. A flatbuffer's table
    begins with the distance back to its vtable, whose entries begin at offset 4.
    """
    if message.type not in ("record batch", "dictionary"):
        return False
    data = message.metadata.to_pybytes()

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    def field(table: int, at: int) -> int:
        """Where the field of this entry begins; 0 where the table does not have it."""
        vtable = table - number(table, 4)
        offset = number(vtable + at, 2) if at < number(vtable, 2) else 0
        return table + offset if offset else 0

    def child(table: int, at: int) -> int:
        place = field(table, at)
        return place + number(place, 4)

    batch = child(number(0, 4), 8)  # Message.header
    if message.type == "dictionary":
        batch = child(batch, 6)  # DictionaryBatch.data
    return field(batch, 10) != 0  # RecordBatch.compression
