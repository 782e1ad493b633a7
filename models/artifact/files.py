"""An artifact on disk: save and load, without pickle.

    Artifact       -> save ->      folder/model.json            names, shape, scaling, metrics
                   <- load <-      folder/weights.safetensors

    GraphArtifact  -> save ->      folder/model.json            inputs, states, outputs
                   <- load_any <-  folder/graph.onnx, initial.safetensors

JSON and safetensors hold numbers and names only, so that loading runs no code. Everything is checked.
"""

import json
from math import prod
from pathlib import Path
from typing import Any

import safetensors.numpy

from models.arrays import Floats
from models.artifact.artifact import LOGITS, Artifact, PredictionMode, check_bounds, weight_shapes
from models.artifact.fleet import SERIES, count_series, parse_fleet
from models.artifact.folder import FORMAT, read_description, read_tensors, write_folder
from models.artifact.graph_artifact import GRAPH_VERSION, GraphArtifact, contents
from models.artifact.graphs.graph_files import load_graph
from models.artifact.learning import Learning, parse_learning
from models.data.scaling import Column, Scaling
from models.errors import BadArtifact
from models.generation.vocabulary import check_pieces
from models.nets.architecture import Architecture, parse_architecture

__all__ = [
    "Artifact",
    "BadArtifact",
    "Column",
    "GraphArtifact",
    "PredictionMode",
    "Scaling",
    "load",
    "load_any",
    "save",
]

FORMAT_VERSION = 2
FIELDS = frozenset(
    (
        *("format", "version", "name", "inputs", "targets", "hidden_size", "num_layers", "predicts"),
        *("scaling", "target_scaling", "metrics", "fingerprint"),
    )
)
SINCE_2 = frozenset(("learning", "future", "time_features", "interval_seconds"))
OPTIONAL = frozenset(
    ("architecture", "vocabulary", "feedback", "fleet")
)  # written where it is not the default, so that older programs read on


def save(artifact: Artifact | GraphArtifact, folder: Path) -> None:
    """Write the artifact; see `write_folder`.

    Raises
    ------
    BadArtifact
        If the folder holds other files and no artifact.
    """
    write_folder(_contents(artifact), folder)


def load(folder: Path) -> Artifact:
    """Read and check an artifact of a network that Carryover has written out itself, not a graph.

    Raises
    ------
    BadArtifact
        Names the folder and what is wrong: a missing, oversized, damaged or truncated file, an unknown
        version or field, shapes that do not match, a fingerprint that does not match the contents; or that it
        is an ONNX graph.
    """
    artifact = load_any(folder)
    if isinstance(artifact, GraphArtifact):
        raise BadArtifact(
            f"{folder}: is an ONNX graph; an LSTM that Carryover has trained or imported is needed"
        )
    return artifact


def load_any(folder: Path) -> Artifact | GraphArtifact:
    """Read and check an artifact of any version.

    Raises
    ------
    BadArtifact
        As `load`.
    """
    try:
        description = read_description(folder / "model.json")
        if description["version"] == GRAPH_VERSION:
            return load_graph(description, folder)
        artifact = _build(description, folder / "weights.safetensors")
        if artifact.fingerprint != description["fingerprint"]:
            raise BadArtifact(
                "fingerprint does not match the contents: the files are damaged, or of two artifacts"
            )
    except BadArtifact as error:
        raise BadArtifact(f"{folder}: {error}") from error
    return artifact


def _contents(artifact: Artifact | GraphArtifact) -> dict[str, bytes]:
    """Files by name, in the order of writing: model.json, which makes the folder an artifact, is the last."""
    if isinstance(artifact, GraphArtifact):
        return contents(artifact)
    document = json.dumps(_describe(artifact), indent=2, allow_nan=False)
    arrays = {} if artifact.fleet is None else artifact.fleet.arrays()
    weights = safetensors.numpy.save({**artifact.weights, **arrays})
    return {"weights.safetensors": weights, "model.json": f"{document}\n".encode()}


