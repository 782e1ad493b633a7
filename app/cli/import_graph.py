"""`carryover import graph.onnx`: the options of graphs, and what is printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models.wording import counted

if TYPE_CHECKING:
    from models.artifact.files import Artifact
    from models.artifact.graph_artifact import GraphArtifact, GraphText, Samples
    from models.artifact.graphs.choices import Choices

State = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN=OUT", help="Graph: an input that is a state, and the output that holds it after a call."
    ),
]
ExposeState = Annotated[
    bool,
    typer.Option(
        "--expose-state",
        help="Graph: turn the states inside LSTM, GRU and RNN nodes into inputs and outputs.",
    ),
]
NoMoreStates = Annotated[
    bool, typer.Option("--no-more-states", help="Graph: what looks like another state is none.")
]
Initial = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.NPZ", help="Graph: what sessions start from, an array by state. [default: zeros]"
    ),
]
FreeBatch = Annotated[
    bool,
    typer.Option("--free-batch", help="Graph: use an axis that is declared with the size 1 as the batch."),
]
BatchAxis = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR=AXIS", help="Graph: which axis of an input or state is the batch. [default: found]"
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR=N,N,...",
        help="Graph: the shape of one step of one session, where the graph leaves it open.",
    ),
]
Constant = Annotated[
    list[str] | None,
    typer.Option(metavar="TENSOR=NUMBER", help="Graph: an input that is always the same, as sr=16000."),
]
Context = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR=N",
        help="Graph: how many samples, or steps, before its own an input wants; the session keeps them.",
    ),
]
Range = Annotated[
    list[str] | None,
    typer.Option(
        "--range",
        metavar="TENSOR=LEAST:GREATEST",
        help="Graph: numbers that an input may hold. [default: the rows of an embedding]",
    ),
]
Rename = Annotated[
    list[str] | None,
    typer.Option(metavar="TENSOR=NAME", help="Graph: what clients call an input or output."),
]
Kind = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TENSOR=KIND", help="Graph: what an output's numbers are: number, probability or logits."
    ),
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="TENSOR", help="Graph: an output that is not served.")
]
Feedback = Annotated[
    list[str] | None,
    typer.Option(
        metavar="IN=OUT", help="Graph: the output that a forecast feeds back into this input. Repeat for all."
    ),
]
Rate = Annotated[
    int | None,
    typer.Option(
        metavar="HZ",
        help="Graph: samples a second. Sessions then take any number of samples, which become the frames of "
        "the graph's only input.",
    ),
]
Events = Annotated[
    str | None,
    typer.Option(
        metavar="OUTPUT",
        help="Graph with --rate: the output that is the probability of speech. Sessions then say where "
        "speech starts and ends.",
    ),
]
VocabularyFile = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        metavar="FILE.JSON",
        help="Graph with --logits: the text of each token, as a list, or as an object of tokens by text. "
        "Sessions then write text.",
    ),
]
Logits = Annotated[
    str | None,
    typer.Option(
        metavar="OUTPUT",
        help="Graph with --vocabulary: the output that the next token is drawn from, which is the graph's "
        "only input.",
    ),
]
Triton = Annotated[
    Path | None,
    typer.Option(
        metavar="CONFIG.PBTXT", help="Graph: take states and control inputs from Triton's configuration."
    ),
]


@dataclass(frozen=True)
class GraphOptions:
    """The options of graphs, as they were given."""

    state: list[str] | None = None
    expose_state: bool = False
    no_more_states: bool = False
    initial: Path | None = None
    free_batch: bool = False
    batch_axis: list[str] | None = None
    shape: list[str] | None = None
    constant: list[str] | None = None
    context: list[str] | None = None
    range: list[str] | None = None
    rename: list[str] | None = None
    kind: list[str] | None = None
    ignore: list[str] | None = None
    feedback: list[str] | None = None
    triton: Path | None = None
    rate: int | None = None
    events: str | None = None
    vocabulary: Path | None = None
    logits: str | None = None

    def given(self) -> list[str]:
        """The options that were given, by their names on the command line."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]


def import_graph(
    path: Path, out: Path | None, name: str | None, graph_options: GraphOptions, verify: Path | None
) -> None:
    """Show what is in the graph and, with a folder to write to, make the artifact."""
    from app.cli import options
    from models.artifact.folder import check_folder, read_bounded, write_folder
    from models.artifact.graph_artifact import MAX_GRAPH_BYTES, contents
    from models.artifact.graphs.choices import check_choices, table, text_choices
    from models.artifact.graphs.importer import import_graph as make_artifact
    from models.artifact.graphs.limits import parse_graph
    from models.artifact.graphs.triton import read_triton

    choices = _choices(graph_options)
    if graph_options.triton is not None:
        choices = read_triton(graph_options.triton, choices)
    model = parse_graph(read_bounded(path, MAX_GRAPH_BYTES))
    pieces = _pieces(graph_options)
    if pieces and graph_options.logits:
        choices = text_choices(model, choices, graph_options.logits, len(pieces))
    _print_table(table(model, choices))
    if out is None:
        check_choices(model, choices)
        print("to make an artifact of it, add --out FOLDER")
        return
    check_folder(out)
    samples = _samples(graph_options)
    artifact = make_artifact(path, options.artifact_name(name, out), choices, sample=verify)
    if samples is not None:
        artifact = replace(artifact, samples=samples)
    if pieces:
        artifact = replace(artifact, writing=_writing(artifact, graph_options.logits, pieces))
    write_folder(contents(artifact), out)
    print(f"{out}: {describe(artifact)}, fingerprint {artifact.fingerprint[:12]}")
    print(describe_proof(artifact))
    print(f"forecasts: {describe_feedback(artifact)}")
    print(f"serve it: carryover serve --models {out}")


