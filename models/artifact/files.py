"""An artifact on disk: save and load, no pickle.

    Artifact (models/trained.py)  -> save ->  folder/model.json           names, shape, scaling, metrics
                                  <- load <-  folder/weights.safetensors

JSON and safetensors hold numbers and names only, so that loading runs nothing; all of it is checked even so.
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

from models.arrays import Floats
from models.artifact.artifact import Artifact, PredictionMode, check_bounds
from models.artifact.learning import Learning, parse_learning
from models.data.scaling import Column, Scaling
from models.errors import BadArtifact
from models.nets.lstm import weight_shapes

__all__ = ["Artifact", "BadArtifact", "Column", "PredictionMode", "Scaling", "load", "save"]

MAX_JSON_BYTES = 2**22
FORMAT = "carryover-artifact"
FORMAT_VERSION = 2
# In the order of writing: without model.json there is no artifact.
FILES = ("weights.safetensors", "model.json")
FIELDS = frozenset(
    (
        *("format", "version", "name", "inputs", "targets", "hidden_size", "num_layers", "predicts"),
        *("scaling", "target_scaling", "metrics", "fingerprint"),
    )
)
SINCE_2 = frozenset(("learning", "future", "time_features", "interval_seconds"))


def save(artifact: Artifact, folder: Path) -> None:
    """Write the artifact; a new folder appears whole or not at all.

    Over an older artifact the two files are replaced one by one (a mounted volume cannot be renamed): whoever
    reads between the two is refused by the fingerprint, never given a mixture.

    Raises
    ------
    BadArtifact
        If the folder holds something that is not an artifact.
    """
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder if folder.exists() else folder.parent
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=beside))
    try:
        fresh.chmod(0o755)
        _write(fresh / "weights.safetensors", safetensors.numpy.save(dict(artifact.weights)))
        description = json.dumps(_described(artifact), indent=2, allow_nan=False)
        _write(fresh / "model.json", f"{description}\n".encode())
        if not folder.exists():
            fresh.rename(folder)
        else:
            for file in FILES:
                (fresh / file).replace(folder / file)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Refuse to write an artifact among files that have nothing to do with one."""
    if folder.exists() and not folder.is_dir():
        raise BadArtifact(f"{folder} is no folder")
    if folder.exists() and not (folder / "model.json").exists() and any(folder.iterdir()):
        raise BadArtifact(f"{folder} is not empty and holds no artifact; choose another folder")


def load(folder: Path) -> Artifact:
    """Read an artifact, trusting nothing in it.

    Raises
    ------
    BadArtifact
        Names the folder and what is wrong: a missing, oversized, damaged or truncated file, an unknown
        version or field, shapes that do not match, a fingerprint that is not that of the contents.
    """
    try:
        told = _read_description(folder / "model.json")
        artifact = _assembled(told, folder / "weights.safetensors")
        if artifact.fingerprint != told["fingerprint"]:
            raise BadArtifact("fingerprint does not match the contents: damaged, or files of two artifacts")
    except BadArtifact as error:
        raise BadArtifact(f"{folder}: {error}") from error
    return artifact


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _described(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": artifact.name,
        "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
        "targets": list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "predicts": artifact.predicts,
        "scaling": _listed(artifact.scaling),
        "target_scaling": _listed(artifact.target_scaling),
        "learning": artifact.learning.as_dict(),
        "future": list(artifact.future),
        "time_features": list(artifact.time_features),
        "interval_seconds": artifact.interval_seconds,
        "metrics": dict(artifact.metrics),
        "fingerprint": artifact.fingerprint,
    }


def _listed(scaling: Scaling) -> dict[str, list[float]]:
    return {"mean": scaling.mean.tolist(), "std": scaling.std.tolist()}


def _read_bounded(path: Path, most: int) -> bytes:
    # Opened only when it is a plain file: a pipe or device of that name would block or never end.
    if not path.is_file():
        raise BadArtifact(f"{path.name} is missing")
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise BadArtifact(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise BadArtifact(f"{path.name} is larger than the {most} bytes that it can need")
    return content


def _read_description(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(_read_bounded(path, MAX_JSON_BYTES), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadArtifact):
            raise
        raise BadArtifact(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise BadArtifact(f"{path.name} does not describe a {FORMAT}")
    if type(told.get("version")) is not int or not 1 <= told["version"] <= FORMAT_VERSION:
        version = str(told.get("version"))[:40]
        raise BadArtifact(f"version {version} is unknown; this program reads 1 to {FORMAT_VERSION}")
    for odd in sorted((FIELDS | SINCE_2 if told["version"] > 1 else FIELDS) ^ set(told)):
        raise BadArtifact(f"{path.name} {'has an unknown field' if odd in told else 'lacks'} {odd[:80]!r}")
    return told


def _no_constant(word: str) -> NoReturn:
    raise BadArtifact(f"model.json holds {word}, which is not a number")


def _assembled(told: dict[str, Any], weights: Path) -> Artifact:
    inputs = tuple(_column(entry) for entry in _list(told, "inputs"))
    targets = tuple(_text(name, "targets") for name in _list(told, "targets"))
    hidden, layers = told["hidden_size"], told["num_layers"]
    learning = parse_learning(told["learning"]) if "learning" in told else Learning()
    check_bounds(hidden, layers, len(inputs), len(targets))
    if not isinstance(told["metrics"], dict):
        raise BadArtifact("metrics is not an object")
    return Artifact(
        name=_text(told["name"], "name"),
        inputs=inputs,
        targets=targets,
        hidden_size=hidden,
        num_layers=layers,
        scaling=_scaling(told["scaling"], "scaling"),
        target_scaling=_scaling(told["target_scaling"], "target_scaling"),
        weights=_read_weights(
            weights, weight_shapes(len(inputs), hidden, layers, len(targets), learning.rank)
        ),
        predicts=told["predicts"],
        learning=learning,
        future=_names(told, "future"),
        time_features=_names(told, "time_features"),
        interval_seconds=told.get("interval_seconds"),
        metrics=told["metrics"],
    )


def _list(told: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(told[key], list):
        raise BadArtifact(f"{key} is not a list")
    return list(told[key])


def _names(told: dict[str, Any], key: str) -> tuple[str, ...]:
    return tuple(_text(name, key) for name in _list(told, key)) if key in told else ()


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
    # The shape decides how long the file may be, so that a false one is refused before it fills memory.
    header = 4096 + 256 * len(shapes)
    content = _read_bounded(path, header + 4 * sum(prod(shape) for shape in shapes.values()))
    try:
        return dict(safetensors.numpy.load(content))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path.name} is damaged or truncated: {error}") from error