def _describe(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": artifact.name,
        "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
        "targets": [LOGITS] if artifact.vocabulary else list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "predicts": artifact.predicts,
        "scaling": _scaling_lists(artifact.scaling),
        "target_scaling": _scaling_lists(_target_scaling(artifact)),
        "learning": artifact.learning.as_dict(),
        "future": list(artifact.future),
        "time_features": list(artifact.time_features),
        "interval_seconds": artifact.interval_seconds,
        **_architecture(artifact.architecture),
        **_text_fields(artifact),
        **({} if artifact.fleet is None else {"fleet": artifact.fleet.as_dict()}),
        "metrics": dict(artifact.metrics),
        "fingerprint": artifact.fingerprint,
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    return {} if architecture == Architecture() else {"architecture": architecture.as_dict()}


def _target_scaling(artifact: Artifact) -> Scaling:
    return artifact.target_scaling.pick([0]) if artifact.vocabulary else artifact.target_scaling


def _text_fields(artifact: Artifact) -> dict[str, Any]:
    """What says that the model is one of text: its only target is the logits of every piece."""
    if not artifact.vocabulary:
        return {}
    feedback = {artifact.columns[0]: {"sample": LOGITS}}
    return {"vocabulary": list(artifact.vocabulary), "feedback": feedback}


def _scaling_lists(scaling: Scaling) -> dict[str, list[float]]:
    return {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()}


def _build(description: dict[str, Any], weights: Path) -> Artifact:
    required, found = FIELDS, frozenset(description)
    if description["version"] > 1:
        required, found = FIELDS | SINCE_2, found - OPTIONAL
    for name in sorted(required ^ found):
        raise BadArtifact(
            f"model.json {'has an unknown field' if name in description else 'lacks'} {name[:80]!r}"
        )
    inputs = tuple(_column(entry) for entry in _list(description, "inputs"))
    targets = tuple(_text(name, "targets") for name in _list(description, "targets"))
    target_scaling = _scaling(description["target_scaling"], "target_scaling")
    vocabulary = _vocabulary(description, inputs, targets)
    if vocabulary:
        if len(target_scaling.mean) != 1:
            raise BadArtifact(
                f"target_scaling is over {len(target_scaling.mean)} columns, the logits are one"
            )
        targets, target_scaling = vocabulary, target_scaling.pick([0] * len(vocabulary))
    hidden, layers = description["hidden_size"], description["num_layers"]
    learning = parse_learning(description["learning"]) if "learning" in description else Learning()
    architecture = (
        parse_architecture(description["architecture"]) if "architecture" in description else Architecture()
    )
    check_bounds(architecture, len(inputs), hidden, layers, len(targets))
    if not isinstance(description["metrics"], dict):
        raise BadArtifact("metrics is not an object")
    shapes = weight_shapes(architecture, len(inputs), hidden, layers, len(targets), learning)
    if "fleet" in description:
        count = count_series(description["fleet"])
        shapes |= {SERIES + name: (count, len(inputs)) for name in ("mean", "std")}
    arrays = _read_weights(weights, shapes)
    fleet = parse_fleet(description["fleet"], arrays) if "fleet" in description else None
    return Artifact(
        name=_text(description["name"], "name"),
        inputs=inputs,
        targets=targets,
        hidden_size=hidden,
        num_layers=layers,
        scaling=_scaling(description["scaling"], "scaling"),
        target_scaling=target_scaling,
        weights={
            name: array for name, array in arrays.items() if fleet is None or not name.startswith(SERIES)
        },
        predicts=description["predicts"],
        learning=learning,
        future=_names(description, "future"),
        time_features=_names(description, "time_features"),
        interval_seconds=description.get("interval_seconds"),
        architecture=architecture,
        vocabulary=vocabulary,
        fleet=fleet,
        metrics=description["metrics"],
    )


def _list(description: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(description[key], list):
        raise BadArtifact(f"{key} is not a list")
    return list(description[key])


def _names(description: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(_text(name, key) for name in _list(description, key)) if key in description else ()


def _vocabulary(
    description: dict[str, Any], inputs: tuple[Column, ...], targets: tuple[str, ...]
) -> tuple[str, ...]:
    """The pieces of a model of text; none for any other model."""
    if "vocabulary" not in description and "feedback" not in description:
        return ()
    expected = {column.name: {"sample": LOGITS} for column in inputs}
    if "vocabulary" not in description or description.get("feedback") != expected or targets != (LOGITS,):
        raise BadArtifact(
            f"vocabulary belongs to feedback {json.dumps(expected)[:200]} and to targets [{LOGITS!r}]"
        )
    pieces = _list(description, "vocabulary")
    check_pieces(pieces)
    return tuple(pieces)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadArtifact(f"{what} is not text")
    return value


def _column(entry: Any) -> Column:
    if not isinstance(entry, dict) or set(entry) != {"name", "unit"}:
        raise BadArtifact("inputs has an entry that is not {name, unit}")
    unit = None if entry["unit"] is None else _text(entry["unit"], "a unit")
    return Column(_text(entry["name"], "a column name"), unit)


def _scaling(entry: Any, key: str) -> Scaling:
    if not isinstance(entry, dict) or set(entry) != {"mean", "std"}:
        raise BadArtifact(f"{key} is not {{mean, std}}")
    return Scaling(entry["mean"], entry["std"])


def _read_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Floats]:
    # The shape bounds the size of the file, so that a wrong file is refused before it fills memory.
    header = 4096 + 256 * len(shapes)
    return read_tensors(path, header + 4 * sum(prod(shape) for shape in shapes.values()))
