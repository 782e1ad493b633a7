"""A checkpoint of the textbook's class becomes an artifact; all else is refused, and nothing is run."""

import numpy as np
import pytest
import torch
from torch import nn

from models.artifact.files import Artifact, BadArtifact, load, save
from models.artifact.importer import CheckpointColumns, import_checkpoint
from models.nets.architecture import Architecture, Embedding

torch.set_num_threads(1)


class Textbook(nn.Module):
    """What people write, the state kept inside."""

    def __init__(self, inputs=1, hidden=8, layers=1, outputs=1, **options):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, **options)
        sides = 2 if options.get("bidirectional") else 1
        self.fc = nn.Linear(options.get("proj_size") or sides * hidden, outputs)

    def forward(self, x):
        return self.fc(self.lstm(x)[0])


def without(state, *names):
    return {name: weight for name, weight in state.items() if name not in names}


@pytest.fixture
def imported(tmp_path):
    def call(checkpoint, predicts="level", modules=None, head=(), **columns) -> Artifact:
        torch.save(checkpoint, tmp_path / "net.pt")
        described = CheckpointColumns(**columns)
        path = tmp_path / "net.pt"
        return import_checkpoint(path, "net", described, predicts=predicts, modules=modules, head=head)

    return call


def test_an_imported_network_predicts_as_it_did_before(imported, tmp_path):
    net, chunk = Textbook(3, 8, 2, 3), torch.randn(2, 30, 3)
    save(imported(net.state_dict()), tmp_path / "net")
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net").network()(chunk)[0], net(chunk), atol=1e-6, rtol=0)


def test_shape_and_default_names_come_from_the_weights(imported):
    default = imported(Textbook().state_dict())
    assert (default.columns, default.targets) == (("value",), ("value",))
    several = imported(Textbook(3, 8, 2, 3).state_dict())
    assert (several.columns, several.targets) == (("x0", "x1", "x2"), ("x0", "x1", "x2"))
    assert (several.hidden_size, several.num_layers) == (8, 2)
    assert imported(Textbook(3, 8, 1, 1).state_dict()).targets == ("y0",)


def test_names_units_and_scaling_are_kept(imported):
    state = Textbook(2, 8, 1, 1).state_dict()
    artifact = imported(
        state, inputs=["flow", "level"], units={"flow": "l/s"}, targets=["level"], mean=[1, 2], std=[3, 4]
    )
    assert [column.unit for column in artifact.inputs] == ["l/s", None]
    assert artifact.feedback == (None, 0)
    assert (artifact.target_scaling.mean[0], artifact.target_scaling.std[0]) == (2, 4)


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict"])
@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.",
        "net.core.",
        "module.model.",
    ],
)
def test_usual_wrappers_and_prefixes_are_removed(imported, wrap, prefix):
    state = {prefix + name: weight for name, weight in Textbook().state_dict().items()}
    assert imported({wrap: state, "epoch": 3}).hidden_size == 8


def test_a_compiled_module_inside_the_class_is_found(imported):
    plain = Textbook().state_dict()
    compiled = {name.replace("lstm.", "lstm._orig_mod."): weight for name, weight in plain.items()}
    assert imported(compiled).fingerprint == imported(plain).fingerprint


class Named(nn.Module):
    """The same network, its modules named otherwise and nested, with or without biases."""

    def __init__(self, bias=True, head_bias=True):
        super().__init__()
        self.rnn = nn.LSTM(2, 8, 2, batch_first=True, bias=bias)
        self.decoder = nn.Sequential(nn.Linear(8, 2, bias=head_bias))

    def forward(self, x):
        return self.decoder(self.rnn(x)[0])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("head_bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.module.", "net."])
