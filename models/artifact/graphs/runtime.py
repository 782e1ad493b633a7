"""onnxruntime as the import uses it: one thread, and its errors as ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.arrays import AnyArray
from models.errors import BadArtifact
from models.installation import install_command

FATAL_ONLY = 4


def open_session(graph: bytes) -> Any:
    """Load a graph.

    Raises
    ------
    BadArtifact
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BadArtifact(f"ONNX graphs need: {install_command('onnx')}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no class of their own
        raise BadArtifact(f"onnxruntime does not load the graph: {first_line(error)}") from error


def run(session: Any, names: Sequence[str] | None, feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
    """Compute outputs, all of them without names.

    Raises
    ------
    BadArtifact
    """
    try:
        return list(session.run(names, dict(feeds)))
    except Exception as error:  # the runtime's errors have no class of their own
        raise BadArtifact(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What an error says, without what the runtime says of its own source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[-400:]


def noise(
    random: np.random.Generator, dtype: str, shape: tuple[int, ...], bounds: tuple[float, float] | None
) -> AnyArray:
    """Numbers that an input may hold: around 0 for floats, small or within its bounds otherwise."""
    kind = np.dtype(dtype).kind
    if kind == "b":
        return random.integers(0, 2, shape).astype(dtype)
    if kind in "iu":
        least, greatest = bounds or (0, 1)
        return random.integers(int(least), int(min(greatest, 2**62)) + 1, shape).astype(dtype)
    if bounds is not None:
        return random.uniform(*bounds, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)
