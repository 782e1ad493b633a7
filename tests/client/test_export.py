"""`carryover.export`: from a PyTorch module to a proved artifact, or a reason why not."""

from __future__ import annotations

import sys

import carryover
import numpy as np
import pytest
import torch
from carryover.tracing import trace
from torch import nn

from models.artifact.files import load_any


class GRUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 4, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x, state):
        out, state = self.gru(x, state)
        return self.fc(out), state


class Swapped(nn.Module):
    """Returns its two states in the wrong order."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, batch_first=True)

    def forward(self, x, state):
        out, (h, c) = self.lstm(x, state)
        return out, (c, h)


class Twice(nn.Module):
    """Runs its cell twice in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 2)

    def forward(self, x):
        h = torch.zeros(len(x), 2)
        for row in x.unbind(1):
            h = self.cell(row, self.cell(row, h))
        return h


def example(steps: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    return torch.randn(3, steps, 2), torch.full((1, 3, 4), 0.5)


def test_a_module_becomes_a_proved_artifact(tmp_path):
    torch.manual_seed(1)
    net = GRUNet()
    options = ["--rename", "output=next"]
    folder = carryover.export(net, example(), tmp_path / "gru", name="pump", options=options)
    artifact = load_any(folder)
    assert artifact.name == "pump"
    assert artifact.probed["verified"] <= 1e-6
    assert [port.name for port in artifact.outputs] == ["next"]
    # A session starts from the example's state, and the module keeps its mode.
    assert artifact.signature.states[0].initial.tolist() == [[0.5] * 4]
    assert net.training


class LSTMNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 4, num_layers=1)

    def forward(self, x, state):
        return self.lstm(x, state)


@pytest.mark.parametrize(
    ("module", "x", "batch_axis", "states"),
    [(GRUNet(), torch.ones(1, 5, 2), 0, 1), (LSTMNet(), torch.ones(5, 1, 2), 1, 2)],
    ids=["gru", "lstm, time first"],
)
def test_an_example_of_one_row_shows_which_axis_of_a_state_is_the_batch(module, x, batch_axis, states):
    """Layers and batch are both 1 in the state: the module is called with two rows to tell them apart."""
    zeros = [torch.zeros(1, 1, 4)] * states
    traced = trace(module, (x, zeros[0] if states == 1 else tuple(zeros)), batch_axis=batch_axis)
    found = dict(traced.batch_axes)
    assert found.pop("x") == batch_axis
    assert list(found.values()) == [1] * states


def test_a_wrong_order_of_the_states_is_found_by_the_numbers(tmp_path):
    state = (torch.zeros(1, 3, 4), torch.zeros(1, 3, 4))
    with pytest.raises(carryover.ExportError, match="differs from"):
        carryover.export(Swapped(), (example()[0], state), tmp_path / "swapped")
    assert not (tmp_path / "swapped").exists()


@pytest.mark.parametrize(
    ("module", "given", "how", "message"),
    [
        (GRUNet(), (example()[0], "state"), {}, "the example's 'state' is str, not a tensor"),
        (GRUNet(), example(), {"inputs": 3}, "the example has 2 arguments, of which 3 cannot be inputs"),
        (GRUNet(), (example()[0], torch.zeros(1, 5, 4)), {}, "no axis for the batch of 3"),
        (GRUNet(), example(), {"time_axis": "first"}, "time_axis must be a number, None or 'auto'"),
        (nn.Linear(2, 2), (example()[0], torch.zeros(3, 2)), {}, "cannot be called with the example"),
        (Twice(), example()[0], {}, "the cell 'cell' runs twice in a step"),
    ],
)
def test_a_module_that_does_not_fit_its_example_is_refused(module, given, how, message):
    with pytest.raises(carryover.ExportError) as caught:
        trace(module, given, **how)
    assert message in str(caught.value)


def test_without_torch_the_message_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(carryover.ExportError, match="needs PyTorch: pip install torch"):
        trace(None, np.zeros(3))


def test_without_the_server_the_message_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(carryover.ExportError, match="carryover-server, with its extra onnx"):
        carryover.export(GRUNet(), example(), tmp_path / "gru")


def test_the_client_is_imported_without_torch():
    import subprocess

    program = "import sys, carryover; print('torch' in sys.modules, callable(carryover.export))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
