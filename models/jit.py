"""Loops over numbers, compiled: what would be a dozen passes of NumPy over the same rows is one.

Numba translates a function when its module is first imported and keeps the result on disk, beside the module
or in `NUMBA_CACHE_DIR`, so that the next start only loads it. Where nothing can be kept there, each start
translates anew, which takes some seconds.

A kept translation is believed for as long as its own file is the same: what a compiled function takes from
another module must be an argument, or a change there goes unnoticed, as one of `OPTIONS` would.

The types are told beforehand: a function that met other types in the middle of the service would hold every
session up while it is translated once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types

Function = TypeVar("Function", bound=Callable[..., Any])

BOOL, INT, FLOAT = types.boolean, types.int64, types.float64
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}  # NaN stays what it is
KINDS = {
    "bool": types.boolean,
    "uint8": types.uint8,
    "uint32": types.uint32,
    "int64": types.int64,
    "uint64": types.uint64,
    "float32": types.float32,
    "float64": types.float64,
}


def jit(*arguments: Any) -> Callable[[Function], Function]:
    """A decorator: the function is compiled for arguments of these types.

    It keeps the interpreter lock: a wave's loops are over sooner than it could be had back.
    """

    def translated(function: Function) -> Function:
        try:
            made = njit(arguments, cache=True, **OPTIONS)(function)
        except Exception:  # noqa: BLE001  (nowhere to keep it, no room there, or what was kept is damaged)
            made = njit(arguments, **OPTIONS)(function)
        return cast(Function, made)

    return translated


def jit_inline(function: Function) -> Function:
    """A decorator: the function becomes a part of the compiled ones that call it."""
    return cast(Function, njit(inline="always", **OPTIONS)(function))


def readonly(kind: str, dimensions: int = 1) -> Any:
    """Type of an array that is only read: of any strides, such as a field of many headers."""
    return types.Array(KINDS[kind], dimensions, "A", readonly=True, aligned=False)


def writable(kind: str, dimensions: int = 1) -> Any:
    """Type of an array that is written to, of any strides."""
    return types.Array(KINDS[kind], dimensions, "A", aligned=False)


def contiguous(kind: str, dimensions: int = 1) -> Any:
    """Type of an array that is written to and lies in one piece, as one just made does."""
    return types.Array(KINDS[kind], dimensions, "C")


def readonly_contiguous(kind: str, dimensions: int = 1) -> Any:
    """Type of an array that is only read, and lies in one piece."""
    return types.Array(KINDS[kind], dimensions, "C", readonly=True)