def describe(artifact: GraphArtifact) -> str:
    """Inputs, outputs and the size of the state, in a line."""
    ports = [
        ", ".join(f"{port.name} {list(port.shape) or ''}".rstrip() for port in group)
        for group in (artifact.inputs, artifact.outputs)
    ]
    numbers = sum(state.initial.size for state in artifact.signature.states)
    frames = ""
    if artifact.samples is not None:
        size = counted(artifact.signature.inputs[0].size, "sample")
        frames = f", frames of {size} at {artifact.samples.rate} Hz"
    pieces = "" if artifact.text is None else f", {len(artifact.text.vocabulary)} pieces of text"
    return f"ONNX {ports[0]} -> {ports[1]}, {counted(numbers, 'number')} of state{frames}{pieces}"


def describe_feedback(artifact: GraphArtifact | Artifact) -> str:
    """Which output becomes the next value of which input, in a line."""
    if artifact.text is not None:
        return "no, a session writes text: a token is drawn and observed"
    if artifact.missing:
        return f"no, nothing becomes the next {', '.join(artifact.missing)}"
    pairs = [(name, source) for name, source in artifact.fed_back.items() if name != source]
    return ", ".join(["yes", *(f"{source} becomes the next {name}" for name, source in pairs)])


def describe_proof(artifact: GraphArtifact) -> str:
    """What the import measured, in a line."""
    labels = {
        "batch_alone": "sessions in a batch differ from sessions alone by at most",
        "chunked_whole": "chunks from the whole by",
        "verified": "the sample's answers by",
    }
    measured = [
        f"{label} {artifact.probed[key]:.1g}"
        for key, label in labels.items()
        if artifact.probed.get(key) is not None
    ]
    return f"proved with {artifact.probed['runtime']}: {', '.join(measured)}"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def _choices(given: GraphOptions) -> Choices:
    from models.artifact.graphs.choices import Choices

    return Choices(
        states=_pairs(given.state, "--state"),
        initials=_initials(given.initial),
        all_states=given.no_more_states,
        expose=given.expose_state,
        free_batch=given.free_batch,
        batch_axes={
            name: _whole(text, "--batch-axis") for name, text in _items(given.batch_axis, "--batch-axis")
        },
        shapes={
            name: tuple(_whole(size, "--shape") for size in text.split(",") if size)
            for name, text in _items(given.shape, "--shape")
        },
        constants={name: _number(text, "--constant") for name, text in _items(given.constant, "--constant")},
        context={name: _whole(text, "--context") for name, text in _items(given.context, "--context")},
        ranges={name: _bounds(text) for name, text in _items(given.range, "--range")},
        names=_pairs(given.rename, "--rename"),
        kinds={name: _kind(text) for name, text in _items(given.kind, "--kind")},
        ignore=tuple(given.ignore or ()),
        feedback=_pairs(given.feedback, "--feedback"),
    )


def _samples(given: GraphOptions) -> Samples | None:
    from models.artifact.graph_artifact import Samples, SpeechEvents

    if given.rate is None:
        if given.events is not None:
            raise typer.BadParameter("needs --rate", param_hint="--events")
        return None
    return Samples(given.rate, None if given.events is None else SpeechEvents(given.events))


def _pieces(given: GraphOptions) -> tuple[str, ...]:
    """The vocabulary; empty for a graph that is no model of text."""
    from models.artifact.graph_text import read_vocabulary

    for option, other in (("vocabulary", "logits"), ("logits", "vocabulary")):
        if getattr(given, option) is not None and getattr(given, other) is None:
            raise typer.BadParameter(f"needs --{other}", param_hint=f"--{option}")
    if given.vocabulary is not None and (given.rate is not None or given.feedback):
        wrong = "--feedback" if given.feedback else "--rate"
        raise typer.BadParameter("does not go with --vocabulary: a token is drawn", param_hint=wrong)
    return () if given.vocabulary is None else read_vocabulary(given.vocabulary)


def _writing(artifact: GraphArtifact, logits: str | None, pieces: tuple[str, ...]) -> GraphText:
    from models.artifact.graph_artifact import GraphText

    # Choices name the graph's tensors, an artifact the names that clients know.
    names = {port.tensor: port.name for port in artifact.outputs}
    return GraphText(names.get(logits or "", str(logits)), pieces)


def _items(given: Iterable[str] | None, option: str) -> list[tuple[str, str]]:
    # The last equals sign: names of tensors may hold one, what follows may not.
    items = [text.rpartition("=") for text in given or ()]
    for name, equals, value in items:
        if not (name and equals and value):
            raise typer.BadParameter(f"{name}{equals}{value} is not TENSOR=...", param_hint=option)
    return [(name, value) for name, _, value in items]


def _pairs(given: Iterable[str] | None, option: str) -> dict[str, str]:
    return dict(_items(given, option))


def _whole(text: str, option: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number", param_hint=option) from None


def _number(text: str, option: str) -> Any:
    import numpy as np

    try:
        return np.array(int(text) if text.lstrip("+-").isdecimal() else float(text))
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not a number", param_hint=option) from None


def _bounds(text: str) -> tuple[float, float]:
    least, _, greatest = text.partition(":")
    return _number(least, "--range").item(), _number(greatest, "--range").item()


def _kind(text: str) -> Any:
    from typing import get_args

    from models.nets.signature import OutputKind

    if text not in get_args(OutputKind):
        raise typer.BadParameter(
            f"{text!r} is none of {', '.join(get_args(OutputKind))}", param_hint="--kind"
        )
    return text


def _initials(path: Path | None) -> dict[str, Any]:
    import numpy as np

    from models.errors import BadArtifact

    if path is None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise BadArtifact(f"{path} cannot be read as arrays: {error}") from error
