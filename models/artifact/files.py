"""An artifact on disk: save and load, without pickle.

    Artifact       -> save ->      folder/model.json            names, shape, scaling, metrics
                   <- load <-      folder/weights.safetensors

    GraphArtifact  -> save ->      folder/model.json            inputs, states, outputs
                   <- load_any <-  folder/graph.onnx, initial.safetensors

JSON and safetensors hold numbers and names only, so that loading runs no code. Everything is checked.
"""

import json
import os
import shutil
import tempfile
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import safetensors.numpy
from safetensors import SafetensorError

from models.arrays import AnyArray, Floats
from models.artifact.artifact import Artifact, PredictionMode, check_bounds, weight_shapes
from models.artifact.graph_artifact import GRAPH_VERSION, MAX_GRAPH_BYTES, GraphArtifact, build, describe
from models.artifact.learning import Learning, parse_learning
from models.data.scaling import Column, Scaling
from models.errors import BadArtifact
from models.nets.architecture import Architecture, parse_architecture
from models.nets.signature import MAX_STATE_BYTES

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

MAX_JSON_BYTES = 2**22
FORMAT = "carryover-artifact"
FORMAT_VERSION = 2
FILES = ("weights.safetensors", "graph.onnx", "initial.safetensors", "model.json")
FIELDS = frozenset(
    (
        *("format", "version", "name", "inputs", "targets", "hidden_size", "num_layers", "predicts"),
        *("scaling", "target_scaling", "metrics", "fingerprint"),
    )
)
SINCE_2 = frozenset(("learning", "future", "time_features", "interval_seconds"))
OPTIONAL = frozenset(("architecture",))  # written where it is not the default, so that older programs read on