def test_modules_of_other_names_and_without_biases_are_imported(imported, bias, head_bias, prefix):
    net, chunk = Named(bias, head_bias), torch.randn(1, 30, 2)
    state = {prefix + name: weight for name, weight in net.state_dict().items()}
    artifact = imported(state, modules={"lstm": "rnn", "fc": "decoder.0"})
    with torch.no_grad():
        torch.testing.assert_close(artifact.network()(chunk)[0], net(chunk), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (None, "it has decoder.0, rnn. If they have other names, give them: --names lstm=NAME,fc=NAME"),
        ({"lstm": "rnn"}, "lacks a matrix fc.weight"),
        ({"lstm": "gru", "fc": "decoder.0"}, "lacks a matrix lstm.weight_ih_l0 as 'gru'"),
        ({"rnn": "rnn"}, "lacks a matrix fc.weight"),
        ({"lstm": "rnn", "fc": "rnn"}, "both named 'rnn'"),
    ],
)
def test_names_that_do_not_fit_are_refused(imported, modules, message):
    with pytest.raises(BadArtifact, match=message):
        imported(Named().state_dict(), modules=modules)


class Tagger(nn.Module):
    """A GRU over tokens with a head of several layers."""

    def __init__(self, norm=False):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.gru = nn.GRU(4, 8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5), nn.Tanh())
        self.out = nn.Linear(5, 3)

    def forward(self, tokens):
        return self.out(self.head(self.norm(self.gru(self.embedding(tokens))[0])))


LAYERS = ["norm", "head.0", "relu", "head.3", "tanh", "out"]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "core"])
def test_the_kind_of_the_cells_follows_from_the_weights(imported, cell, name):
    net = Textbook(3, 8, 2, 3)
    net.lstm, chunk = cell(3, 8, 2, batch_first=True), torch.randn(2, 30, 3)
    state = {key.replace("lstm.", f"{name}."): weight for key, weight in net.state_dict().items()}
    artifact = imported(state, modules={"gru": "core"} if name == "core" else None)
    assert artifact.architecture == Architecture(cell.__name__.lower())
    with torch.no_grad():
        torch.testing.assert_close(artifact.network()(chunk)[0], net(chunk), atol=1e-6, rtol=0)


@pytest.mark.parametrize("prefix", ["", "net.", "_orig_mod.module."])
def test_a_head_and_an_embedding_are_imported(imported, prefix):
    net, tokens = Tagger().eval(), torch.randint(0, 9, (2, 30))
    state = {prefix + name: weight for name, weight in net.state_dict().items()}
    artifact = imported(state, head=LAYERS)
    assert artifact.architecture == Architecture("gru", ("layer_norm", 6, "relu", 5, "tanh"), Embedding(9, 4))
    assert (artifact.columns, artifact.targets) == (("token",), ("y0", "y1", "y2"))
    with torch.no_grad():
        outputs = artifact.network()(tokens[..., None].float())[0]
        torch.testing.assert_close(outputs, net(tokens), atol=1e-6, rtol=0)


def test_an_embedding_of_another_name_is_imported(imported):
    state = {name.replace("embedding", "emb"): weight for name, weight in Tagger().state_dict().items()}
    assert imported(state, modules={"embedding": "emb"}, head=LAYERS).architecture.embedding
    with pytest.raises(BadArtifact, match=r"unexpected emb\.weight"):
        imported(state, head=LAYERS)


