"""Reads the folder of a graph's artifact, without what networks of other kinds need."""

from pathlib import Path
from typing import Any

from models.artifact.folder import MAX_JSON_BYTES, read_bounded, read_tensors
from models.artifact.graph_artifact import MAX_GRAPH_BYTES, GraphArtifact, build
from models.artifact.graphs.limits import check_graph
from models.errors import BadArtifact
from models.nets.signature import MAX_STATE_BYTES


def load_graph(description: dict[str, Any], folder: Path) -> GraphArtifact:
    """Read and check a graph's artifact.

    Parameters
    ----------
    description
        The document of its model.json.

    Raises
    ------
    BadArtifact
    """
    artifact = build(
        description,
        lambda: read_bounded(folder / "graph.onnx", MAX_GRAPH_BYTES),
        lambda: read_tensors(folder / "initial.safetensors", MAX_STATE_BYTES + MAX_JSON_BYTES),
    )
    if artifact.fingerprint != description["fingerprint"]:
        raise BadArtifact(
            "fingerprint does not match the contents: the files are damaged, or of two artifacts"
        )
    check_graph(artifact.graph, artifact.signature)
    return artifact
