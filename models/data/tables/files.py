"""Files, pipes and bytes -> tables, by what they contain.

| content     | known by                                                      |
|-------------|---------------------------------------------------------------|
| NPZ         | the name                                                      |
| Parquet     | the first bytes, or the name                                  |
| JSON Lines  | the name, or, elsewhere than in a `.csv`, a first character `{` |
| CSV         | everything else                                               |

Text may be compressed with gzip or zstd, whatever its name.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from models.arrays import AnyArray
from models.data.tables.csv_text import MAX_COLUMNS, read_csv
from models.data.tables.json_lines import read_json_lines
from models.data.tables.options import TableOptions
from models.data.tables.pieces import Piece, Table, find_twice
from models.data.tables.text import COMPRESSIONS, read_blocks, read_text
from models.errors import BadData

PARQUET = b"PAR1"
JSON_LINES = (".jsonl", ".ndjson")
JSON_ARRAY = re.compile(r"\s*\[\s*[\[{]")
COMPRESSED = (".gz", ".zst", ".zstd")
ROWS = 65_536  # of a piece of Parquet


@contextmanager
def open_table(
    path: Path,
    options: TableOptions,
    follow: Callable[[Path, io.BufferedReader], Iterator[bytes]] | None = None,
) -> Iterator[Table]:
    """Open a file.

    Parameters
    ----------
    follow
        Returns the blocks of a file that grows, without end.

    Raises
    ------
    BadData
        It does not exist, or cannot be read as what it is.
    """
    if path.is_dir():
        raise BadData(f"{path} is a folder")
    if not path.exists():
        raise BadData(f"{path} does not exist")
    with path.open("rb") as file:
        if path.suffix.lower() == ".npz":
            yield _npz(path)
        elif path.suffix.lower() == ".parquet" or (path.is_file() and file.peek(4)[:4] == PARQUET):
            yield _parquet(path)
        elif follow is not None:
            yield read_table(follow(path, file), options, str(path), suffix=path.suffix.lower())
        else:
            names = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
            table = read_table(read_blocks(file), options, str(path), suffix=names.suffix.lower())
            yield Table(table.source, table.names, table.pieces, table.has_names, _count(path, table))


def read_table(
    blocks: Iterable[bytes],
    options: TableOptions,
    source: str,
    *,
    suffix: str = "",
    compressed: bool = True,
    max_columns: int = MAX_COLUMNS,
) -> Table:
    """Read the names of a table in CSV or JSON Lines, and prepare to read its rows.

    Parameters
    ----------
    blocks
        As they come in; none is empty.
    suffix
        Of its file; empty if it is not known.
    compressed
        Whether gzip and zstd are read; of a stranger's bytes they should not be.

    Raises
    ------
    BadData
        It is empty, or neither; the message says so of an array in JSON.
    """
    texts = read_text(blocks, options.encoding, source, compressed=compressed)
    if suffix in JSON_LINES:
        return read_json_lines(texts, source)
    if suffix == ".csv":
        return read_csv(texts, options, source, max_columns)
    first = ""
    for text in texts:
        first = (first + text).lstrip("\r\n")
        if first.strip() not in ("", "["):
            break
    texts = chain([first] if first else [], texts)
    if first.lstrip().startswith("{"):
        return read_json_lines(texts, source)
    if JSON_ARRAY.match(first):
        raise BadData(f"{source} is a JSON array: write one object a line (JSON Lines), as jq -c '.[]' does")
    return read_csv(texts, options, source, max_columns)


def _count(path: Path, table: Table) -> int | None:
    """Rows of a text, as its lines say; None where it is compressed, or is no ordinary file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.peek(4).startswith(tuple(COMPRESSIONS)):
            return None
        lines = sum(1 for line in file if line.strip())
    is_csv = not path.name.lower().endswith(JSON_LINES)
    return max(lines - (is_csv and table.has_names), 0)


def _parquet(path: Path) -> Table:
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadData(f"{path} is damaged or not Parquet: {str(error).splitlines()[0]}") from error
    names = tuple(file.schema_arrow.names)

    def pieces() -> Iterator[Piece]:
        row = 1
        try:
            for batch in file.iter_batches(ROWS):
                yield Piece(row, [_plain(column) for column in batch.columns])
                row += len(batch)
        except (pa.ArrowException, OSError) as error:
            raise BadData(f"{path} is damaged: {str(error).splitlines()[0]}") from error

    return Table(str(path), names, pieces(), total=file.metadata.num_rows)


def _plain(column: Any) -> Any:
    """A column without a dictionary, and text of the one kind."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    return (
        column.cast(pa.string())
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        else column
    )


def _npz(path: Path) -> Table:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, AnyArray] = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BadData(f"{path} is damaged or not NPZ: {error}") from error
    names = arrays.pop("columns", None)
    table = _spread(arrays, path, None if names is None else [str(name) for name in np.atleast_1d(names)])
    if len({len(cells) for cells in table.values()}) > 1:
        raise BadData(f"{path} has arrays of different lengths")
    cells = [_as_arrow(array, path, name) for name, array in table.items()]
    rows = len(cells[0]) if cells else 0
    return Table(str(path), tuple(table), iter([Piece(1, cells)] if rows else []), total=rows)


def _as_arrow(array: AnyArray, path: Path, name: str) -> Any:
    try:
        return pa.array(array.astype("datetime64[us]") if array.dtype.kind == "M" else array)
    except pa.ArrowException as error:
        raise BadData(f"{path}: array {name} is neither numbers, nor times, nor text") from error


def _spread(arrays: dict[str, AnyArray], path: Path, names: list[str] | None) -> dict[str, AnyArray]:
    """One-dimensional columns: each matrix [rows, columns] becomes its columns."""
    columns: list[tuple[str, AnyArray]] = []
    for key, array in arrays.items():
        if array.ndim == 1:
            columns.append((key, array))
        elif array.ndim == 2:
            column_names = names or [f"{key}{i}" for i in range(array.shape[1])]
            if len(column_names) != array.shape[1]:
                raise BadData(
                    f"{path}: {len(column_names)} names in columns, {array.shape[1]} columns in {key}"
                )
            columns += zip(column_names, array.T, strict=True)
        else:
            raise BadData(
                f"{path}: array {key} has {array.ndim} dimensions, expected [rows] or [rows, columns]"
            )
    if (twice := find_twice([name for name, _ in columns])) is not None:
        raise BadData(f"{path} has two columns {twice!r}")
    return dict(columns)
