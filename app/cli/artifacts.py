"""`carryover import` and `carryover models`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import import_graph as graphs
from app.cli import options
from app.cli.fields import print_fields

if TYPE_CHECKING:
    from models.artifact.files import Artifact, GraphArtifact
    from models.nets.signature import Port


class Predicts(StrEnum):
    """What the network predicts."""

    level = "level"
    change = "change"


def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="An ONNX graph (.onnx), or a file written by torch.save(model.state_dict(), path).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the artifact; an artifact there is replaced. Without it, a graph is only shown.",
            show_default=False,
        ),
    ] = None,
    name: options.Name = None,
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
            "The import is refused if the artifact differs by more than 1e-4 (scaled). For a graph with "
            "several inputs or outputs: arrays by their names.",
            show_default=False,
        ),
    ] = None,
    state: graphs.State = None,
    expose_state: graphs.ExposeState = False,
    no_more_states: graphs.NoMoreStates = False,
    initial: graphs.Initial = None,
    free_batch: graphs.FreeBatch = False,
    batch_axis: graphs.BatchAxis = None,
    shape: graphs.Shape = None,
    constant: graphs.Constant = None,
    context: graphs.Context = None,
    number_range: graphs.Range = None,
    rename: graphs.Rename = None,
    kind: graphs.Kind = None,
    ignore: graphs.Ignore = None,
    feedback: graphs.Feedback = None,
    triton: graphs.Triton = None,
    rate: graphs.Rate = None,
    events: graphs.Events = None,
    vocabulary: graphs.VocabularyFile = None,
    logits: graphs.Logits = None,
) -> None:
    """Make an artifact of an ONNX graph, or of the checkpoint of a class with an nn.LSTM, nn.GRU or nn.RNN.

    A graph is proved in a child process with limits on memory and time: sessions must not see each other, and
    chunks must not matter. Without --out its inputs and outputs are shown.

    A checkpoint is loaded with weights_only=True: no code in it is run. So the import does not see what
    `forward` does; --verify compares the artifact with your network.

    For example: carryover import vad.onnx --out artifacts/vad --state state=stateN --constant sr=16000

    For example: carryover import net.pt --out artifacts/net --columns flow --mean 4.1 --std 0.7
    """
    graph_options = graphs.GraphOptions(
        state=state,
        expose_state=expose_state,
        no_more_states=no_more_states,
        initial=initial,
        free_batch=free_batch,
        batch_axis=batch_axis,
        shape=shape,
        constant=constant,
        context=context,
        range=number_range,
        rename=rename,
        kind=kind,
        ignore=ignore,
        feedback=feedback,
        triton=triton,
        rate=rate,
        events=events,
        vocabulary=vocabulary,
        logits=logits,
    )
    if checkpoint.suffix == ".onnx":
        given = {
            "--columns": columns,
            "--units": units,
            "--targets": targets,
            "--mean": mean,
            "--std": std,
            "--names": modules,
            "--head": head,
        }
        _refuse([option for option, value in given.items() if value], "a checkpoint")
        graphs.import_graph(checkpoint, out, name, graph_options, verify)
        return
    _refuse(graph_options.given(), "an ONNX graph, a file that ends in .onnx")
    if out is None:
        raise typer.BadParameter("a checkpoint needs the folder to write to", param_hint="--out")
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


def _refuse(given: list[str], owner: str) -> None:
    if given:
        raise typer.BadParameter(f"is an option of {owner}", param_hint=given[0])


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
    from models.artifact.files import load_any
    from models.artifact.folder import artifact_folders
    from models.errors import BadArtifact

    folder = folder or SHIPPED_MODELS
    found = artifact_folders(folder)
    if not found:
        raise BadArtifact(f"there is no artifact in {folder}; train one: carryover train --out {folder}/name")
    loaded = [load_any(path) for path in found]
    if as_json:
        documents = [_as_dict(artifact, path) for artifact, path in zip(loaded, found, strict=True)]
        print(json.dumps(documents[0] if found == [folder] else documents, indent=2))
    elif found == [folder]:
        _show(loaded[0])
    else:
        _list(loaded)


def _as_dict(artifact: Artifact | GraphArtifact, folder: Path) -> dict[str, Any]:
    from models.artifact.files import Artifact

    document: dict[str, Any] = {
        "name": artifact.name,
        "folder": str(folder),
        "fingerprint": artifact.fingerprint,
    }
    if isinstance(artifact, Artifact):
        document |= {
            "inputs": [{"name": column.name, "unit": column.unit} for column in artifact.inputs],
            "targets": list(artifact.targets),
            "hidden_size": artifact.hidden_size,
            "num_layers": artifact.num_layers,
            "architecture": artifact.architecture.as_dict(),
            "predicts": artifact.predicts,
        }
    else:
        document |= {
            "inputs": [_port(port) for port in artifact.inputs],
            "outputs": [_port(port) for port in artifact.outputs],
            "states": [
                {"input": state.tensor, "output": state.next_tensor, "shape": list(state.shape)}
                for state in artifact.states
            ],
            "probed": dict(artifact.probed),
        }
    return document | {"feedback": artifact.fed_back, "metrics": dict(artifact.metrics)}


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "unit": port.unit, "dtype": port.dtype, "shape": list(port.shape)}


def _shape(artifact: Artifact | GraphArtifact) -> str:
    from models.artifact.files import Artifact

    if not isinstance(artifact, Artifact):
        return graphs.describe(artifact)
    hidden = f"{artifact.hidden_size} x {artifact.num_layers}"
    layers = (artifact.input_size, hidden, *artifact.architecture.head, artifact.output_size)
    return f"{artifact.architecture.cell.upper()} {' -> '.join(map(str, layers))}"


def _targets(artifact: Artifact | GraphArtifact) -> str:
    from models.artifact.files import Artifact

    if artifact.text is not None:
        return f"the next of {len(artifact.text.vocabulary)} pieces of text"
    if isinstance(artifact, Artifact):
        return ", ".join(artifact.targets)
    return ", ".join(port.name for port in artifact.outputs)


def _show(artifact: Artifact | GraphArtifact) -> None:
    from models.artifact.files import Artifact

    predicts = f", predicts the {artifact.predicts}" if isinstance(artifact, Artifact) else ""
    lines = {
        "name": artifact.name,
        "network": f"{_shape(artifact)}{predicts}",
        "inputs": ", ".join(f"{c.name} [{c.unit}]" if c.unit else c.name for c in artifact.inputs),
        "targets": _targets(artifact),
        "states": ", ".join(f"{state.next_tensor} -> {state.tensor}" for state in artifact.states),
        "forecasts": graphs.describe_feedback(artifact),
        "fingerprint": artifact.fingerprint,
    }
    print_fields({**{name: text for name, text in lines.items() if text}, **artifact.metrics})


def _list(artifacts: list[Artifact | GraphArtifact]) -> None:
    rows = [
        (artifact.name, _shape(artifact), _targets(artifact), artifact.fingerprint[:12])
        for artifact in artifacts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
