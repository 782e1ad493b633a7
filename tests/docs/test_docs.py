"""What the README and the docs say is done here as it stands there: every block of code is run, in order.

A page's blocks share a folder, a namespace and, from the first that asks one, a server with the models that
the page has trained by then. A block that cannot be run is marked `<!-- not run: why -->` on the line before.
What such blocks of the page on Keras write lies in `keras/`: the graph and the sample that Keras 3.15.1,
TensorFlow 2.21.0 and tf2onnx 1.17.0 wrote when they ran them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from app.config import SHIPPED_MODELS
from tests.helpers.paths import ROOT
from tests.system.test_serve import serving

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
HOST = "localhost:8000"
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]*?) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
RUN = {"python", "sh", "console"}
KEPT = {
    "docs/how-to/keras.md": Path(__file__).with_name("keras"),
    "docs/tutorial/poem.md": ROOT / "examples" / "text",
}  # files that blocks which are not run write
READ = {"toml", "javascript", "json", "text", "yaml", "ini"}  # shown, not done
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
DRAWN = {"epoch", "epochs", "created", "updated", "expires"}  # by the server, anew each time


@dataclass
class Block:
    """A fenced block: its kind, its text, and why it is not run."""

    kind: str
    text: str
    why: str | None
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["kind"], found["text"], found["why"], text.count("\n", 0, found.start("text")))
        for found in FENCE.finditer(text)
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(SHIPPED_MODELS) as (_, port):
        yield f"127.0.0.1:{port}"


def delete_sessions(server: str) -> None:
    """Delete all sessions: several pages use the same names."""
    with httpx.Client(base_url=f"http://{server}", timeout=30) as http:
        for session in http.get("/sessions").raise_for_status().json()["sessions"]:
            http.delete(f"/sessions/{session['session']}").raise_for_status()


class Reader:
    """Runs the blocks of a page, in a folder of its own."""

    def __init__(self, folder: Path, server: str, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self.server = server  # of the shipped model, for pages that have trained none
        self.stack = stack
        stack.callback(self.leave)
        self.namespace: dict[str, Any] = {"__name__": "docs"}
        self.address: str | None = None

    def leave(self) -> None:
        for value in self.namespace.values():
            if isinstance(value, httpx.Client):
                value.close()

    def do(self, page: Path, block: Block) -> bool:
        text = self.served(block.text)
        if block.kind == "python":
            exec(compile(text, f"{page}:{block.line}", "exec"), self.namespace)
        elif block.kind == "sh":
            self.shell(text)
        else:
            for command, expected in transcript(text):
                compare(self.shell(command), expected)
        return True

    def served(self, text: str) -> str:
        """The text, asking the server that there is."""
        if HOST not in text:
            return text
        if self.address is None:
            self.address = self.trained_server() if (self.folder / "runs").exists() else self.server
        return text.replace(HOST, self.address)

    def trained_server(self) -> str:
        models = os.pathsep.join([str(SHIPPED_MODELS), str(self.folder / "runs")])
        _, port = self.stack.enter_context(serving(SHIPPED_MODELS, CARRYOVER_MODELS=models))
        return f"127.0.0.1:{port}"

    def shell(self, text: str) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=os.environ | {"PATH": path, "COLUMNS": "100"},
            check=False,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout


# Of PyTorch's older exporter, which the pages use because the newer one freezes the number of steps.
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning")
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_does_what_it_says(page, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    delete_sessions(server)
    if (kept := KEPT.get(page.relative_to(ROOT).as_posix())) is not None:
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    with contextlib.ExitStack() as stack:
        reader = Reader(tmp_path, server, stack)
        done = [reader.do(page, block) for block in blocks(page) if block.why is None and block.kind in RUN]
    assert all(done)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_block_is_of_a_known_kind_and_one_that_is_not_run_says_why(page):
    assert [block for block in blocks(page) if block.kind not in RUN | READ] == []
    assert [block for block in blocks(page) if block.why is not None and len(block.why) < 10] == []
    assert page.read_text().count("\n```") == 2 * len(blocks(page)), "a block that is not closed"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_and_picture_of_a_page_leads_somewhere(page):
    linked = [link for link in LINK.findall(page.read_text()) if not link.startswith(("http", "mailto:"))]
    assert [link for link in linked if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ('{"a":[1.0,2.00001],"epoch":"x"}', '{"a":[1.0,2.0],"epoch":"y"}', True),
        ('{"a":[1.0,2.1]}', '{"a":[1.0,2.0]}', False),
        ('{"a":1,"b":{"c":2},"d":3}', '{"a":1,...,"d":3}', True),
        ('{"a":1,"d":4}', '{"a":1,...,"d":3}', False),
        ("epoch 3 of 20", "epoch 3 ...", True),
        ("epoch 4", "epoch 3 ...", False),
    ],
)
def test_a_transcript_is_compared_by_what_it_means(actual, expected, same):
    if same:
        compare(actual, expected)
        assert actual
    else:
        with pytest.raises(AssertionError):
            compare(actual, expected)


def transcript(text: str) -> list[tuple[str, str]]:
    """The commands behind each `$`, and what each is answered."""
    parts = re.split(r"^\$ ", text, flags=re.M)[1:]
    split = (part.partition("\n") for part in parts)
    return [(command.partition("      # ")[0], expected.strip()) for command, _, expected in split]


def compare(actual: str, expected: str) -> None:
    """Pass where both mean the same: JSON to four digits, anything for `...`, what is drawn left out."""
    if not expected:
        return
    if "..." in expected:
        pattern = ".*".join(re.escape(_without_drawn(part.strip())) for part in expected.split("..."))
        assert re.fullmatch(pattern, _without_drawn(actual.strip()), re.S), f"{actual}\nis not\n{expected}"
        return
    try:
        got, wanted = json.loads(actual), json.loads(expected)
    except ValueError:
        assert actual.split() == expected.split()
        return
    assert got == _about(wanted)


def _without_drawn(text: str) -> str:
    """The text less what differs from run to run, or, as last digits do, between processors."""
    text = re.sub(r"-?\d+\.\d{5,}", lambda number: f"{float(number[0]):.4f}", text)
    text = re.sub(r"^id: [0-9a-f]{16}", "id: ", text, flags=re.M)
    return re.sub(r'"(epoch|created|updated|expires)":"[^"]*"', r'"\1":""', text)


def _about(value: Any) -> Any:
    """Equal to whatever is as good as this value."""
    if isinstance(value, dict):
        return {name: ANY if name in DRAWN else _about(value) for name, value in value.items()}
    if isinstance(value, list):
        return [_about(value) for value in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
