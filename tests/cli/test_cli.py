"""The command line: what people type, what is printed, and the exit status."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from app.cli import run
from models.artifact.files import load
from models.artifact.learning import Learning
from models.data.calendar import PERIODS
from models.nets.architecture import Architecture
from models.training.checkpoint import save_checkpoint
from models.training.recipe import Recipe
from tests.helpers.paths import ROOT

torch.set_num_threads(1)

COMMANDS = ("train", "evaluate", "import", "models")
QUICK = ("--epochs", "3", "--hidden", "4", "--patience", "0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "wave"
    assert run(["train", "--out", str(folder), *QUICK]) == 0
    return folder


@pytest.fixture
def csv(tmp_path) -> Path:
    rng, path = np.random.default_rng(0), tmp_path / "pump.csv"
    hours = np.datetime64("2024-01-01T00", "h") + np.arange(200) * np.timedelta64(1, "h")
    rows = [f"{hour},{a:.3f},{b:.3f}" for hour, (a, b) in zip(hours, rng.normal(size=(200, 2)), strict=True)]
    path.write_text("\n".join(["date,flow,pressure", *rows]) + "\n")
    return path


def failed(capsys, *arguments: str) -> tuple[int, str]:
    status = run(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("carryover: ")
    return status, captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_for_itself_and_each_option(command, capsys):
    assert run([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "For example: carryover" in text
    options = re.split(r"\n  (?=-)", text.partition("Options:")[2])[1:]
    assert all(re.search(r"[a-z]{3,}.*\.", option.split("  ", 1)[-1], re.S) for option in options)


def test_the_help_of_train_names_every_time_feature(capsys):
    assert run(["train", "--help"]) == 0
    assert ", ".join(PERIODS) in " ".join(capsys.readouterr().out.split())


def test_help_imports_neither_torch_nor_pydantic():
    heavy = "{'torch', 'pydantic'} & set(sys.modules)"
    program = f"import sys; from app.cli import run; run(['--help']); print(len({heavy}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert all(command in done.stdout for command in COMMANDS)


def test_the_textbook_recipe_prints_the_loss_of_each_epoch(tmp_path, capsys):
    assert run(["train", "--recipe", "textbook", "--out", str(tmp_path / "textbook")]) == 0
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines if line.startswith("epoch")]
    assert len(losses) == 10
    assert losses[-1] < 5e-5
    report = json.loads((tmp_path / "textbook" / "metrics.json").read_text())
    assert (report["recipe"]["streams"], report["recipe"]["piece"], report["recipe"]["learning_rate"]) == (
        1,
        50,
        0.01,
    )
    assert report["data"]["split"] == {"train": 1000, "validation": 0, "test": 0}


def test_a_model_is_trained_from_a_file_evaluated_and_listed(csv, tmp_path, capsys):
    out = tmp_path / "pump"
    assert run(["train", str(csv), "--out", str(out), "--units", "flow=l/s", *QUICK]) == 0
    assert "see" in capsys.readouterr().out
    artifact = load(out)
    assert (artifact.name, artifact.columns, artifact.targets) == (
        "pump",
        ("flow", "pressure"),
        ("flow", "pressure"),
    )
    assert artifact.inputs[0].unit == "l/s"
    assert artifact.metrics["data"]["source"] == "pump.csv"  # and no folder of the machine it was trained on
    figure = tmp_path / "evaluation.png"
    assert run(["evaluate", str(out), str(csv), "--figure", str(figure), "--by-target"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("MSE", "MAE", "RMSE", "MASE", "skill", "persistence", "flow [l/s]"))
    assert figure.exists()
    assert run(["models", str(tmp_path)]) == 0
    assert artifact.fingerprint[:12] in capsys.readouterr().out
    assert run(["models", str(out)]) == 0
    assert artifact.fingerprint in capsys.readouterr().out


def test_time_features_are_computed_in_training_and_in_evaluation(csv, tmp_path, capsys):
    out = tmp_path / "pump"
    given = ["--columns", "flow", "--time-features", "hour_of_day"]
    assert run(["train", str(csv), "--out", str(out), *given, *QUICK]) == 0
    assert (load(out).columns, load(out).targets) == (
        ("flow", "hour_of_day_sin", "hour_of_day_cos"),
        ("flow",),
    )
    capsys.readouterr()
    assert run(["evaluate", str(out), str(csv), "--no-figure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 30


def test_a_learning_model_is_trained_and_compared_with_the_frozen_network(csv, tmp_path, capsys):
    out, figure = tmp_path / "pump", tmp_path / "x.png"
    given = [
        "--recipe",
        "drifting",
        "--time-features",
        "hour_of_day",
        "--forgetting",
        "0.99",
        "--epochs",
        "2",
    ]
    assert run(["train", str(csv), "--out", str(out), *given, "--hidden", "4", "--judge-every", "1"]) == 0
    assert "as its sessions learn: MSE" in capsys.readouterr().out
    learning = load(out).learning
    assert (learning.readout, learning.inputs, learning.forgetting) == ("rls", True, 0.99)
    assert (len(learning.spread), learning.growth[0]) == (len(learning.levels), 1.0)
    drawing = ["--figure", str(figure), "--draw", "pressure", "--drawn", "20", "--level", "0.8"]
    assert run(["evaluate", str(out), str(csv), *drawing]) == 0
    report = capsys.readouterr().out
    assert all(
        word in report for word in ("network, frozen", "online AR", "intervals", "most surprising: 20")
    )
    assert figure.exists()
    assert run(["evaluate", str(out), str(csv), "--no-figure", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [band["level"] for band in report["intervals"]] == list(learning.levels)
    assert all(
        0 <= place["first_row"] - report["first_row"] < report["rows"] for place in report["surprises"]
    )
    assert run(["evaluate", str(out), str(csv), "--draw", "flux"]) == 2
    assert "'flux' is not a target of the model; its targets are flow, pressure" in capsys.readouterr().err


def test_sessions_that_learn_horizons_are_trained_and_their_forecasts_evaluated(csv, tmp_path, capsys):
    out = tmp_path / "ahead"
    given = ["--horizons", "1,4", "--season", "6"]
    assert run(["train", str(csv), "--out", str(out), *given, *QUICK]) == 0
    artifact = load(out)
    assert (artifact.learning.horizons, artifact.learning.season) == ((1, 4), 6)
    assert artifact.learning.levels == (0.5, 0.8, 0.9, 0.95, 0.99)
    assert "horizons.readouts" in artifact.weights
    capsys.readouterr()
    assert run(["evaluate", str(out), str(csv), "--no-figure", "--horizons", "4,1"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("direct AR", "NLinear", "step 1", "step 4", "farthest forecast"))
    assert run(["evaluate", str(out), str(csv), "--no-figure", "--horizons", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecasts"]["horizons"] == [4]
    assert run(["evaluate", str(out), str(csv), "--no-figure", "--horizons", "0"]) == 2
    assert run(["train", str(csv), "--out", str(out), "--horizons", "2,4", *QUICK]) == 2
    assert "horizons must ascend from 1" in capsys.readouterr().err


def test_one_network_of_many_series_is_trained_and_evaluated_for_each_of_them(csv, tmp_path, capsys):
    _, *rows = csv.read_text().splitlines()
    long = tmp_path / "long.csv"
    cells = [row.split(",") for row in rows]
    lines = [f"{pump},{time},{float(flow) * pump}" for pump in (1, 50) for time, flow, _ in cells]
    long.write_text("\n".join(["unique_id,ds,y", *lines]) + "\n")
    out = tmp_path / "pumps"
    assert run(["train", str(long), "--out", str(out), *QUICK]) == 0
    assert "one network of 2 series" in capsys.readouterr().out
    artifact = load(out)
    assert artifact.fleet.names == ("1", "50")
    np.testing.assert_allclose(artifact.fleet.std[1], 50 * artifact.fleet.std[0], rtol=1e-3)
    other = tmp_path / "other.csv"
    other.write_text("\n".join(["ds,y,remark", *(f"{time},{flow},x" for time, flow, _ in cells)]) + "\n")
    files = [str(long), str(other), "--ignore", "remark"]
    assert run(["evaluate", str(out), *files]) == 2
    assert "no column 'remark'" in capsys.readouterr().err
    assert run(["evaluate", str(out), str(long), str(other), "--horizons", "2"]) == 0
    printed = capsys.readouterr().out
    assert "other *" in printed
    assert "found its own scale" in printed
    assert run(["evaluate", str(out), str(long), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["series"] for each in document["by_series"]] == ["1", "50"]
    status, error = failed(capsys, "train", str(long), "--out", str(out), "--minutes", "1")
    assert (status, "single series" in error) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--future", "flwo"], "'flwo' of --future is not an input; the inputs are flow, pressure"),
        (["--future", "flow,pressure"], "no column is left to predict"),
        (["--future", "flow", "--horizons", "1,6"], "a direct forecast ignores flow"),
    ],
)
def test_columns_that_are_known_ahead_are_checked_before_the_training(words, said, csv, tmp_path, capsys):
    status, error = failed(capsys, "train", str(csv), "--out", str(tmp_path / "x"), *words, *QUICK)
    assert status == 2
    assert said in error
    assert "loss" not in error
    assert not (tmp_path / "x.checkpoint").exists()


def test_a_column_of_text_is_refused_with_what_may_be_done_about_it(tmp_path, capsys):
    table = tmp_path / "all.csv"
    table.write_text("pump,flow\n" + "".join(f"pump-{i // 40},{i}\n" for i in range(80)))
    status, error = failed(capsys, "train", str(table), "--out", str(tmp_path / "x"))
    assert status == 2
    assert "row 1, column 'pump': 'pump-0' is not a number" in error
    assert "--series-column pump" in error
    assert "--ignore pump" in error


def test_a_text_in_place_of_a_table_is_refused_with_the_option_for_texts(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_text("The sea\n\nO, for a horse, a horse, and wings\nThat I may fly\n" * 20)
    status, error = failed(capsys, "train", str(text), "--out", str(tmp_path / "x"))
    assert status == 2
    assert f"--text {text}" in error


def test_a_file_with_gaps_is_trained_on_and_evaluated_with_the_option_gaps(csv, tmp_path, capsys):
    lines = csv.read_text().splitlines()
    for row in (5, 60, 180, 190):
        cells = lines[row].split(",")
        lines[row] = ",".join(["", *cells[1:]] if "-" not in cells[0] else [cells[0], "", *cells[2:]])
    csv.write_text("\n".join(lines) + "\n")
    out = tmp_path / "pump"
    assert run(["train", str(csv), "--out", str(out), *QUICK]) == 2
    assert "row 5, column 'flow': an empty cell is not a number; with --gaps" in capsys.readouterr().err
    assert run(["train", str(csv), "--out", str(out), "--gaps", "--levels", "0.9", *QUICK]) == 0
    figure = tmp_path / "x.png"
    assert run(["evaluate", str(out), str(csv), "--gaps", "--figure", str(figure)]) == 0
    assert "nan" not in capsys.readouterr().out


def test_columns_known_in_advance_are_inputs_and_not_predicted(csv, tmp_path, capsys):
    out = tmp_path / "pump"
    given = ["--future", "pressure", "--levels", "0.9", "--readout", "gain"]
    assert run(["train", str(csv), "--out", str(out), *given, *QUICK]) == 0
    artifact = load(out)
    assert (artifact.targets, artifact.future) == (("flow",), ("pressure",))
    assert (artifact.learning.readout, artifact.learning.levels) == ("gain", (0.9,))
    assert "free_run" in artifact.metrics
    assert run(["train", str(csv), "--out", str(out), "--future", "flux", *QUICK]) == 2
    assert "'flux' of --future is not an input; the inputs are flow, pressure" in capsys.readouterr().err
    assert run(["train", str(csv), "--out", str(out), "--levels", "0.9,0.5", *QUICK]) == 2
    assert "levels must ascend" in capsys.readouterr().err


def test_evaluate_uses_the_part_that_training_did_not_see(trained, capsys):
    assert run(["evaluate", str(trained), "--no-figure", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["first_row"], report["rows"]) == (850, 150)
    assert run(["evaluate", str(trained), "--no-figure", "--json", "--split", "100,0,50"]) == 0
    assert json.loads(capsys.readouterr().out)["first_row"] == 100


def test_evaluating_on_training_rows_prints_a_note(trained, tmp_path, capsys):
    evaluate = ["--no-figure", "--json"]
    assert run(["evaluate", str(trained), *evaluate, "--split", "100,0,50"]) == 0
    assert "note: the model was trained on the rows before 700" in capsys.readouterr().err
    out = tmp_path / "untested"
    assert run(["train", "--out", str(out), "--split", "0.9,0.1,0", *QUICK]) == 0
    capsys.readouterr()
    assert run(["evaluate", str(out), *evaluate]) == 0
    captured = capsys.readouterr()
    assert (json.loads(captured.out)["first_row"], captured.err) == (900, "")


def test_json_is_one_document_and_nothing_else(trained, tmp_path, capsys):
    assert run(["models", str(trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "wave"
    assert run(["models", str(trained.parent), "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["wave"]
    assert run(["train", "--out", str(tmp_path / "x"), "--json", *QUICK]) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 3


def test_a_checkpoint_is_imported(trained, tmp_path, capsys):
    torch.save(load(trained).network().state_dict(), tmp_path / "net.pt")
    out = tmp_path / "net"
    given = ["--columns", "flow", "--units", "flow=l/s", "--mean", "1", "--std", "2"]
    assert run(["import", str(tmp_path / "net.pt"), "--out", str(out), *given]) == 0
    assert load(out).columns == ("flow",)
    assert load(out).scaling.std[0] == 2
    assert str(out) in capsys.readouterr().out


def test_an_import_is_verified_with_the_users_own_outputs_or_says_that_it_was_not(trained, tmp_path, capsys):
    network = load(trained).network()
    state = {name.replace("lstm.", "rnn."): weight for name, weight in network.state_dict().items()}
    torch.save(state, tmp_path / "net.pt")
    inputs = np.random.default_rng(0).normal(size=(30, 1))
    with torch.no_grad():
        outputs = network(torch.tensor(inputs, dtype=torch.float32)[None])[0][0].numpy()
    np.savez(tmp_path / "sample.npz", inputs=inputs, outputs=outputs)
    np.savez(tmp_path / "relu.npz", inputs=inputs, outputs=np.maximum(outputs, 0))
    given = ["import", str(tmp_path / "net.pt"), "--out", str(tmp_path / "net"), "--names", "lstm=rnn"]
    status, line = failed(capsys, *given, "--verify", str(tmp_path / "relu.npz"))
    assert (status, "your forward may do more" in line) == (2, True)
    assert not (tmp_path / "net").exists()
    assert run([*given, "--verify", str(tmp_path / "sample.npz")]) == 0
    captured = capsys.readouterr()
    assert "verified: " in captured.out
    assert captured.err == ""
    assert run(given) == 0
    assert "forward of your class is not in the checkpoint" in capsys.readouterr().err
    status, line = failed(capsys, *given[:-1], "rnn")
    assert (status, "'rnn' is not lstm=NAME,fc=NAME" in line) == (2, True)


def test_a_gru_with_a_head_is_trained_listed_and_evaluated(csv, tmp_path, capsys):
    out = tmp_path / "pump"
    given = ["--cell", "gru", "--head", "12,6", "--layers", "2", "--dropout", "0.1", "--hidden", "8"]
    assert run(["train", str(csv), "--out", str(out), *given, "--epochs", "2"]) == 0
    artifact = load(out)
    assert artifact.architecture == Architecture("gru", (12, "relu", 6, "relu"))
    assert json.loads((out / "metrics.json").read_text())["recipe"]["head"] == [12, 6]
    capsys.readouterr()
    assert run(["models", str(out)]) == 0
    text = capsys.readouterr().out
    assert "GRU 2 -> 8 x 2 -> 12 -> relu -> 6 -> relu -> 2" in text
    assert re.search(r"^one_step\.rmse\.flow +[0-9.e-]+$", text, re.MULTILINE)
    assert re.search(r"^recipe\.head +12, 6$", text, re.MULTILINE)
    assert run(["models", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"]["cell"] == "gru"
    assert run(["evaluate", str(out), str(csv)]) == 0
    state = artifact.network().state_dict()
    torch.save(state, tmp_path / "net.pt")
    head = ["--head", "head.0,relu,head.2,relu,fc", "--columns", "flow,pressure"]
    assert run(["import", str(tmp_path / "net.pt"), "--out", str(tmp_path / "net"), *head]) == 0
    assert load(tmp_path / "net").architecture == artifact.architecture


def test_an_interrupted_training_continues(tmp_path, capsys, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(["train", "--out", str(whole), *QUICK]) == 0
    capsys.readouterr()

    def interrupted(training, path):
        save_checkpoint(training, path)
        if len(training.history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("models.training.checkpoint.save_checkpoint", interrupted)
        assert run(["train", "--out", str(broken), *QUICK]) == 130
    assert "continue with --resume" in capsys.readouterr().err
    assert not broken.exists()
    assert run(["train", "--out", str(broken), "--resume", *QUICK]) == 0
    assert "continuing after epoch 2" in capsys.readouterr().err
    assert load(broken).fingerprint == load(whole).fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "whole"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train", "--bogus"], "No such option: --bogus"),
        (["train", "--epochs", "0"], "--epochs"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--predicts", "fortune"], "--predicts"),
        (["train", "--split", "a,b,c"], "--split"),
        (["train", "--split", "2,2,2"], "too few"),
        (["train", "--units", "flow"], "--units"),
        (["train", "--units", "flow=l/s"], "'flow' has a unit but is not an input"),
        (["train", "--columns", "flow"], "no column 'flow'"),
        (["train", "--learning-rate", "-1"], "learning_rate"),
        (["train", "--cell", "qrnn"], "--cell"),
        (["train", "--head", "64,wide"], "'64,wide' is not a list of whole numbers"),
        (["train", "--head", "64,0"], "a linear layer of the head must be a whole number from 1"),
        (["train", "--name", "a/b"], "name 'a/b'"),
        (["train", "none.csv"], "none.csv does not exist"),
        (["train", "--time-features", "hour_of_day"], "--time-column"),
        (["import"], "Missing argument"),
        (["import", "none.pt", "--out", "x"], "none.pt: is not a file"),
        (["import", "none.pt", "--out", "x", "--mean", "low"], "--mean"),
        (["models", "nowhere"], "no artifact in nowhere; train one"),
        (["evaluate", "nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_usage_and_bad_input_are_one_line_and_status_2(arguments, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, line = failed(capsys, *arguments)
    assert status == 2
    assert text in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_things_is_refused_before_the_training(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    status, line = failed(capsys, "train", "--out", str(tmp_path))
    assert (status, "not empty" in line) == (2, True)


def test_a_damaged_artifact_is_named(trained, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "model.json").write_text("{")
    status, line = failed(capsys, "models", str(tmp_path))
    assert (status, str(tmp_path / "bad") in line) == (2, True)


def test_the_error_for_an_empty_cell_names_row_and_column(csv, tmp_path, capsys):
    lines = csv.read_text().splitlines()
    lines[5] = lines[5].rsplit(",", 1)[0] + ","
    csv.write_text("\n".join(lines))
    status, line = failed(capsys, "train", str(csv), "--out", str(tmp_path / "x"))
    assert (status, "row 5, column 'pressure'" in line) == (2, True)


@pytest.fixture
def small_recipes(monkeypatch):
    small = Recipe(hidden_size=4, epochs=2, patience=0)
    learning = Learning(readout="rls", levels=(0.9,))
    recipes = {"drifting": replace(small, predicts="change", learning=learning), "default": small}
    monkeypatch.setattr("models.evaluation.choose.RECIPES", recipes)


@pytest.mark.usefixtures("small_recipes")
def test_without_a_recipe_several_are_tried_and_four_lines_say_what_was_kept(csv, tmp_path, capsys):
    out = tmp_path / "pump"
    assert run(["train", str(csv), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    starts = (
        "compared on 30 validation rows",
        "without a network: persistence ",
        "networks: drifting ",
        "kept: ",
    )
    assert all(line.startswith(start) for line, start in zip(text.splitlines(), starts, strict=False))
    assert "\x1b" not in text  # colours are for terminals
    assert "serve it: carryover serve" in text
    kept = json.loads((out / "metrics.json").read_text())["choice"]["kept"]
    assert f"\nkept: {kept}; " in text
    assert run(["train", str(csv), "--out", str(out), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["choice"]["kept"] in captured.err


def test_what_sessions_of_many_series_learn_is_chosen_where_no_recipe_was_given(
    csv, tmp_path, capsys, monkeypatch
):
    learning = Learning(readout="rls", levels=(0.9,))
    small = Recipe(hidden_size=4, epochs=2, patience=0, streams=2, predicts="change", learning=learning)
    monkeypatch.setattr("models.training.recipe.RECIPES", {"drifting": small})
    other, out = tmp_path / "other.csv", tmp_path / "pumps"
    other.write_text(csv.read_text())
    # There is nothing to resume. The recipe is the same as without the option.
    assert run(["train", str(csv), str(other), "--out", str(out), "--resume"]) == 0
    text = capsys.readouterr().out
    starts = ("compared on the validation rows of 2 series", "without a network: persistence ",
              "sessions that learn: drifting ", "kept: ")  # fmt: skip
    assert all(line.startswith(start) for line, start in zip(text.splitlines(), starts, strict=False))
    direct = "kept: drifting with horizons" in text
    assert bool(load(out).learning.horizons) == direct
    kept = json.loads((out / "metrics.json").read_text())["choice"]["kept"]
    assert f"\nkept: {kept}\n" in text
    with monkeypatch.context() as changed:
        chooses = "models.evaluation.choose_fleet.choose_of_fleet"
        changed.setattr(chooses, lambda training: pytest.fail("a recipe was given"))
        assert run(["train", str(csv), str(other), "--out", str(out), *QUICK]) == 0
    assert load(out).learning.horizons == ()


@pytest.mark.usefixtures("small_recipes")
def test_a_warning_of_the_choice_is_red_on_a_terminal(csv, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("models.evaluation.choose.Choice.warning", "no network is better")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(["train", str(csv), "--out", str(tmp_path / "pump")]) == 0
    assert "\x1b[1;31mno network is better\x1b[0m\n" in capsys.readouterr().out


def test_minutes_go_without_the_options_of_a_recipe(csv, tmp_path, capsys):
    given = ("--out", str(tmp_path / "x"), "--minutes", "1", "--epochs", "3")
    status, line = failed(capsys, "train", str(csv), *given)
    assert (status, "--minutes" in line) == (2, True)


def test_a_failure_is_status_1(tmp_path, capsys):
    given = ["--learning-rate", "1e30", "--clip", "0", "--schedule", "constant"]
    status, line = failed(capsys, "train", "--json", "--out", str(tmp_path / "x"), *given)
    assert (status, "epoch 1: the loss is" in line) == (1, True)


def test_a_network_that_has_learned_nothing_is_status_1_and_says_so_in_the_first_line(tmp_path, capsys):
    given = ["train", "--out", str(tmp_path / "x"), "--learning-rate", "1e9", "--epochs", "1"]
    assert run(given) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("worse than persistence on the test part: MSE ")
    assert "is far worse than the simplest predictions" in captured.err.splitlines()[-1]
    assert "serve it" not in captured.out
    assert not (tmp_path / "x.checkpoint").exists()


@pytest.mark.parametrize("arguments", [(), ("sessions",), ("keys",)])
def test_without_a_command_the_help_is_printed(arguments, capsys):
    assert run(list(arguments)) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"Usage: {' '.join(('carryover', *arguments))} [OPTIONS] COMMAND")
    assert "\n\nCommands:\n  " in captured.out
    assert captured.err == ""


def test_the_version_is_that_of_the_distribution(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"carryover {version('carryover-server')}\n"


@pytest.mark.parametrize(
    "arguments",
    [("train", "sine"), ("evaluate", "models/zoo/sine"), ("import", "net.pt", "--out", "x")],
    ids=lambda words: words[0],
)
def test_a_command_that_needs_torch_says_how_to_install_it(arguments, capsys, monkeypatch, tmp_path):
    for name in ("models.data.dataset", "models.artifact.importer", "models.artifact.state_dict"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.chdir(tmp_path)
    status, line = failed(capsys, *arguments)
    assert status == 2
    assert "needs torch, which is not installed: " in line
    assert "[train]" in line


def test_places_that_cannot_be_written_are_refused_before_the_training(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    for option, place in (
        ("--out", "file/x"),
        ("--out", "file"),
        ("--checkpoint", "file/x"),
        ("--checkpoint", ""),
    ):
        given = {"--out": str(tmp_path / "x")} | {option: str(tmp_path / place)}
        status, line = failed(capsys, "train", *(word for pair in given.items() for word in pair))
        assert (status, str(tmp_path) in line) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_sensor_that_is_silent_in_the_test_part_is_reported_as_not_measured(tmp_path, capsys):
    t = np.arange(600)
    cells = np.where(t >= 505, "", np.char.mod("%.4f", np.sin(t / 10)))
    rows = [f"{np.sin(i / 10):.4f},{cell}" for i, cell in zip(t, cells, strict=True)]
    (tmp_path / "g.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    data, out = str(tmp_path / "g.csv"), str(tmp_path / "g")
    assert run(["train", data, "--out", out, "--gaps", "--readout", "rls", "--levels", "0.9", *QUICK]) == 0
    assert load(Path(out)).metrics["one_step"]["rmse"]["b"] is None
    capsys.readouterr()
    assert run(["evaluate", out, data, "--gaps", "--no-figure", "--by-target"]) == 0
    assert "nan" not in capsys.readouterr().out
    assert run(["evaluate", out, data, "--gaps", "--no-figure", "--json"]) == 0
    by_target = json.loads(capsys.readouterr().out)["by_target"]
    assert by_target["a"]["network"]["mse"] > 0
    assert by_target["b"]["network"] == dict.fromkeys(("mse", "mae", "rmse", "mase", "skill"))


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("models.data.dataset.prepare", broken)
    with pytest.raises(RuntimeError, match="mistake"):
        run(["train"])


def test_the_first_start_says_that_it_compiles(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("app.server.run", lambda *_, **__: 0)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert run(["serve"]) == 0
    assert "compiling loops, once" in capsys.readouterr().err
    (tmp_path / "module").mkdir()
    (tmp_path / "module" / "loop.nbi").touch()
    assert run(["serve"]) == 0
    assert "compiling" not in capsys.readouterr().err
