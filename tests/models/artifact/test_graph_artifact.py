"""Artifacts of graphs: what is saved is what is loaded, and whatever is wrong is refused by its place."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.artifact.files import BadArtifact, load, load_any, save
from models.artifact.graph_artifact import Feedback, GraphArtifact, GraphText, Port, Signature, State, Steps
from models.nets.signature import Constant, Control
from tests.helpers import graphs
from tests.helpers.onnx_files import content, graph, node

LEFT_OUT = object()


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


FED = {
    "input": ("float32", ["batch", 576]),
    "token": ("int64", ["batch"]),
    "state": ("float32", [2, "batch", 128]),
    "h0": ("float16", ["batch", 3]),
    "START": ("int32", ["batch", 1]),
    "sr": ("int64", []),
    "gain": ("float32", ["batch", 2]),
}
FETCHED = {
    "output": ("float32", ["batch", 1]),
    "stateN": ("float32", [2, "batch", 128]),
    "h1": ("float16", ["batch", 3]),
}
GRAPH = content(
    graph(
        FED,
        FETCHED,
        [
            node("ReduceMean", ["input"], ["output"], axes=[1]),
            node("Identity", ["state"], ["stateN"]),
            node("Identity", ["h0"], ["h1"]),
        ],
    )
)


def voice_detector(**changes: Any) -> GraphArtifact:
    fields: dict[str, Any] = {
        "name": "silero-vad",
        "graph": GRAPH,
        "opset": 17,
        "signature": Signature(
            inputs=(
                Port("audio", "input", shape=(512,), context=64, wire="s16", scale=2**-15, unit="full scale"),
                Port("token", "token", "int64", range=(0, 99)),
            ),
            outputs=(Port("speech", "output", shape=(1,), kind="probability"),),
            states=(
                State("state", "stateN", zeros(2, 128), 1),
                State("h0", "h1", np.arange(3, dtype=np.float16)),
            ),
            constants=(Constant("sr", np.array(16000)), Constant("gain", np.ones(2, np.float32), 0)),
            controls=(Control("START", "start", "int32"),),
        ),
        "metrics": {"auc": 0.98},
        "probed": {"batch_alone": 0.0},
    }
    return GraphArtifact(**fields | changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(voice_detector(), tmp_path / "vad")
    return tmp_path / "vad"


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewrite(folder: Path, place: str, value: Any) -> None:
    """Replace what lies at `inputs.0.shape` in model.json."""
    document = json.loads((folder / "model.json").read_text())
    *path, last = [int(key) if key.isdecimal() else key for key in place.split(".")]
    inner = document
    for key in path:
        inner = inner[key]
    if value is LEFT_OUT:
        del inner[last]
    else:
        inner[last] = value
    (folder / "model.json").write_text(json.dumps(document))


def test_what_is_saved_is_loaded(folder):
    saved, loaded = voice_detector(), load_any(folder)
    assert isinstance(loaded, GraphArtifact)
    assert listed(folder) == ["graph.onnx", "initial.safetensors", "model.json"]
    assert (loaded.name, loaded.graph, loaded.opset) == (saved.name, saved.graph, saved.opset)
    assert (loaded.inputs, loaded.outputs) == (saved.inputs, saved.outputs)
    assert (loaded.metrics, loaded.probed) == (saved.metrics, saved.probed)
    assert loaded.signature.controls == saved.signature.controls
    for ours, theirs in zip(loaded.signature.states, saved.signature.states, strict=True):
        assert (ours.tensor, ours.next_tensor, ours.dtype) == (
            theirs.tensor,
            theirs.next_tensor,
            theirs.dtype,
        )
        assert ours.batch_axis == theirs.batch_axis
        assert (ours.initial == theirs.initial).all()
    rate, gain = loaded.signature.constants
    assert (rate.value.dtype, rate.value.shape, rate.value) == (np.int64, (), 16000)
    assert (gain.value.tolist(), gain.batch_axis) == ([1, 1], 0)
    assert loaded.fingerprint == saved.fingerprint


def test_a_document_written_by_hand_may_leave_out_what_has_a_default(tmp_path):
    """The example of the documentation, and nothing beside it."""
    signature = Signature(
        inputs=(Port("audio", "input", shape=(512,), context=64),),
        outputs=(Port("speech", "output", shape=(1,), kind="probability"),),
        states=(State("state", "stateN", zeros(2, 128), 1),),
        constants=(Constant("sr", np.array(16000)),),
    )
    fed = {name: FED[name] for name in ("input", "state", "sr")}
    fetched = {name: FETCHED[name] for name in ("output", "stateN")}
    nodes = [node("ReduceMean", ["input"], ["output"], axes=[1]), node("Identity", ["state"], ["stateN"])]
    save(voice_detector(graph=content(graph(fed, fetched, nodes)), signature=signature), tmp_path / "vad")
    document = json.loads((tmp_path / "vad" / "model.json").read_text())
    fingerprint = document["fingerprint"]
    for key in ("controls", "feedback", "sampling", "scaling"):
        del document[key]
    for key in ("unit", "columns", "range", "wire", "scale", "batch_axis"):
        del document["inputs"][0][key]
    (tmp_path / "vad" / "model.json").write_text(json.dumps(document))
    loaded = load_any(tmp_path / "vad")
    assert loaded.fingerprint == fingerprint
    assert loaded.inputs == signature.inputs


def test_the_fingerprint_covers_what_decides_a_prediction_and_nothing_else():
    first = voice_detector()
    same = voice_detector(name="other", metrics={}, probed={"runtime": "1.0"})
    audio, token = first.inputs
    same = replace(same, signature=replace(first.signature, inputs=(replace(audio, unit="V"), token)))
    assert same.fingerprint == first.fingerprint
    state, _ = first.signature.states
    changed = [
        voice_detector(graph=b"other bytes"),
        voice_detector(signature=replace(first.signature, inputs=(replace(audio, context=32), token))),
        voice_detector(signature=replace(first.signature, constants=(Constant("sr", np.array(8000)),))),
        voice_detector(signature=replace(first.signature, states=(state, State("h0", "h1", zeros(3))))),
        voice_detector(
            signature=replace(
                first.signature, states=(state, State("h0", "h1", np.array([0, 1, 3], np.float16)))
            )
        ),
        voice_detector(
            signature=replace(first.signature, steps=Steps(emits="last")),
        ),
    ]
    assert len({first.fingerprint, *(artifact.fingerprint for artifact in changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("net", "python", "net must be 'onnx', not 'python'"),
        ("opset", "16", "opset must be a whole number"),
        ("opset", LEFT_OUT, "model.json lacks 'opset'"),
        ("surprise", 1, "model.json has an unknown field 'surprise'"),
        ("name", "../up", "name '../up' must be"),
        ("name", 3, "name is not text"),
        ("graph_sha256", "0" * 64, "graph.onnx is not the file of this model.json"),
        ("sampling", {"seed": 1}, "sampling must be null"),
        ("scaling", {}, "scaling must be null"),
        ("metrics", [], "metrics is not an object"),
        ("inputs", [], "inputs: there must be 1 to 64, not 0"),
        ("inputs", {}, "inputs is not a list"),
        ("inputs.0", 5, "inputs[0] is not an object"),
        ("inputs.0.name", "", "inputs[0]: a name must be text of 1 to 256 characters"),
        ("inputs.0.dtype", "float64", "inputs[0]: 'audio': dtype must be one of float32"),
        ("inputs.0.dtype", ["float32"], "inputs[0]: 'audio': dtype must be one of"),
        ("inputs.0.shape", [0], "inputs[0]: 'audio': the shape [0] must be"),
        ("inputs.0.shape", [True], "inputs[0]: 'audio': the shape [True] must be"),
        ("inputs.0.shape", [2**20], "inputs[0]: 'audio' has more than 1048576 bytes a step"),
        ("inputs.0.shape", 512, "inputs[0].shape is not a list"),
        ("inputs.0.batch_axis", 2, "'audio': batch_axis 2 of a tensor with 2 axes"),
        ("inputs.0.batch_axis", -1, "inputs[0]: 'audio': batch_axis must be a whole number"),
        ("inputs.0.context", -1, "inputs[0]: 'audio': context must be a whole number"),
        ("inputs.0.columns", ["a"], "'audio' names 1 columns, a step has 512 numbers"),
        ("inputs.1.range", [5, 1], "inputs[1]: 'token': range must be"),
        ("inputs.1.range", [0, "9"], "inputs[1]: 'token': range must be"),
        ("inputs.0.wire", "mp3", "inputs[0]: 'audio': wire must be one of"),
        ("inputs.0.scale", 0, "inputs[0]: 'audio': scale must be a number other than 0"),
        ("inputs.0.tensor", "token", "the graph's input 'token' is used twice"),
        ("inputs.0.name", "token", "inputs: the name 'token' is used twice"),
        ("outputs.0.context", 1, "outputs[0] has an unknown field 'context'"),
        ("outputs.0.kind", "song", "outputs[0]: 'speech': kind must be one of"),
        ("state.0.initial", 1e99, "state[0].initial: 1e+99 does not fit into float32"),
        ("state.0.initial", "zero", "state[0].initial: 'zero' is not a number"),
        ("state.0.initial", {"tensor": "x"}, "state[0].initial: initial.safetensors has no tensor 'x'"),
        ("state.1.initial", 0, "fingerprint does not match"),
        ("state.1.initial", {"tensor": "h0", "at": 1}, "state[1].initial has an unknown field 'at'"),
        ("state.1.shape", [4], "state[1].initial: the tensor 'h0' is float16 [3], not float16 [4]"),
        ("state.0.shape", [2**30, 2**30], "the states have more than"),
        ("state.0.in", 4, "state[0].in is not text"),
        ("state.0.batch_axis", 3, "state[0]: state 'state': batch_axis must be a whole number from 0 to 2"),
        ("constants.sr", 16000, "constants.sr is not an object"),
        ("constants.sr.value", 1.5, "constants.sr: 1.5 does not fit into int64"),
        ("constants.sr.value", [[1], [2, 3]], "constants.sr: '[[1], [2, 3]]' is not a tensor of numbers"),
        ("controls.0.kind", "stop", "controls[0]: control 'START': kind must be one of start, ready, end"),
        ("steps.per_call", 7, "steps: per_call must be one of None, 1, not '7'"),
        ("steps.per_call", None, "steps: any number of steps a call needs a time axis"),
        ("steps.axis", 0, "'audio': axis 0 of its 3 axes cannot be the time"),
        ("steps.emits", "never", "steps: emits must be one of each, last"),
        ("steps", None, "steps is not an object"),
        ("feedback", {"observations": {}}, "feedback: input 'audio' needs the name of an output"),
        (
            "feedback",
            {"observations": {"audio": "speech", "token": "speech"}},
            "'speech' has 1 numbers, input",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(folder, place, value, message):
    rewrite(folder, place, value)
    with pytest.raises(BadArtifact) as caught:
        load_any(folder)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("file", ["graph.onnx", "initial.safetensors", "model.json"])
def test_a_missing_or_cut_file_is_refused_by_name(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-2])
    with pytest.raises(BadArtifact, match=file.replace(".", r"\.")):
        load_any(folder)
    (folder / file).unlink()
    with pytest.raises(BadArtifact, match=f"{file} is missing"):
        load_any(folder)


def test_a_tensor_that_no_state_uses_is_refused_by_name(folder):
    state, learnt = voice_detector().signature.states
    two = voice_detector(
        signature=replace(
            voice_detector().signature, states=(state, learnt, replace(learnt, tensor="h2", next_tensor="h3"))
        )
    )
    save(two, folder)
    rewrite(folder, "state.2.initial", 0)
    with pytest.raises(BadArtifact, match="has a tensor 'h2' that no state uses"):
        load_any(folder)


def test_a_change_that_fits_is_caught_by_the_fingerprint(folder):
    rewrite(folder, "constants.sr.value", 8000)
    with pytest.raises(BadArtifact, match="fingerprint does not match"):
        load_any(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda signature: replace(signature, constants=()), "the graph's input 'gain' is not described"),
        (
            lambda signature: replace(signature, outputs=(Port("y", "other"),)),
            "the graph has no output 'other'",
        ),
        (
            lambda signature: replace(signature, controls=(Control("start", "start"),)),
            "the graph has no input 'start'",
        ),
        (
            lambda signature: replace(signature, controls=(Control("START", "start"),)),
            "tensor 'START' is int32 in the graph, not float32",
        ),
        (
            lambda signature: replace(signature, constants=(Constant("sr", np.array(16000, np.int32)),)),
            "is not described",
        ),
    ],
)
def test_a_graph_with_other_tensors_is_refused_by_name(tmp_path, change, message):
    artifact = voice_detector()
    save(replace(artifact, signature=change(artifact.signature)), tmp_path / "vad")
    with pytest.raises(BadArtifact, match=message):
        load_any(tmp_path / "vad")


def test_a_graph_is_no_artifact_for_a_command_that_needs_an_lstm(folder):
    with pytest.raises(BadArtifact, match="is an ONNX graph"):
        load(folder)


def test_an_artifact_of_another_kind_takes_the_folder_and_leaves_nothing_behind(tmp_path):
    native = load_any(Path("models/zoo/sine"))
    save(voice_detector(), tmp_path / "model")
    save(native, tmp_path / "model")
    assert listed(tmp_path / "model") == ["model.json", "weights.safetensors"]
    assert load(tmp_path / "model").fingerprint == native.fingerprint
    save(voice_detector(), tmp_path / "model")
    assert listed(tmp_path / "model") == ["graph.onnx", "initial.safetensors", "model.json"]


def test_a_feedback_survives_and_a_graph_with_a_start_takes_one_step_a_call():
    signature = Signature(
        inputs=(Port("x", "x", shape=(1,)),),
        outputs=(Port("y", "y", shape=(1,)),),
        states=(State("h", "h1", zeros(4)),),
        steps=Steps(1, None),
    )
    artifact = voice_detector(signature=signature, feedback=Feedback({"x": "y"}))
    assert artifact.signature.steps.any_number
    with pytest.raises(BadArtifact, match="takes one step a call"):
        replace(signature, controls=(Control("START", "start"),))
    with pytest.raises(BadArtifact, match="there is no input 'z'"):
        replace(artifact, feedback=Feedback({"x": "y", "z": "y"}))


def of_text(**changes: Any) -> GraphArtifact:
    pieces = tuple("abcdefghijklmnopqrstuvwxyz .\n-")
    return replace(
        graphs.characters(), **({"feedback": None, "writing": GraphText("logits", pieces)} | changes)
    )


def test_a_model_of_text_is_loaded_as_it_was_saved(tmp_path):
    artifact = of_text()
    save(artifact, tmp_path / "a")
    loaded = load_any(tmp_path / "a")
    assert loaded.writing == artifact.writing
    assert loaded.fingerprint == artifact.fingerprint
    pieces = artifact.writing.vocabulary
    others = [graphs.characters(), of_text(writing=GraphText("logits", pieces[::-1]))]
    assert artifact.fingerprint not in {other.fingerprint for other in others}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback": Feedback({"token": "best"})}, "no other feedback"),
        ({"writing": GraphText("best", ("a", "b"))}, "the output 'best' has 1 numbers"),
        ({"writing": GraphText("none", ("a", "b"))}, "no output 'none' to draw a token from"),
        ({"writing": GraphText("logits", ("a",))}, "must have 2 to"),
    ],
)
def test_what_cannot_be_a_model_of_text_is_refused(changes, message):
    with pytest.raises(BadArtifact, match=message):
        of_text(**changes)


def test_text_needs_a_token_as_the_only_input():
    with pytest.raises(BadArtifact, match="has one input, the token; this graph has audio, token"):
        voice_detector(writing=GraphText("speech", ("a", "b")))
    with pytest.raises(BadArtifact, match=r"the input 'x' is float32 \[2\]"):
        replace(graphs.gru(), feedback=None, writing=GraphText("y", ("a", "b")))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("feedback", None, "feedback of a model with a vocabulary must be as"),
        ("feedback", {"token": {"sample": 3}}, "feedback of a model with a vocabulary must be as"),
        ("vocabulary", "abc", "vocabulary is not a list"),
        ("vocabulary", ["a", ""], "vocabulary.1. must be text"),
        ("vocabulary", None, "feedback"),
    ],
)
def test_a_wrong_document_of_a_model_of_text_is_refused(tmp_path, field, value, message):
    save(of_text(), tmp_path)
    document = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(document | {field: value}))
    with pytest.raises(BadArtifact, match=message):
        load_any(tmp_path)
