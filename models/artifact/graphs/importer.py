"""Makes an artifact of an ONNX graph."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from models.artifact.folder import read_bounded, read_description
from models.artifact.graph_artifact import MAX_GRAPH_BYTES, GraphArtifact
from models.artifact.graphs.child import RESULT, SAMPLE, write_request
from models.artifact.graphs.choices import Choices, check_choices
from models.artifact.graphs.graph_files import load_graph
from models.artifact.graphs.limits import parse_graph
from models.artifact.graphs.sandbox import Limits, run_child
from models.errors import BadArtifact


def import_graph(
    path: Path, name: str, choices: Choices, *, sample: Path | None = None, limits: Limits | None = None
) -> GraphArtifact:
    """Read a graph, find out what its tensors are, prove it, and make an artifact of it.

    Nothing of the graph runs in this process.

    Parameters
    ----------
    path
        The .onnx file.
    choices
        What it cannot say of itself.
    sample
        An .npz with a stream and the answers of the author's code.

    Raises
    ------
    BadArtifact
        The message names the file, the tensor and the number.
    """
    try:
        content = read_bounded(path, MAX_GRAPH_BYTES)
        limits = limits or Limits.for_graph(len(content))
        check_choices(parse_graph(content), choices)
        with tempfile.TemporaryDirectory(prefix="carryover-import.") as place:
            folder = Path(place)
            write_request(folder, content, name, choices, limits)
            if sample is not None:
                _copy_sample(sample, folder)
            run_child(folder, limits)
            return load_graph(read_description(folder / RESULT / "model.json"), folder / RESULT)
    except BadArtifact as error:
        raise BadArtifact(f"{path}: {error}") from error


def _copy_sample(sample: Path, folder: Path) -> None:
    try:
        shutil.copyfile(sample, folder / SAMPLE)
    except OSError as error:
        raise BadArtifact(f"the sample {sample} cannot be read: {error.strerror}") from error