@pytest.mark.parametrize(
    ("head", "modules", "message"),
    [
        ((), None, "lacks a matrix fc.weight"),
        ((), {"fc": "head"}, "head has several layers.*--head head.0,relu,head.3"),
        ([*LAYERS, "relu"], None, "must end with a linear layer, and 'relu'"),
        (["norm"], None, "must end with a linear layer, and 'norm'"),
        (["swish", "out"], None, "lacks a matrix swish.weight"),
        (["out", "out"], None, "both named 'out'"),
        (["norm", "head.0", "relu", "out"], None, "unexpected head.3"),
        (["head.0", "norm", "relu", "head.3", "out"], None, "has shape"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(imported, head, modules, message):
    with pytest.raises(BadArtifact, match=message):
        imported(Tagger().state_dict(), modules=modules, head=head)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_become_float32(imported, dtype):
    assert imported(Textbook().to(dtype).state_dict()).weights["fc.bias"].dtype == np.float32


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (Textbook(), "state_dict"),
        (Textbook(bidirectional=True).state_dict(), "lstm.bias_hh_l0_reverse"),
        (without(Textbook(layers=2).state_dict(), "lstm.bias_hh_l1"), "lacks lstm.bias_hh_l1"),
        (Textbook().state_dict() | {"head.weight": torch.zeros(1, 8)}, "unexpected head.weight"),
        (Textbook(proj_size=4).state_dict(), "weight_hr|expected"),
        (
            Textbook().state_dict()
            | {"lstm.weight_ih_l0": torch.zeros(16, 1), "lstm.weight_hh_l0": torch.zeros(16, 8)},
            "16 rows for 8 hidden units",
        ),
        (nn.Linear(1, 1).state_dict(), "lacks a matrix lstm.weight_ih_l0"),
        ({}, "lacks a matrix"),
        ([1, 2], "not a state_dict"),
        ({1: torch.zeros(1)}, "not a state_dict"),
        (Textbook().state_dict() | {"fc.bias": 3}, "fc.bias is not a dense tensor"),
        (Textbook().state_dict() | {"fc.bias": torch.zeros(1, dtype=torch.int64)}, "not a dense tensor"),
        (Textbook().state_dict() | {"fc.bias": torch.zeros(1).to_sparse()}, "not a dense tensor"),
        (Textbook().state_dict() | {"fc.bias": torch.full((1,), torch.nan)}, "not finite"),
        (Textbook().state_dict() | {"fc.bias": torch.zeros(7)}, "fc.bias has shape"),
        (Textbook().state_dict() | {"fc.weight": torch.zeros(1).expand(10**6, 10**6)}, "fc.weight has shape"),
        (Textbook().state_dict() | {"fc.weight": torch.zeros(1).expand(10**8, 8)}, "bytes of weights"),
        (Textbook().state_dict() | {"fc.weight": torch.zeros(8, 1, 1)}, "lacks a matrix fc.weight"),
    ],
)
def test_other_checkpoints_are_refused_by_name(imported, checkpoint, message):
    with pytest.raises(BadArtifact, match=message) as refused:
        imported(checkpoint)
    assert "net.pt" in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["a", "b"]}, "1 inputs, not 2"),
        ({"targets": ["a", "b"]}, "1 outputs, not 2"),
        ({"units": {"flow": "l/s"}}, "no input 'flow'"),
        ({"mean": [1, 2]}, "2 means and 1 stds"),
        ({"mean": [1, 2], "std": [1, 2]}, "over 2 columns"),
        ({"std": [0]}, "std"),
        ({"mean": [float("nan")]}, "mean"),
        ({"targets": ["other"], "predicts": "change"}, "not an input"),
    ],
)
def test_options_that_do_not_fit_the_weights_are_refused(imported, options, message):
    with pytest.raises(BadArtifact, match=message):
        imported(Textbook().state_dict(), **options)


def test_no_code_in_a_checkpoint_is_run(imported, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    with pytest.raises(BadArtifact, match="not loaded"):
        imported(Textbook().state_dict() | {"fc.bias": Bomb()})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"half", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(BadArtifact, match=r"net\.pt"):
        import_checkpoint(tmp_path / "net.pt", "net")


def test_a_truncated_checkpoint_is_refused(tmp_path):
    torch.save(Textbook().state_dict(), tmp_path / "net.pt")
    content = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadArtifact, match=r"net\.pt"):
        import_checkpoint(tmp_path / "net.pt", "net")


def test_a_missing_checkpoint_file_is_named(tmp_path):
    with pytest.raises(BadArtifact, match=r"none\.pt: is not a file"):
        import_checkpoint(tmp_path / "none.pt", "net")
