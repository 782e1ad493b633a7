"""`carryover import` and `carryover models`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import options

if TYPE_CHECKING:
    from models.artifact.files import Artifact


class Predicts(StrEnum):
    """What the network predicts."""

    level = "level"
    change = "change"


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(help="File written by torch.save(model.state_dict(), path).", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the artifact; an artifact there is replaced.", show_default=False
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name it is served under. [default: the folder's]")] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Names of the inputs. [default: value, or x0,x1,...]"),
    ] = None,
    units: Annotated[str | None, typer.Option(metavar="NAME=UNIT,...", help="Units of columns.")] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Names of the outputs. [default: those of the inputs, if their number is the same]",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,...", help="Number that training subtracted from each input. [default: zeros]"
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,...", help="Number by which training then divided each input. [default: ones]"
        ),
    ] = None,
    predicts: Annotated[
        Predicts, typer.Option(help="What the last layer predicts: the next value, or its change.")
    ] = Predicts.level,
    modules: Annotated[
        str | None,
        typer.Option(
            "--names",
            metavar="lstm=NAME,fc=NAME",
            help="What the class calls its nn.LSTM (or gru=, rnn=), nn.Linear and nn.Embedding. "
            "[default: lstm, gru or rnn; fc; embedding]",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="What `forward` computes of the hidden state, in order: names of nn.Linear, nn.LayerNorm, "
            "and relu, tanh, sigmoid, silu or gelu between them, such as fc.0,relu,fc.2. [default: fc]",
            show_default=False,
        ),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(
            metavar="SAMPLE.NPZ",
            help="Arrays `inputs` and `outputs` in the data's own units: rows, and what your code predicts. "
            "The import is refused if the artifact differs by more than 1e-4 (scaled).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make an artifact from the checkpoint of a class with one nn.LSTM, nn.GRU or nn.RNN and a head on it.

    The checkpoint is loaded with weights_only=True: no code in it is run. So the import does not see what
    `forward` does; --verify compares the artifact with your network.

    For example: carryover import net.pt --out artifacts/net --columns flow --mean 4.1 --std 0.7
    """
    from models.artifact.files import save
    from models.artifact.importer import CheckpointColumns, import_checkpoint
    from models.evaluation.verify import verify as verify_sample

    modules_by_role = options.parse_pairs(modules, "--names", "lstm=NAME,fc=NAME")
    artifact = import_checkpoint(
        checkpoint,
        options.artifact_name(name, out),
        CheckpointColumns(
            inputs=options.parse_names(columns) or None,
            units=options.parse_units(units),
            targets=options.parse_names(targets) or None,
            mean=options.parse_numbers(mean, "--mean"),
            std=options.parse_numbers(std, "--std"),
        ),
        predicts=predicts.value,
        modules=modules_by_role,
        head=options.parse_names(head),
    )
    difference = None if verify is None else verify_sample(artifact, verify)
    save(artifact, out)
    print(f"{out}: {_shape(artifact)}, fingerprint {artifact.fingerprint[:12]}")
    if difference is None:
        print(
            "note: the forward of your class is not in the checkpoint. The artifact is the head on the "
            "recurrent layers' output. To compare it with your network: --verify sample.npz",
            file=sys.stderr,
        )
    else:
        print(f"verified: the outputs of {verify} differ by at most {difference:.1g} (scaled)")
    print(f"serve it: carryover serve --models {out}")


def models(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="An artifact, or a folder of artifacts. [default: those shipped with Carryover]",
            show_default=False,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the artifacts in a folder, or show a single artifact. The error for a damaged artifact names it.

    For example: carryover models artifacts/pump
    """
    from app.config import SHIPPED_MODELS
    from models.artifact.files import load
    from models.errors import BadArtifact

    folder = folder or SHIPPED_MODELS
    found = (
        [folder]
        if (folder / "model.json").exists()
        else sorted(p.parent for p in folder.glob("*/model.json"))
    )
    if not found:
        raise BadArtifact(f"there is no artifact in {folder}; train one: carryover train --out {folder}/name")
    loaded = [load(path) for path in found]
    if as_json:
        documents = [_as_dict(artifact, path) for artifact, path in zip(loaded, found, strict=True)]
        print(json.dumps(documents[0] if found == [folder] else documents, indent=2))
    elif found == [folder]:
        _show(loaded[0])
    else:
        _list(loaded)


def _as_dict(artifact: Artifact, folder: Path) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "folder": str(folder),
        "fingerprint": artifact.fingerprint,
        "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
        "targets": list(artifact.targets),
        "hidden_size": artifact.hidden_size,
        "num_layers": artifact.num_layers,
        "architecture": artifact.architecture.as_dict(),
        "predicts": artifact.predicts,
        "metrics": dict(artifact.metrics),
    }


def _shape(artifact: Artifact) -> str:
    hidden = f"{artifact.hidden_size} x {artifact.num_layers}"
    layers = (artifact.input_size, hidden, *artifact.architecture.head, artifact.output_size)
    return f"{artifact.architecture.cell.upper()} {' -> '.join(map(str, layers))}"


def _show(artifact: Artifact) -> None:
    lines = {
        "name": artifact.name,
        "network": f"{_shape(artifact)}, predicts the {artifact.predicts}",
        "inputs": ", ".join(f"{c.name} [{c.unit}]" if c.unit else c.name for c in artifact.inputs),
        "targets": ", ".join(artifact.targets),
        "fingerprint": artifact.fingerprint,
    } | {key.replace("_", " "): json.dumps(value) for key, value in artifact.metrics.items()}
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key:{width}}  {value}")


def _list(artifacts: list[Artifact]) -> None:
    rows = [
        (artifact.name, _shape(artifact), ", ".join(artifact.targets), artifact.fingerprint[:12])
        for artifact in artifacts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