def save(artifact: Artifact | GraphArtifact, folder: Path) -> None:
    """Write the artifact; a new folder appears whole or not at all.

    In an existing folder the files are replaced one after the other (a mounted volume cannot be renamed).
    A reader in between gets an error, because the fingerprint does not match, and never a mixture.

    Raises
    ------
    BadArtifact
        If the folder holds other files and no artifact.
    """
    check_folder(folder)
    contents = _contents(artifact)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder if folder.exists() else folder.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=beside))
    try:
        temporary.chmod(0o755)
        for file, content in contents.items():
            _write(temporary / file, content)
        if not folder.exists():
            temporary.rename(folder)
        else:
            for file in contents:
                (temporary / file).replace(folder / file)
            for file in set(FILES) - set(contents):
                (folder / file).unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Refuse to write an artifact where there is a file, a folder of other files, or nothing can be written.

    Raises
    ------
    BadArtifact
    """
    if folder.exists() and not folder.is_dir():
        raise BadArtifact(f"{folder} is not a folder")
    if folder.exists() and not (folder / "model.json").exists() and any(folder.iterdir()):
        raise BadArtifact(f"{folder} is not empty and holds no artifact: choose another folder")
    check_writable(folder)


def check_writable(path: Path) -> None:
    """Refuse a path that cannot be created, or written to, before the work whose result it is to hold.

    Raises
    ------
    BadArtifact
    """
    existing = next(place for place in (path, *path.absolute().parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise BadArtifact(f"{path} cannot be written: {existing} is not a folder")
    if not os.access(existing, os.W_OK):
        raise BadArtifact(f"{path} cannot be written: there is no permission to write {existing}")


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
        description = _read_description(folder / "model.json")
        artifact = _build_any(description, folder)
        if artifact.fingerprint != description["fingerprint"]:
            raise BadArtifact(
                "fingerprint does not match the contents: the files are damaged, or of two artifacts"
            )
    except BadArtifact as error:
        raise BadArtifact(f"{folder}: {error}") from error
    return artifact


def _contents(artifact: Artifact | GraphArtifact) -> dict[str, bytes]:
    """Files by name, in the order of writing: a folder without model.json is not an artifact."""
    if isinstance(artifact, Artifact):
        files = {"weights.safetensors": safetensors.numpy.save(dict(artifact.weights))}
        document = _describe(artifact)
    else:
        files = {"graph.onnx": artifact.graph}
        if artifact.initial_tensors:
            files["initial.safetensors"] = safetensors.numpy.save(artifact.initial_tensors)
        document = describe(artifact)
    return files | {"model.json": f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode()}


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _describe(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": artifact.name,
        "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
        "targets": list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "predicts": artifact.predicts,
        "scaling": _scaling_lists(artifact.scaling),
        "target_scaling": _scaling_lists(artifact.target_scaling),
        "learning": artifact.learning.as_dict(),
        "future": list(artifact.future),
        "time_features": list(artifact.time_features),
        "interval_seconds": artifact.interval_seconds,
        **(
            {}
            if artifact.architecture == Architecture()
            else {"architecture": artifact.architecture.as_dict()}
        ),
        "metrics": dict(artifact.metrics),
        "fingerprint": artifact.fingerprint,
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    return {} if architecture == Architecture() else {"architecture": architecture.as_dict()}


def _scaling_lists(scaling: Scaling) -> dict[str, list[float]]:
    return {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()}


def _read_bounded(path: Path, most: int) -> bytes:
    # Only a plain file is opened: a pipe would block, a device might never end.
    if not path.is_file():
        raise BadArtifact(f"{path.name} is missing")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise BadArtifact(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise BadArtifact(f"{path.name} is larger than the {most} bytes that it may have")
    return content


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(_read_bounded(path, MAX_JSON_BYTES), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadArtifact):
            raise
        raise BadArtifact(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise BadArtifact(f"{path.name} does not describe a {FORMAT}")
    if type(description.get("version")) is not int or not 1 <= description["version"] <= GRAPH_VERSION:
        version = str(description.get("version"))[:40]
        raise BadArtifact(f"version {version} is unknown; this program reads versions 1 to {GRAPH_VERSION}")
    return description


def _no_constant(word: str) -> NoReturn:
    raise BadArtifact(f"model.json holds {word}, which is not a number")


def _build_any(description: dict[str, Any], folder: Path) -> Artifact | GraphArtifact:
    if description["version"] != GRAPH_VERSION:
        return _build(description, folder / "weights.safetensors")
    return build(
        description,
        lambda: _read_bounded(folder / "graph.onnx", MAX_GRAPH_BYTES),
        lambda: _read_tensors(folder / "initial.safetensors", MAX_STATE_BYTES + MAX_JSON_BYTES),
    )


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
    hidden, layers = description["hidden_size"], description["num_layers"]
    learning = parse_learning(description["learning"]) if "learning" in description else Learning()
    architecture = (
        parse_architecture(description["architecture"]) if "architecture" in description else Architecture()
    )
    check_bounds(architecture, len(inputs), hidden, layers, len(targets))
    if not isinstance(description["metrics"], dict):
        raise BadArtifact("metrics is not an object")
    return Artifact(
        name=_text(description["name"], "name"),
        inputs=inputs,
        targets=targets,
        hidden_size=hidden,
        num_layers=layers,
        scaling=_scaling(description["scaling"], "scaling"),
        target_scaling=_scaling(description["target_scaling"], "target_scaling"),
        weights=_read_weights(
            weights,
            weight_shapes(architecture, len(inputs), hidden, layers, len(targets), learning.rank),
        ),
        predicts=description["predicts"],
        learning=learning,
        future=_names(description, "future"),
        time_features=_names(description, "time_features"),
        interval_seconds=description.get("interval_seconds"),
        architecture=architecture,
        metrics=description["metrics"],
    )


def _list(description: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(description[key], list):
        raise BadArtifact(f"{key} is not a list")
    return list(description[key])


def _names(description: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(_text(name, key) for name in _list(description, key)) if key in description else ()


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
    return _read_tensors(path, header + 4 * sum(prod(shape) for shape in shapes.values()))


def _read_tensors(path: Path, most: int) -> dict[str, AnyArray]:
    content = _read_bounded(path, most)
    try:
        return dict(safetensors.numpy.load(content))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path.name} is damaged or truncated: {error}") from error
