"""Artifacts: what is saved is what is loaded, and whatever is wrong is refused by name."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.artifact.files import Artifact, BadArtifact, Column, Scaling, load, save
from models.artifact.folder import artifact_folders, check_folder
from models.artifact.learning import DEFAULT_LEVELS, Learning
from models.nets.architecture import Architecture, Embedding
from models.nets.recurrent import RecurrentNetwork
from tests.helpers.paths import ROOT

torch.set_num_threads(1)


LEFT_OUT = object()
SHIPPED = ROOT / "models" / "zoo"


@pytest.fixture
def artifact() -> Artifact:
    return made()


@pytest.fixture
def folder(tmp_path, artifact) -> Path:
    save(artifact, tmp_path / "pump")
    return tmp_path / "pump"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pump"
    save(made(), folder)
    return folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def made(**changes) -> Artifact:
    torch.manual_seed(1)
    network = RecurrentNetwork(3, 4, 2, 2)
    scaling = Scaling(np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 2.0]))
    fields: dict[str, Any] = {
        "name": "pump",
        "inputs": (Column("flow", "m3/h"), Column("pressure", "bar"), Column("hour_sin")),
        "targets": ("pressure", "flow"),
        "hidden_size": 4,
        "num_layers": 2,
        "scaling": scaling,
        "target_scaling": scaling.pick([1, 0]),
        "weights": {name: weight.numpy() for name, weight in network.state_dict().items()},
        "metrics": {"mse": 0.25},
    }
    return Artifact(**(fields | changes))


def test_a_saved_artifact_is_loaded_unchanged(folder, artifact):
    loaded = load(folder)
    assert loaded.fingerprint == artifact.fingerprint
    assert (loaded.name, loaded.inputs, loaded.targets, loaded.metrics) == (
        artifact.name,
        artifact.inputs,
        artifact.targets,
        artifact.metrics,
    )
    chunk = torch.randn(1, 20, 3)
    assert torch.equal(loaded.network()(chunk)[0], artifact.network()(chunk)[0])


GRU = Architecture("gru", (6, "relu", "layer_norm"))
TOKENS = Architecture("rnn", embedding=Embedding(5, 3))


def made_of(architecture: Architecture) -> Artifact:
    """An artifact whose network has these layers."""
    tokens = architecture.embedding is not None
    network = RecurrentNetwork(1 if tokens else 3, 4, 2, 2, architecture=architecture)
    changes: dict[str, Any] = {"inputs": (Column("token"),), "scaling": Scaling(np.zeros(1), np.ones(1))}
    weights = {name: weight.numpy() for name, weight in network.state_dict().items()}
    return made(architecture=architecture, weights=weights, **(changes if tokens else {}))


@pytest.mark.parametrize("architecture", [GRU, TOKENS], ids=["gru", "tokens"])
def test_an_architecture_is_saved_and_loaded(tmp_path, architecture):
    artifact = made_of(architecture)
    save(artifact, tmp_path / "pump")
    loaded = load(tmp_path / "pump")
    assert loaded.architecture == architecture
    assert loaded.fingerprint == artifact.fingerprint
    chunk = torch.ones(1, 20, artifact.input_size)
    assert torch.equal(loaded.network()(chunk)[0], artifact.network()(chunk)[0])


def test_an_lstm_with_a_linear_readout_is_written_as_before_there_were_other_networks(folder):
    assert "architecture" not in json.loads((folder / "model.json").read_text())


def test_the_activation_decides_the_fingerprint_though_it_has_no_weights():
    relu, tanh = (made_of(Architecture("gru", (6, layer))) for layer in ("relu", "tanh"))
    other = replace(tanh, weights=relu.weights)
    assert other.fingerprint != relu.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (Column("token"), Column("more"))}, "scaling is over 1|one input"),
        ({"targets": ("token", "flow")}, "cannot be a target|scaled differently"),
        ({"scaling": Scaling(np.ones(1), np.ones(1))}, "cannot be scaled"),
        ({"architecture": Architecture("rnn", embedding=Embedding(6, 3))}, "embedding.weight has shape"),
        ({"architecture": Architecture("gru", embedding=Embedding(5, 3))}, "lack gru"),
        ({"predicts": "change"}, "needs its targets as inputs"),
    ],
)
def test_an_embedding_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(BadArtifact, match=message):
        replace(made_of(TOKENS), **changes)


def test_a_folder_has_two_files_and_no_leftovers(folder):
    assert listed(folder) == ["model.json", "weights.safetensors"]
    assert listed(folder.parent) == ["pump"]


def test_an_older_artifact_is_replaced_and_other_files_stay(folder, artifact):
    (folder / "notes.txt").write_text("notes of the user")
    save(replace(artifact, name="other"), folder)
    assert load(folder).name == "other"
    assert listed(folder) == ["model.json", "notes.txt", "weights.safetensors"]


def test_of_several_who_write_an_artifact_at_once_each_succeeds(tmp_path, artifact, monkeypatch):
    """Workers archive the same network as they start. Here the folder comes just before it is renamed to."""
    rename = Path.rename

    def late(temporary: Path, folder: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        save(artifact, folder)
        return rename(temporary, folder)

    monkeypatch.setattr(Path, "rename", late)
    save(artifact, tmp_path / "pump")
    assert load(tmp_path / "pump").fingerprint == artifact.fingerprint
    assert listed(tmp_path) == ["pump"]


def test_an_artifact_that_is_being_written_is_not_among_those_of_its_folder(folder, tmp_path, artifact):
    save(artifact, folder.parent / f".{folder.name}.4x2k")  # so a write that was killed leaves it
    assert artifact_folders(folder.parent) == [folder]
    assert artifact_folders(folder) == [folder]


def test_a_save_that_fails_leaves_no_folder(tmp_path, artifact):
    with pytest.raises(ValueError, match="JSON"):
        save(replace(artifact, metrics={"mse": float("nan")}), tmp_path / "pump")
    assert listed(tmp_path) == []


def test_a_folder_of_other_files_is_not_written_to(tmp_path, artifact):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BadArtifact, match="not empty"):
        save(artifact, tmp_path)
    with pytest.raises(BadArtifact, match="not a folder"):
        check_folder(tmp_path / "thesis.tex")


def test_a_folder_that_cannot_be_created_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadArtifact, match=r"cannot be written: .*file is not a folder"):
        check_folder(tmp_path / "file" / "deeper" / "x")
    check_folder(tmp_path / "new" / "deeper" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_changes_no_prediction(saved, tmp_path_factory, data):
    copy = tmp_path_factory.mktemp("flipped")
    file = data.draw(st.sampled_from(["model.json", "weights.safetensors"]))
    content = bytearray((saved / file).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    shutil.copytree(saved, copy, dirs_exist_ok=True)
    (copy / file).write_bytes(content)
    try:
        loaded = load(copy)
    except BadArtifact as error:
        assert str(copy) in str(error)  # noqa: PT017 -- either outcome is right
    else:
        assert loaded.fingerprint == load(saved).fingerprint
    finally:
        shutil.rmtree(copy)


@settings(max_examples=100, deadline=None)
@given(file=st.sampled_from(["model.json", "weights.safetensors"]), part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(saved, tmp_path_factory, file, part):
    copy = tmp_path_factory.mktemp("truncated")
    shutil.copytree(saved, copy, dirs_exist_ok=True)
    content = (saved / file).read_bytes().rstrip()
    (copy / file).write_bytes(content[: int(len(content) * part)])
    with pytest.raises(BadArtifact, match=file):
        load(copy)
    shutil.rmtree(copy)


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(BadArtifact, match=f"{file} is missing"):
        load(folder)


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_block(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(BadArtifact, match=file):
        load(folder)


@pytest.mark.parametrize("file", ["model.json", "weights.safetensors"])
def test_an_oversized_file_is_refused_before_all_of_it_is_read(folder, file):
    with (folder / file).open("ab") as stretched:
        stretched.truncate(2**36)  # sparse: 64 GiB for a reader of the whole file
    with pytest.raises(BadArtifact, match=f"{file} is larger"):
        load(folder)


def test_weights_of_another_training_are_refused(folder, tmp_path, artifact):
    weights = {name: weight + 1 for name, weight in artifact.weights.items()}
    save(replace(artifact, weights=weights), tmp_path / "other")
    shutil.copy(tmp_path / "other" / "weights.safetensors", folder)
    with pytest.raises(BadArtifact, match="fingerprint"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 4}, "version 4 is unknown"),
        ({"version": 3}, "model.json lacks 'constants'"),
        ({"version": "1"}, "version 1 is unknown"),
        ({"version": True}, "version True is unknown"),
        ({"version": LEFT_OUT}, "version None is unknown"),
        ({"format": "onnx"}, "does not describe"),
        ({"adaptive": True}, "unknown field 'adaptive'"),
        ({"learning": LEFT_OUT}, "lacks 'learning'"),
        ({"learning": {}}, "learning must have the fields"),
        ({"future": ["nothing"]}, "known ahead"),
        ({"time_features": ["hour_of_day"]}, "last inputs"),
        ({"time_features": ["century"]}, "century"),
        ({"interval_seconds": -1}, "interval_seconds"),
        ({"scaling": LEFT_OUT}, "lacks 'scaling'"),
        ({"fingerprint": "0" * 64}, "fingerprint"),
        ({"fingerprint": 7}, "fingerprint"),
        ({"name": "../pump"}, "name"),
        ({"name": ["pump"]}, "name is not text"),
        ({"inputs": {}}, "inputs is not a list"),
        ({"inputs": ["flow"]}, "name, unit"),
        ({"inputs": [{"name": 1, "unit": None}]}, "column name"),
        ({"inputs": [{"name": "flow", "unit": None}] * 3}, "twice"),
        ({"inputs": []}, "1 to 4096 columns"),
        ({"targets": ["flow"]}, "shape|columns"),
        ({"targets": [["flow"], "pressure"]}, "targets is not text"),
        ({"hidden_size": 5}, "shape|larger|scaled"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"hidden_size": 4.0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 16384, "num_layers": 64}, "bytes of weights"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_layers": 1}, "unknown lstm"),
        ({"num_layers": 3}, "lack lstm"),
        ({"predicts": "future"}, "predicts"),
        ({"predicts": ["level"]}, "predicts"),
        ({"predicts": "change"}, "fingerprint"),
        ({"metrics": []}, "metrics"),
        ({"architecture": {"cell": "gru", "head": [], "embedding": None}}, "lack gru|have an unknown lstm"),
        ({"architecture": {"cell": "lstm", "head": [], "embedding": None}, "version": 1}, "architecture"),
        ({"architecture": {"cell": "lstm", "head": [2**14] * 9, "embedding": None}}, "bytes of weights"),
        ({"architecture": "lstm"}, "architecture is not"),
        ({"scaling": {"mean": [1, 2, 3]}}, "mean, std"),
        ({"scaling": {"mean": [1, 2, 3], "std": [1, 2, 0]}}, "std"),
        ({"scaling": {"mean": [1, 2, 3], "std": [1, 2, -1]}}, "std"),
        ({"scaling": {"mean": [1, 2, 3], "std": [1, 2, 1e-60]}}, "std"),
        ({"scaling": {"mean": [1, 2, 1e39], "std": [1, 2, 1]}}, "mean"),
        ({"scaling": {"mean": [1, 2], "std": [1, 2]}}, "scaling is over 2"),
        ({"scaling": {"mean": [1, 2, 3], "std": [1, 2]}}, "3 means and 2 stds"),
        ({"scaling": {"mean": ["a", 2, 3], "std": [1, 2, 3]}}, "not a list of numbers"),
        ({"scaling": {"mean": [[1], 2, 3], "std": [1, 2, 3]}}, "not a list of numbers"),
        ({"scaling": {"mean": [9, 9, 9], "std": [1, 1, 1]}}, "scaled differently"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_name(folder, changes, message):
    path = folder / "model.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not LEFT_OUT}))
    with pytest.raises(BadArtifact, match=message) as refused:
        load(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "[" * 100_000, '{"format": 1e999}', "9" * 10_000, '{"a": NaN}', "\ufeff{}"],
)
def test_a_description_that_is_not_valid_json_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(BadArtifact, match=r"model\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"fc.bias": w["fc.bias"].astype(np.float64)}, "float64|larger"),
        (lambda w: w | {"fc.bias": np.full(2, np.nan, np.float32)}, "fc.bias has a value that is not finite"),
        (lambda w: w | {"fc.bias": np.zeros(3, np.float32)}, "fc.bias has shape"),
        (lambda w: w | {"extra": np.zeros(1, np.float32)}, "unknown extra"),
        (lambda w: {name: w[name] for name in w if name != "fc.bias"}, "lack fc.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, artifact, change, message):
    weights = safetensors.numpy.save(change(dict(artifact.weights)))
    (folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(BadArtifact, match=message):
        load(folder)


def test_pickle_in_place_of_weights_is_never_run(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"fc.bias": Bomb()}, folder / "weights.safetensors")
    with pytest.raises(BadArtifact, match=r"weights\.safetensors"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_labels_may_be_edited_and_what_decides_a_prediction_may_not(artifact):
    labels = replace(artifact, name="other", metrics={}, inputs=(Column("flow", "l/s"), *artifact.inputs[1:]))
    assert labels.fingerprint == artifact.fingerprint
    weights = dict(artifact.weights) | {"fc.bias": artifact.weights["fc.bias"] + np.float32(1e-6)}
    renamed = replace(artifact, inputs=(*artifact.inputs[:2], Column("hour_cos")))
    others = (replace(artifact, weights=weights), replace(artifact, predicts="change"), renamed)
    assert artifact.fingerprint not in {other.fingerprint for other in others}


def test_a_change_of_a_target_that_is_not_an_input_is_refused(artifact):
    with pytest.raises(BadArtifact, match="level"):
        replace(artifact, predicts="change", targets=("pressure", "level"))


def test_an_artifact_knows_what_a_forecast_feeds_back(artifact):
    assert artifact.feedback == (1, 0, None)
    assert replace(artifact, predicts="change").change_of == (1, 0)
    assert (artifact.input_size, artifact.output_size) == (3, 2)


def test_scaling_and_unscaling_gives_the_same_numbers():
    scaling = Scaling(np.array([1.0, -2.0]), np.array([0.1, 30.0]))
    values = np.random.default_rng(0).normal(size=(50, 2))
    np.testing.assert_allclose(scaling.unscale(scaling.scale(values)), values, atol=1e-12)


def test_changing_a_network_does_not_change_its_artifact(artifact):
    before = artifact.weights["fc.bias"].copy()
    with torch.no_grad():
        artifact.network().fc.bias.add_(1)
    np.testing.assert_array_equal(artifact.weights["fc.bias"], before)


def test_an_artifact_of_version_1_learns_nothing_and_keeps_its_fingerprint():
    shipped = load(SHIPPED / "sine")
    assert json.loads((SHIPPED / "sine" / "model.json").read_text())["version"] == 1
    assert not shipped.learning.enabled


def test_the_learning_of_sessions_is_saved_and_is_part_of_the_fingerprint(tmp_path, artifact):
    learning = Learning("rls", inputs=True, forgetting=0.99, levels=(0.8, 0.9), growth=(1.0, 1.5))
    adaptive = replace(artifact, learning=learning)
    save(adaptive, tmp_path / "adaptive")
    loaded = load(tmp_path / "adaptive")
    assert loaded.learning == learning
    assert loaded.fingerprint == adaptive.fingerprint != artifact.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"readout": "magic"}, "readout"),
        ({"forgetting": 0.4}, "forgetting"),
        ({"forgetting": 1.0}, "0.9999"),
        ({"forgetting": float("nan")}, "number"),
        ({"prior": 0.0}, "prior"),
        ({"rank": -1}, "rank"),
        ({"rank": 9}, "rank 9"),
        ({"levels": (0.9, 0.8)}, "ascend"),
        ({"levels": (0.9, 1.0)}, "between 0 and 1"),
        ({"spread": ((1.0,),)}, "spread"),
        ({"growth": (0.5,)}, "growth"),
        ({"levels": tuple((i + 1) / 100 for i in range(17))}, "16 levels"),
    ],
)
def test_invalid_learning_is_refused_by_name(artifact, changes, message):
    with pytest.raises(BadArtifact, match=message):
        replace(artifact, learning=Learning(**({"readout": "rls"} | changes)))


def test_a_session_chooses_how_it_learns_within_the_layout_of_its_artifact():
    shipped = Learning("rls", forgetting=0.99, levels=(0.9,), spread=((2.0,),))
    assert shipped.with_options() == shipped
    assert shipped.with_options(readout="off", forgetting=0.9).kind == "off+intervals"
    assert shipped.with_options(intervals=False).tracks_errors is False
    assert Learning().with_options(intervals=True).levels == DEFAULT_LEVELS
    for kind in ("off", "gain", "rls", "off+intervals", "rls+intervals"):
        assert shipped.with_kind(kind).kind == kind
