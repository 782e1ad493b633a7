"""An imported artifact is compared with the user's own outputs, in the data's own units."""

import numpy as np
import pytest
import torch
from torch import nn

from models.artifact.files import Artifact
from models.artifact.importer import CheckpointColumns, import_checkpoint
from models.errors import BadArtifact, BadData
from models.evaluation.verify import TOLERANCE, verify

torch.set_num_threads(1)

MEAN, STD = np.array([4.0, 2.0]), np.array([0.5, 3.0])


class Net(nn.Module):
    """A network as people write it; `rectified`, with a forward that the weights do not show."""

    def __init__(self, rectified=False, outputs=2):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(2, 8, batch_first=True)
        self.fc = nn.Linear(8, outputs)
        self.rectified = rectified

    def forward(self, x):
        levels = self.fc(self.lstm(x)[0])
        return torch.relu(levels) if self.rectified else levels


def predicted(net: Net, rows: np.ndarray) -> np.ndarray:
    """What the user's own code says, [sequences, steps, outputs], in the data's own units."""
    with torch.no_grad():
        scaled = torch.tensor((rows - MEAN) / STD, dtype=torch.float32)
        return net(scaled).double().numpy() * STD[: net.fc.out_features] + MEAN[: net.fc.out_features]


def rows(sequences: int, steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(MEAN, STD, size=(sequences, steps, 2))


@pytest.fixture
def imported(tmp_path):
    def call(net: Net, predicts="level", **columns) -> Artifact:
        torch.save(net.state_dict(), tmp_path / "net.pt")
        described = CheckpointColumns(**({"mean": MEAN.tolist(), "std": STD.tolist()} | columns))
        return import_checkpoint(tmp_path / "net.pt", "net", described, predicts=predicts)

    return call


@pytest.fixture
def sample(tmp_path):
    def call(**arrays):
        np.savez(tmp_path / "sample.npz", **arrays)
        return tmp_path / "sample.npz"

    return call


def test_an_artifact_that_serves_the_same_is_verified(imported, sample):
    net, inputs = Net(), rows(3, 40)
    outputs = predicted(net, inputs)
    assert verify(imported(net), sample(inputs=inputs, outputs=outputs)) < TOLERANCE / 10
    assert verify(imported(net), sample(inputs=inputs[0], outputs=outputs[0])) < TOLERANCE / 10
    assert verify(imported(net), sample(inputs=inputs, outputs=outputs[:, -1])) < TOLERANCE / 10


def test_the_outputs_of_one_target_may_be_flat(imported, sample):
    net, inputs = Net(outputs=1), rows(3, 40)
    artifact, outputs = imported(net, targets=["x0"]), predicted(net, inputs)
    for given in (outputs, outputs[..., 0], outputs[:, -1]):
        assert verify(artifact, sample(inputs=inputs, outputs=given)) < TOLERANCE / 10
    assert verify(artifact, sample(inputs=inputs[0], outputs=outputs[0, :, 0])) < TOLERANCE / 10


def test_a_forward_that_does_more_is_refused(imported, sample):
    net, inputs = Net(rectified=True), rows(2, 40)
    artifact = imported(net)
    with pytest.raises(BadArtifact, match=r"step \d+ of sequence \d: the artifact gives .* your network"):
        verify(artifact, sample(inputs=inputs, outputs=predicted(net, inputs)))


@pytest.mark.parametrize(
    "options", [{"mean": [0, 0]}, {"std": [1, 1]}, {"predicts": "change"}, {"mean": MEAN[::-1].tolist()}]
)
def test_wrong_options_of_the_import_are_refused(imported, sample, options):
    net, inputs = Net(), rows(2, 40)
    with pytest.raises(BadArtifact, match="the scaling, the order of the columns or --predicts"):
        verify(imported(net, **options), sample(inputs=inputs, outputs=predicted(net, inputs)))


@pytest.mark.parametrize(("off", "refused"), [(0.5, False), (2.0, True)])
def test_the_tolerance_is_in_scaled_units(imported, sample, off, refused):
    net, inputs = Net(), rows(1, 40)
    outputs = predicted(net, inputs)
    outputs[0, 7, 1] += off * TOLERANCE * STD[1]
    path = sample(inputs=inputs, outputs=outputs)
    if not refused:
        assert verify(imported(net), path) == pytest.approx(off * TOLERANCE, rel=0.05)
        return
    with pytest.raises(BadArtifact, match="step 8: "):
        verify(imported(net), path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": rows(1, 5)}, "no array 'outputs'"),
        ({"inputs": rows(1, 5)[..., :1], "outputs": rows(1, 5)}, "do not fit a model of 2 inputs"),
        ({"inputs": rows(1, 5), "outputs": rows(1, 4)}, "do not fit"),
        ({"inputs": rows(1, 1), "outputs": rows(1, 1)}, "at least 2 steps"),
        ({"inputs": rows(0, 5), "outputs": rows(0, 5)}, "at least 2 steps"),
        ({"inputs": rows(1, 5), "outputs": rows(1, 5) * np.nan}, "outputs must be finite numbers"),
        ({"inputs": np.array([["a", "b"]] * 5), "outputs": rows(1, 5)}, "inputs must be finite numbers"),
        ({"inputs": np.array([[{}, {}]] * 5), "outputs": rows(1, 5)}, "damaged or not NPZ"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(imported, sample, arrays, message):
    with pytest.raises(BadData, match=message):
        verify(imported(Net()), sample(**arrays))


def test_a_file_that_is_not_a_sample_is_named(imported, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 torn")
    for name, message in (("none.npz", "is not a file"), ("x.npz", "damaged or not NPZ")):
        with pytest.raises(BadData, match=f"{name}.*{message}"):
            verify(imported(Net()), tmp_path / name)
