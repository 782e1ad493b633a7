"""Check an imported artifact against the outputs of the user's own network, as the service would serve it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.arrays import AnyArray, Doubles, Floats
from models.artifact.artifact import Artifact
from models.errors import BadArtifact, BadData
from models.forecaster import Forecaster

TOLERANCE = 1e-4  # scaled units
MAX_BYTES = 2**30


@dataclass(frozen=True)
class Sample:
    """Inputs and the user's own outputs for them, both in the data's own units.

    inputs : [sequences, steps, inputs]; each sequence starts from a zero state
    outputs : [sequences, steps, outputs], of what follows each input; or [sequences, 1, outputs], of what
        follows the last
    """

    inputs: Doubles
    outputs: Doubles


def verify(artifact: Artifact, path: Path) -> float:
    """Compare an artifact with a sample, and return the largest difference, in scaled units.

    Parameters
    ----------
    path
        An .npz file with the arrays `inputs`, [steps, inputs] or [sequences, steps, inputs], and `outputs`,
        one row for each step or for each sequence.

    Raises
    ------
    BadData
        The sample does not fit the artifact.
    BadArtifact
        An output differs by more than `TOLERANCE`.
    """
    sample = read_sample(artifact, path)
    compared, steps = sample.outputs.shape[1], sample.inputs.shape[1]
    served = _serve(artifact, sample.inputs)[:, -compared:]
    differences = np.abs(served - sample.outputs) / artifact.target_scaling.std
    largest = float(differences.max())
    if not largest <= TOLERANCE:
        at = np.unravel_index(differences.argmax(), differences.shape)
        sequence = f" of sequence {at[0] + 1}" if len(differences) > 1 else ""
        raise BadArtifact(
            f"{path}, step {at[1] + 1 + steps - compared}{sequence}: the artifact gives {served[at]:.6g} for "
            f"{artifact.targets[at[2]]!r}, your network {sample.outputs[at]:.6g}. The artifact is the linear "
            "layer of the LSTM's output: your forward may do more, or the scaling, the order of the columns "
            "or --predicts may differ"
        )
    return largest


def read_sample(artifact: Artifact, path: Path) -> Sample:
    """Read inputs and outputs, and check their shapes.

    Raises
    ------
    BadData
        The file is damaged or does not fit the artifact.
    """
    arrays = _read_arrays(path)
    inputs, outputs = (_numbers(path, name, arrays[name]) for name in ("inputs", "outputs"))
    if inputs.ndim < 3:
        inputs = _as_rows(inputs, artifact.input_size)[None]
        outputs = _as_rows(outputs, artifact.output_size)[None]
    elif outputs.ndim == 2:
        per_step = artifact.output_size == 1 and outputs.shape == inputs.shape[:2]
        outputs = outputs[..., None] if per_step else outputs[:, None]
    sequences, steps = inputs.shape[:2]
    fitting = [(sequences, length, artifact.output_size) for length in (steps, 1)]
    if inputs.shape[2:] != (artifact.input_size,) or outputs.shape not in fitting:
        raise BadData(
            f"{path}: {_shapes(arrays)} do not fit a model of {artifact.input_size} inputs and "
            f"{artifact.output_size} outputs: expected are [steps, inputs] and [steps, outputs], or the same "
            "for each sequence"
        )
    if steps < 2 or not sequences:
        raise BadData(f"{path}: a sample needs at least 2 steps: the first does not depend on the carry")
    return Sample(inputs, outputs)


def _serve(artifact: Artifact, inputs: Doubles) -> Doubles:
    """What sessions of the service answer, [sequences, steps, outputs]."""
    forecaster = Forecaster(artifact)
    sequences, steps = inputs.shape[:2]
    observations: Floats = inputs.reshape(sequences * steps, -1).astype(np.float32)
    carries = np.repeat(forecaster.new_carry[None], sequences, axis=0)
    predictions, _ = forecaster.advance(observations, np.full(sequences, steps), carries)
    return predictions.astype(np.float64).reshape(sequences, steps, -1)


def _read_arrays(path: Path) -> dict[str, AnyArray]:
    if not path.is_file():
        raise BadData(f"{path} is not a file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise BadData(f"{path} holds more than {MAX_BYTES} bytes: a few hundred steps are enough")
        with np.load(path, allow_pickle=False) as arrays:
            for name in ("inputs", "outputs"):
                if name not in arrays.files:
                    raise BadData(f"{path} has no array {name!r}: np.savez(path, inputs=..., outputs=...)")
            return {name: arrays[name] for name in ("inputs", "outputs")}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path} is damaged or not NPZ: {error}") from error


def _shapes(arrays: dict[str, AnyArray]) -> str:
    return " and ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _numbers(path: Path, name: str, array: AnyArray) -> Doubles:
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise BadData(f"{path}: {name} must be finite numbers")
    return array.astype(np.float64)


def _as_rows(values: Doubles, size: int) -> Doubles:
    """[steps, size]; a series of one column may be flat."""
    return values[:, None] if values.ndim == 1 and size == 1 else values
