"""What runs in the child process: understands a graph, proves it, writes the artifact."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from models.artifact.graph_artifact import Feedback, GraphArtifact, contents
from models.artifact.graphs.choices import Choices
from models.artifact.graphs.limits import STANDARD_DOMAINS, parse_graph
from models.artifact.graphs.proof import prove, read_sample
from models.artifact.graphs.sandbox import ERROR_FILE, REFUSED, Limits
from models.artifact.graphs.shapes import understand
from models.errors import BadArtifact
from models.nets.signature import Control

REQUEST, GRAPH, SAMPLE, RESULT = "request.json", "graph.onnx", "sample.npz", "artifact"


def make_artifact(content: bytes, name: str, choices: Choices, sample: Path | None = None) -> GraphArtifact:
    """Understand, rewire and prove a graph.

    Raises
    ------
    BadArtifact
    """
    import onnx
    import onnxruntime

    model = parse_graph(content)
    try:
        onnx.checker.check_model(content)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise BadArtifact(f"the graph is not valid: {str(error).strip().splitlines()[0][:400]}") from error
    before = model.SerializeToString(deterministic=True)
    signature = understand(model, choices)
    after = model.SerializeToString(deterministic=True)
    # A graph that is not rewired stays the author's file, byte for byte.
    graph = content if after == before else after
    measured = prove(graph, signature, None if sample is None else read_sample(sample, signature))
    by_tensor = {port.tensor: port.name for port in (*signature.inputs, *signature.outputs)}
    pairs = {by_tensor[into]: by_tensor[out] for into, out in choices.feedback.items()}
    return GraphArtifact(
        name=name,
        graph=graph,
        opset=max(
            (entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), default=1
        ),
        signature=signature,
        feedback=Feedback(pairs) if pairs else None,
        probed={**measured, "runtime": f"onnxruntime {onnxruntime.__version__}"},
    )


def write_request(folder: Path, content: bytes, name: str, choices: Choices, limits: Limits) -> None:
    """Write what the child needs into the folder."""
    (folder / GRAPH).write_bytes(content)
    document = {"name": name, "choices": _encode(asdict(choices)), "limits": asdict(limits)}
    (folder / REQUEST).write_text(json.dumps(document), encoding="utf-8")


def main(place: str) -> None:
    """Work on the request in this folder; exit with `REFUSED` where something is wrong with the graph."""
    folder = Path(place)
    document = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    Limits(**document["limits"]).apply()
    sample = folder / SAMPLE
    try:
        artifact = make_artifact(
            (folder / GRAPH).read_bytes(),
            document["name"],
            _choices(document["choices"]),
            sample if sample.exists() else None,
        )
    except BadArtifact as error:
        (folder / ERROR_FILE).write_text(str(error), encoding="utf-8")
        sys.exit(REFUSED)
    (folder / RESULT).mkdir()
    for file, data in contents(artifact).items():
        (folder / RESULT / file).write_bytes(data)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "value": value.tolist()}
    if isinstance(value, dict):
        return {key: _encode(inner) for key, inner in value.items()}
    return value


def _choices(document: dict[str, Any]) -> Choices:
    known = {field.name for field in fields(Choices)}
    given = {key: value for key, value in document.items() if key in known}
    for key in ("initials", "constants"):
        tensors = given[key].items()
        given[key] = {name: np.array(entry["value"], entry["dtype"]) for name, entry in tensors}
    controls = given["controls"].items()
    given["controls"] = {
        name: Control(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in controls
    }
    for key in ("shapes", "ranges"):
        given[key] = {name: tuple(numbers) for name, numbers in given[key].items()}
    given["ignore"] = tuple(given["ignore"])
    return Choices(**given)
