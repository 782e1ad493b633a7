"""The commands that install optional packages, as they work for the installation at hand."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution, version
from urllib.parse import unquote, urlsplit

DISTRIBUTION = "carryover-server"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
EXTRAS: Mapping[str, str] = {
    "torch": "train",
    "matplotlib": "train",
    "onnx": "onnx",
    "onnxruntime": "onnx",
}
"""Package -> the extra that brings it."""


def installed_version() -> str:
    """The version of the distribution."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0+unknown"


def install_command(extra: str, *, cuda: bool = False) -> str:
    """The command that adds an extra to this installation and leaves the rest of it as it is.

    Without `cuda`, the CPU wheel of torch is taken on Linux, where PyPI's brings CUDA.
    """
    words = [sys.executable, "-m", "pip", "install", *_requirement(extra)]
    if extra == "train" and sys.platform == "linux" and not cuda:
        words += ["--extra-index-url", TORCH_CPU_INDEX]
    return shlex.join(words)


def _requirement(extra: str) -> list[str]:
    """Arguments of pip: a clone stays editable, and a wheel that came from a file is taken from there."""
    try:
        record = distribution(DISTRIBUTION).read_text("direct_url.json")  # PEP 610
    except PackageNotFoundError:
        record = None
    source = json.loads(record) if record else {}
    url, folder = str(source.get("url", "")), source.get("dir_info")
    if folder is not None and url.startswith("file:"):
        path = f"{unquote(urlsplit(url).path)}[{extra}]"
        return ["--editable", path] if folder.get("editable") else [path]
    return [f"{DISTRIBUTION}[{extra}] @ {url}" if url else f"{DISTRIBUTION}[{extra}]"]
