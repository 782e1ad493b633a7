"""Compiled loops over arrays: one pass over the rows where NumPy would need a dozen.

Numba compiles a function when its module is first imported. It caches the result on disk, beside the module
or in `NUMBA_CACHE_DIR`, so that the next start only loads it. Where it cannot write there, each start
compiles anew, which takes some seconds.

A cached result is used for as long as its own source file is unchanged. So whatever a compiled function uses
of another module must be an argument, or `uses` names the module; any other change there, or of the options
below, would go unnoticed.

Argument types are declared: a call with other types would make numba compile again while the service is
running, and every session would wait.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

from numba import njit, types

Function = TypeVar("Function", bound=Callable[..., Any])

INT, FLOAT = types.int64, types.float64
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"contract"}}  # NaN is preserved
PART_OPTIONS = OPTIONS | {"forceinline": True, "_nrt": False}
KINDS = {
    "bool": types.boolean,
    "uint8": types.uint8,
    "int32": types.int32,
    "uint32": types.uint32,
    "int64": types.int64,
    "uint64": types.uint64,
    "float32": types.float32,
    "float64": types.float64,
}


def jit(
    *arguments: Any,
    reorder_sums: bool = False,
    release_gil: bool = False,
    uses: Sequence[ModuleType] = (),
) -> Callable[[Function], Function]:
    """A decorator: compile the function for arguments of these types.

    The function keeps the GIL: the loops of a batch finish faster than it could be re-acquired. Only what a
    thread computes of many sessions, beside the event loop, should release it. Where its sums may be
    reordered, the processor adds eight or sixteen numbers at once.

    uses : modules with compiled functions that this one calls
    """
    options = OPTIONS | {"fastmath": {"contract", "reassoc"}} if reorder_sums else OPTIONS
    options = options | {"nogil": True} if release_gil else options

    def decorate(function: Function) -> Function:
        try:
            if uses:  # the name is a part of the name of the cached file
                function.__qualname__ += f"_{_fingerprint(uses)}"
            compiled = njit(arguments, cache=True, **options)(function)
        except Exception:  # noqa: BLE001  (no source, or no cache that can be used)
            compiled = njit(arguments, **options)(function)
        return cast(Function, compiled)

    return decorate


def _fingerprint(modules: Sequence[ModuleType]) -> str:
    """Changes with the source of any of these modules."""
    sources = "".join(inspect.getsource(module) for module in modules)
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def jit_inline(function: Function) -> Function:
    """A decorator: inline the function into the compiled functions that call it."""
    return cast(Function, njit(inline="always", **OPTIONS)(function))


def jit_part(function: Function) -> Function:
    """A decorator: compile the function into the compiled functions of its module that call it.

    LLVM inlines it, so a large function compiles ten times faster than with `jit_inline`. It must neither
    make nor return an array: it does not count references to arrays, which takes longer than most loops.
    """
    return cast(Function, njit(**PART_OPTIONS)(function))


def readonly(kind: str, dimensions: int = 1) -> Any:
    """Type of a read-only array of any strides, such as a field of many headers."""
    return types.Array(KINDS[kind], dimensions, "A", readonly=True, aligned=False)


def writable(kind: str, dimensions: int = 1) -> Any:
    """Type of a writable array of any strides."""
    return types.Array(KINDS[kind], dimensions, "A", aligned=False)


def contiguous(kind: str, dimensions: int = 1) -> Any:
    """Type of a writable, C-contiguous array."""
    return types.Array(KINDS[kind], dimensions, "C")


def readonly_contiguous(kind: str, dimensions: int = 1) -> Any:
    """Type of a read-only, C-contiguous array."""
    return types.Array(KINDS[kind], dimensions, "C", readonly=True)
