"""The examples run as their first paragraphs say, shortened here, and draw their figures."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

OUTPUTS = {
    "weather": ("one hour ahead, RMSE in degrees: carried", "interval held"),
    "gaps": ("gaps left to the session", "last reading repeated"),
    "replay": ("200 sessions, 4,000 observations", "RMSE one hour ahead"),
}


def test_every_example_is_run():
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__", "common"}
    assert names == set(OUTPUTS)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_runs_and_draws(name, tmp_path):
    figure = tmp_path / "figure.png"
    steps = "20" if name == "replay" else "96"
    short = ["--steps", steps, "--learn", "400", "--epochs", "1", "--out", str(figure)]
    command = [sys.executable, "-m", f"examples.{name}", *short]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(words in done.stdout for words in OUTPUTS[name])
    assert figure.read_bytes().startswith(b"\x89PNG")
