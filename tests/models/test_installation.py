"""The command that installs an extra fits how Carryover was installed."""

import json
import shlex
import sys

import pytest

from models import installation
from models.installation import EXTRAS, TORCH_CPU_INDEX, install_command

PYTHON = [sys.executable, "-m", "pip", "install"]


class Distribution:
    def __init__(self, source):
        self.source = source

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.source is None else json.dumps(self.source)


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        (
            {"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}},
            ["--editable", "/home/me/my clone[onnx]"],
        ),
        ({"url": "file:///home/me/clone", "dir_info": {}}, ["/home/me/clone[onnx]"]),
        (
            {"url": "file:///tmp/carryover_server-1-py3-none-any.whl", "archive_info": {}},
            ["carryover-server[onnx] @ file:///tmp/carryover_server-1-py3-none-any.whl"],
        ),
        (None, ["carryover-server[onnx]"]),
    ],
    ids=["editable clone", "clone", "wheel", "index"],
)
def test_a_clone_stays_editable_and_a_wheel_comes_from_where_it_came(monkeypatch, source, arguments):
    monkeypatch.setattr(installation, "distribution", lambda name: Distribution(source))
    assert shlex.split(install_command("onnx")) == [*PYTHON, *arguments]


def test_without_metadata_the_command_names_the_distribution(monkeypatch):
    def missing(name: str):
        raise installation.PackageNotFoundError(name)

    monkeypatch.setattr(installation, "distribution", missing)
    assert shlex.split(install_command("onnx")) == [*PYTHON, "carryover-server[onnx]"]


def test_cuda_comes_only_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert TORCH_CPU_INDEX in shlex.split(install_command("train"))
    assert TORCH_CPU_INDEX not in install_command("train", cuda=True)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert TORCH_CPU_INDEX not in install_command("train")
    assert set(EXTRAS.values()) == {"train", "onnx"}
