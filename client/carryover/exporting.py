"""Makes an artifact of a PyTorch module: `carryover.export`.

    module, example -> trace -> graph.onnx + a sample of its answers -> `carryover import` -> artifact

The export runs where the network was trained, with its code. What goes to the server is a graph and numbers:
`carryover import` proves that the graph gives the module's own answers, and that sessions and chunks do not
change them. It needs PyTorch, and the package carryover-server with the extra `onnx`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carryover.errors import ExportError
from carryover.tracing import TracedModule, trace

if TYPE_CHECKING:
    from torch import nn


def export(
    module: nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    inputs: int = 1,
    batch_axis: int = 0,
    time_axis: int | str | None = "auto",
    name: str | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Make a proved artifact of a PyTorch module.

    Parameters
    ----------
    module
        Called as `y = module(x)`, with an `nn.LSTM`, `nn.GRU`, `nn.RNN` or their cells inside, whose state it
        need not return; or as `y, state = module(x, state)`, where the state may be tuples of tensors.
    example
        What the module is called with: `x`, or `(x, state)`. The state of its first row is what a session
        starts from.
    path
        Folder for the artifact.
    inputs
        How many of the arguments are observations; the others are states.
    batch_axis, time_axis
        Of the observations. By default the time follows the batch, or precedes it where `batch_axis` is 1.
        None: a call is one step, which is the default for numbers of two axes and whole numbers of one.
    name
        What the model is called on the server; by default the folder's name.
    options
        More options of `carryover import`, such as `["--range", "token=0:127"]`.

    Returns
    -------
    The folder.

    Raises
    ------
    ExportError
        PyTorch or the server's package is missing, the module cannot be traced, or the graph is refused: the
        message says by which tensor and number.
    """
    if importlib.util.find_spec("carryover_server") is None:
        raise ExportError(
            "the proof needs the server's package, carryover-server, with its extra onnx, beside this client"
        )
    traced = trace(module, example, inputs=inputs, batch_axis=batch_axis, time_axis=time_axis)
    with tempfile.TemporaryDirectory(prefix="carryover-export.") as place:
        words = _write(traced, Path(place))
        command = [sys.executable, "-m", "carryover_server", "import", *words, "--out", str(path), *options]
        done = subprocess.run(
            [*command, *(("--name", name) if name else ())], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise ExportError((done.stderr.strip() or done.stdout.strip())[-2000:])
    return Path(path)


def _write(traced: TracedModule, folder: Path) -> list[str]:
    """Write the files of an import, and say its options."""
    import numpy as np

    (folder / "graph.onnx").write_bytes(traced.graph)
    np.savez(folder / "sample.npz", **traced.sample)
    words = [str(folder / "graph.onnx"), "--verify", str(folder / "sample.npz")]
    for name, axis in traced.batch_axes.items():
        words += ["--batch-axis", f"{name}={axis}"]
    words.append("--no-more-states")
    if not traced.states:
        return words if traced.stateless else [*words, "--expose-state"]
    np.savez(folder / "initial.npz", **traced.initial)
    words += ["--initial", str(folder / "initial.npz")]
    for before, after in traced.states.items():
        words += ["--state", f"{before}={after}"]
    return words
