"""`carryover fetch`: the graph of a package, and what cannot be fetched."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from types import SimpleNamespace

import pytest

from app.cli import run
from models.artifact.files import load_any
from tests.helpers.shipped import SILERO, found

FETCH = sys.modules["app.cli.fetch"]  # in the package, its command has the name


@pytest.fixture
def wheel(tmp_path):
    """A wheel with Silero's graph, as PyPI has it."""
    path = tmp_path / "silero_vad-6.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as files:
        files.write(found(SILERO), "silero_vad/data/silero_vad.onnx")
    return path


def test_a_wheel_becomes_a_model_over_samples_with_events(wheel, tmp_path, capsys, monkeypatch):
    def download(command: list[str], **_: object) -> SimpleNamespace:
        assert command[-1] == "silero-vad==6.2.3"
        folder = command[command.index("--dest") + 1]
        wheel.rename(f"{folder}/{wheel.name}")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(
        FETCH, "subprocess", SimpleNamespace(run=download, TimeoutExpired=subprocess.TimeoutExpired)
    )
    out = tmp_path / "vad"
    options = ["--threshold", "0.6", "--min-speech-ms", "250"]
    assert run(["fetch", "silero-vad", "--out", str(out), *options]) == 0
    artifact = load_any(out)
    assert (artifact.samples.rate, artifact.signature.inputs[0].size) == (16_000, 512)
    events = artifact.samples.events
    assert (events.threshold, events.min_speech_ms, events.min_silence_ms) == (0.6, 250, 100)
    assert artifact.metrics == {"source": "silero-vad==6.2.3", "licence": "MIT"}
    assert "proved with onnxruntime" in capsys.readouterr().out


def test_what_cannot_be_fetched_is_refused(tmp_path, capsys, monkeypatch):
    out = tmp_path / "vad"
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as files:
        files.writestr("other/__init__.py", "")
    cases = {
        "has no silero_vad/data/silero_vad.onnx": ["--wheel", str(other)],
        "cannot be read as a wheel": ["--wheel", __file__],
        "must not be above the threshold": ["--negative-threshold", "0.9"],
    }
    for message, arguments in cases.items():
        assert run(["fetch", "silero-vad", "--out", str(out), *arguments]) == 2
        assert message in capsys.readouterr().err
    failed = SimpleNamespace(returncode=1, stderr="noise\nERROR: no network here\n")
    monkeypatch.setattr(
        FETCH,
        "subprocess",
        SimpleNamespace(run=lambda *_, **__: failed, TimeoutExpired=subprocess.TimeoutExpired),
    )
    assert run(["fetch", "silero-vad", "--out", str(out)]) == 2
    assert "ERROR: no network here. With a wheel at hand: --wheel FILE" in capsys.readouterr().err
    assert not out.exists()
