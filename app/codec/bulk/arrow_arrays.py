"""What the two forms of an Arrow request share: nested lists of numbers, and their lengths.

pyarrow is imported by the caller, because the other forms of a bulk request do without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.arrays import Bools, Doubles, Ints


def is_list(pa: Any, kind: Any) -> bool:
    """Whether this is a type of lists that lie one after the other; those of views may overlap."""
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def is_number(pa: Any, kind: Any) -> bool:
    """Whether this is a type of numbers."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind))


def leaf(pa: Any, kind: Any, depth: int) -> Any:
    """The type of the items in lists that are nested up to `depth` deep."""
    for _ in range(depth):
        if is_list(pa, kind):
            kind = kind.value_type
    return kind


def list_lengths(column: Any) -> Ints:
    """The lengths of lists; 0 for null."""
    import pyarrow.compute as pc

    lengths: Ints = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def doubles(pa: Any, column: Any) -> tuple[Doubles, Bools]:
    """Numbers as float64, NaN where null, and which are null."""
    numbers: Doubles = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    nulls: Bools = column.is_null().to_numpy(zero_copy_only=False)
    return numbers, nulls


def list_offsets(pa: Any, lengths: Ints) -> Any:
    """The offsets of lists of these lengths, as Arrow keeps them."""
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
