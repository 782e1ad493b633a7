"""`carryover train --text`: what is printed and written, and what is refused before the training begins."""

import json
import re

import numpy as np
import pytest
import torch

from app.cli import run
from models.artifact.files import load
from models.training.text_training import TextTraining

torch.set_num_threads(1)

QUICK = ("--epochs", "1", "--hidden", "8", "--embedding", "4", "--learning-rate", "0.02")


@pytest.fixture(scope="module")
def poem(tmp_path_factory):
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("text") / "poem.txt"
    lines = ["床前明月光，\n", "疑是地上霜。\n", "舉頭望明月，\n", "低頭思故鄉。\n"]
    path.write_text("".join(lines[line] for line in rng.integers(4, size=300)), encoding="utf-8")
    return path


def failed(capsys, *arguments: str) -> tuple[int, str]:
    status = run(["train", *map(str, arguments)])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("carryover: ")
    return status, error


def test_a_text_is_learned_with_samples_on_the_way_and_compared_with_n_grams(poem, tmp_path, capsys):
    out = tmp_path / "poem"
    assert run(["train", "--text", str(poem), "--out", str(out), "--cell", "gru", *QUICK]) == 0
    shown = capsys.readouterr()
    assert re.search(r"kept part, 210 characters: perplexity [\d.]+, \d-grams [\d.]+, single", shown.out)
    assert "serve it: carryover serve --models" in shown.out
    assert re.search("[床前明月光，疑是地上霜。舉頭望低思故鄉]{5}", shown.err)
    artifact = load(out)
    assert (artifact.name, artifact.hidden_size, artifact.architecture.cell) == ("poem", 8, "gru")
    assert set("床前明月光，\n") < set(artifact.vocabulary)
    assert artifact.metrics["data"]["source"] == "poem.txt"  # and no folder of the machine
    assert json.loads((out / "metrics.json").read_text())["fingerprint"] == artifact.fingerprint


def test_one_that_is_no_better_than_n_grams_is_named_and_one_of_no_use_fails(poem, tmp_path, capsys):
    arguments = ["train", "--text", str(poem), "--out", str(tmp_path / "poem"), "--json", *QUICK]
    assert run([*arguments, "--learning-rate", "1e-9"]) == 1
    shown = capsys.readouterr()
    assert re.search(r"no better than \d-grams on the kept part: perplexity [\d.]+, theirs", shown.err)
    assert "no better than the frequencies of characters" in shown.err
    report = json.loads(shown.out)
    assert report["text"]["perplexity"] > report["text"]["frequency_perplexity"]


@pytest.mark.parametrize(
    "others",
    [
        ["readings.csv"], ["--columns", "a"], ["--predicts", "change"], ["--head", "4"], ["--gaps"],
        ["--recipe", "textbook"], ["--horizons", "1,2"], ["--levels", "0.5"], ["--split", "1,0,0"],
        ["--closed-loop", "3"], ["--unscaled"],
    ],
    ids=lambda others: others[0],
)  # fmt: skip
def test_options_of_tables_are_refused_beside_a_text(poem, capsys, others):
    status, error = failed(capsys, "--text", poem, *others)
    assert status == 2
    assert "is for tables, so it does not go with --text" in error


@pytest.mark.parametrize("option", [("--embedding", "8"), ("--min-count", "2"), ("--bfloat16",)])
def test_options_of_texts_are_refused_beside_a_table(option, capsys):
    status, error = failed(capsys, *option)
    assert (status, "is for --text only" in error) == (2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cell", "lmu"], "--cell"),
        (["--piece", "2000"], "piece 2000 is too long"),
        (["--hidden", "1000000"], "hidden_size"),
        (["--name", "a/b"], "name 'a/b'"),
        (["--encoding", "ascii"], "is not text in ascii"),
        (["--min-count", "1000"], "fewer than two different characters"),
        (["--learning-rate", "0"], "learning_rate must be above 0"),
    ],
)
def test_what_cannot_work_is_refused_before_the_training(
    poem, tmp_path, capsys, monkeypatch, options, message
):
    monkeypatch.setattr(TextTraining, "run_round", lambda training: pytest.fail("it was trained"))
    out = tmp_path / "out"
    status, error = failed(capsys, "--text", poem, "--out", out, *options)
    assert (status, message in error, out.exists()) == (2, True, False), error


def test_a_folder_of_other_things_is_refused_before_the_training(poem, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TextTraining, "run_round", lambda training: pytest.fail("it was trained"))
    (tmp_path / "thesis.txt").write_text("mine")
    status, error = failed(capsys, "--text", poem, "--out", tmp_path)
    assert (status, "holds no artifact" in error) == (2, True)


def test_ctrl_c_keeps_the_best_weights_and_the_training_goes_on_later(poem, tmp_path, capsys, monkeypatch):
    run_round = TextTraining.run_round

    def interrupted(training):
        if training.history:
            raise KeyboardInterrupt
        return run_round(training)

    out = tmp_path / "poem"
    arguments = ["train", "--text", str(poem), "--out", str(out), *QUICK, "--epochs", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(TextTraining, "run_round", interrupted)
        assert run(arguments) == 0
    stopped = "stopped after round 1; its best weights are kept; continue with --resume"
    assert stopped in capsys.readouterr().err
    assert load(out).metrics["epochs"] == 1
    assert run([*arguments, "--resume"]) == 0
    assert "continuing after round 1\n" in capsys.readouterr().err
    assert load(out).metrics["epochs"] == 2
    assert not (tmp_path / "poem.checkpoint").exists()
