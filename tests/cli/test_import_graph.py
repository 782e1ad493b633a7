"""`carryover import graph.onnx`: what it shows, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.cli import run
from models.artifact.files import load_any
from models.artifact.graphs.choices import Choices
from tests.helpers import graphs
from tests.helpers.onnx_files import counter, graph, node, written

ROW = ("float32", ["batch", 2])


@pytest.fixture
def file(tmp_path) -> Path:
    return written(tmp_path, counter())


def scaled(folder: Path) -> Path:
    """y = x * gain + h, h.next = y: a constant, a state, two numbers a step."""
    nodes = [
        node("Mul", ["x", "gain"], ["scaled"]),
        node("Add", ["scaled", "h"], ["y"]),
        node("Identity", ["y"], ["h.next"]),
    ]
    return written(
        folder, graph({"x": ROW, "h": ROW, "gain": ("float32", [])}, {"y": ROW, "h.next": ROW}, nodes)
    )


def test_a_graph_is_shown_with_what_is_proposed(file, capsys):
    assert run(["import", str(file)]) == 2
    shown = capsys.readouterr()
    assert "state   total       int64 [batch, 1]  from total.next ?" in shown.out
    assert "add --state total=total.next, or --no-more-states" in shown.err


def test_a_graph_whose_states_are_named_is_shown(file, capsys):
    assert run(["import", str(file), "--state", "total=total.next"]) == 0
    assert "to make an artifact of it, add --out FOLDER" in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == ["graph.onnx"]


def test_a_graph_is_imported_with_all_that_was_said_of_it(tmp_path, capsys):
    file, out = scaled(tmp_path), tmp_path / "models" / "scaled"
    np.savez(tmp_path / "initial.npz", h=np.array([1.0, 2]))
    np.savez(tmp_path / "sample.npz", value=np.ones((2, 2)), sum=np.array([[3.0, 4], [5, 6]]))
    given = ["--state", "h=h.next", "--constant", "gain=2", "--initial", str(tmp_path / "initial.npz")]
    given += ["--rename", "x=value", "--rename", "y=sum", "--range", "x=-5:5", "--kind", "y=logits"]
    given += ["--feedback", "x=y", "--verify", str(tmp_path / "sample.npz")]
    assert run(["import", str(file), "--out", str(out), *given]) == 0
    printed = capsys.readouterr().out
    assert "constant  gain" in printed
    assert "proved with onnxruntime" in printed
    assert "the sample's answers by 0" in printed
    assert "forecasts: yes, sum becomes the next value" in printed
    artifact = load_any(out)
    assert artifact.name == "scaled"
    assert artifact.signature.states[0].initial.tolist() == [1, 2]
    assert artifact.signature.constants[0].value == 2
    assert (artifact.inputs[0].name, artifact.inputs[0].range) == ("value", (-5, 5))
    assert (artifact.outputs[0].name, artifact.outputs[0].kind) == ("sum", "logits")
    assert artifact.feedback.observations == {"value": "sum"}

    assert run(["models", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "ONNX value [2] -> sum [2], 2 numbers of state" in shown
    assert "states       h.next -> h\n" in shown
    assert "forecasts    yes, sum becomes the next value\n" in shown
    assert run(["models", str(out.parent), "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["outputs"] == [{"name": "sum", "unit": None, "dtype": "float32", "shape": [2]}]
    assert document["states"] == [{"input": "h", "output": "h.next", "shape": [2]}]
    assert document["feedback"] == {"value": "sum"}


def test_a_sample_that_differs_leaves_nothing_behind(tmp_path, capsys):
    file, out = scaled(tmp_path), tmp_path / "scaled"
    np.savez(tmp_path / "sample.npz", x=np.ones((2, 2)), y=np.ones((2, 2)))
    given = ["--state", "h=h.next", "--constant", "gain=2", "--verify", str(tmp_path / "sample.npz")]
    assert run(["import", str(file), "--out", str(out), *given]) == 2
    assert f"{file}: output 'y' differs from the sample by 3" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--state", "total"], "is not TENSOR=..."),
        (["--constant", "x=low"], "'low' is not a number"),
        (["--shape", "x=2,two"], "'two' is not a whole number"),
        (["--range", "x=3"], "'' is not a number"),
        (["--kind", "y=song"], "'song' is none of number, probability, logits"),
        (["--columns", "a,b"], "--columns: is an option of a checkpoint"),
        (["--initial", "none.npz"], "none.npz cannot be read as arrays"),
        (["--triton", "none.pbtxt"], "none.pbtxt: cannot be read"),
        (["--state", "z=y"], "the graph has no input 'z'"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_graph_runs(file, given, message, capsys):
    assert run(["import", str(file), "--out", str(file.parent / "out"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (file.parent / "out").exists()


def test_options_of_graphs_are_refused_for_a_checkpoint(tmp_path, capsys):
    assert run(["import", str(tmp_path / "net.pt"), "--out", str(tmp_path), "--expose-state"]) == 2
    assert "--expose-state: is an option of an ONNX graph" in capsys.readouterr().err
    assert run(["import", str(tmp_path / "net.pt")]) == 2
    assert "--out: a checkpoint needs the folder to write to" in capsys.readouterr().err


def test_all_choices_reach_the_process_that_proves(tmp_path):
    from models.artifact.graphs import child
    from models.artifact.graphs.sandbox import Limits
    from models.nets.signature import Control

    choices = Choices(
        states={"h": "h.next"},
        initials={"h": np.array([1.5, 2], np.float32)},
        all_states=True,
        expose=True,
        free_batch=True,
        batch_axes={"h": 1},
        shapes={"x": (2, 3)},
        constants={"gain": np.array(16000)},
        controls={"START": Control("START", "start", "int32")},
        context={"x": 4},
        ranges={"x": (0, 7)},
        names={"x": "value"},
        kinds={"y": "logits"},
        ignore=("z",),
        feedback={"x": "y"},
    )
    child.write_request(tmp_path, b"graph", "name", choices, Limits())
    document = json.loads((tmp_path / child.REQUEST).read_text())
    read = child._choices(document["choices"])
    for name, value in vars(choices).items():
        assert repr(getattr(read, name)) == repr(value), name


LETTERS = "abcdefghijklmnopqrstuvwxyz .\n-"
OF_TEXT = ("--state", "h=h_out", "--state", "c=c_out", "--ignore", "best", "--ignore", "likely")


@pytest.fixture
def characters(tmp_path) -> Path:
    """The graph of an LSTM over tokens, and its vocabulary beside it."""
    (tmp_path / "graph.onnx").write_bytes(graphs.characters().graph)
    (tmp_path / "list.json").write_text(json.dumps(list(LETTERS)))
    tokens = {piece: token for token, piece in reversed(list(enumerate(LETTERS)))}
    (tmp_path / "object.json").write_text(json.dumps(tokens))
    return tmp_path / "graph.onnx"


def test_a_graph_with_a_vocabulary_becomes_a_model_of_text(characters, tmp_path, capsys):
    given = [*OF_TEXT, "--vocabulary", str(tmp_path / "object.json"), "--logits", "logits"]
    given += ["--rename", "logits=next", "--rename", "token=letter"]
    assert run(["import", str(characters), "--out", str(tmp_path / "out"), *given]) == 0
    printed = capsys.readouterr().out
    assert "proved with onnxruntime" in printed
    assert "ONNX letter -> next [30], 24 numbers of state, 30 pieces of text" in printed
    assert "forecasts: no, a session writes text" in printed
    artifact = load_any(tmp_path / "out")
    assert artifact.text.vocabulary.pieces == tuple(LETTERS)
    assert (artifact.text.token, artifact.text.logits, artifact.text.start) == ("letter", "next", 0)
    assert artifact.outputs[0].kind == "logits"
    document = json.loads((tmp_path / "out" / "model.json").read_text())
    assert document["feedback"] == {"letter": {"sample": "next"}}
    assert run(["models", str(tmp_path / "out")]) == 0
    assert "the next of 30 pieces of text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "pieces", "message"),
    [
        (["--logits", "logits"], None, "--logits: needs --vocabulary"),
        ([], LETTERS, "--vocabulary: needs --logits"),
        (["--logits", "none"], LETTERS, "the graph has no output 'none'"),
        (["--logits", "logits", "--feedback", "token=best"], LETTERS, "does not go with --vocabulary"),
        (["--logits", "logits"], LETTERS[:9], "'logits' has 30 numbers, the vocabulary has 9 pieces"),
        (["--logits", "logits"], [*LETTERS, "aa"], "takes 0 to 29; the vocabulary has the tokens 0 to 30"),
        (["--logits", "logits"], {"a": 0, "b": 2}, "the tokens of 2 pieces must be 0 to 1, each once"),
        (["--logits", "logits"], "aa", "vocabulary has a piece twice"),
        (["--logits", "logits"], 7, "neither a list of pieces nor an object"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(characters, tmp_path, given, pieces, message, capsys):
    if pieces is not None:
        document = list(pieces) if isinstance(pieces, str) else pieces
        (tmp_path / "pieces.json").write_text(json.dumps(document))
        given = ["--vocabulary", str(tmp_path / "pieces.json"), *given]
    assert run(["import", str(characters), "--out", str(tmp_path / "out"), *OF_TEXT, *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
