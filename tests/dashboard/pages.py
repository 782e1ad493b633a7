"""What the tests of the dashboard share: networks, and what a page shows."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
import wave
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

from models.artifact.artifact import Artifact
from models.artifact.graph_artifact import GraphArtifact
from models.artifact.learning import Learning
from models.data.scaling import Column, Scaling
from models.nets.recurrent import RecurrentNetwork
from models.nets.samples import Samples, SpeechEvents
from models.nets.signature import Port, Signature, State
from tests.helpers.graphs import OPSET, graph_bytes, loudness, node

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_MS = 15_000

in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")


def detector(name: str = "detector") -> GraphArtifact:
    """How probable it is that the level is high, and the probabilities of three classes."""
    graph = graph_bytes(
        [
            node("Mul", ["mean", "keep"], ["kept"]),
            node("Add", ["kept", "level"], ["mean_out"]),
            node("Sigmoid", ["mean_out"], ["high"]),
            node("Mul", ["mean_out", "slopes"], ["sloped"]),
            node("Softmax", ["sloped"], ["classes"]),
        ],
        [("level", "float32", ["b", 1]), ("mean", "float32", ["b", 1])],
        [("high", "float32", ["b", 1]), ("classes", "float32", ["b", 3]), ("mean_out", "float32", ["b", 1])],
        keep=np.array(0.8, np.float32),
        slopes=np.array([[-1, 0.1, 1]], np.float32),
    )
    signature = Signature(
        inputs=(Port("level", "level", shape=(1,), range=(-2, 2), unit="m"),),
        outputs=(
            Port("high", "high", shape=(1,), kind="probability"),
            Port("classes", "classes", shape=(3,), kind="probability", columns=("low", "middle", "top")),
        ),
        states=(State("mean", "mean_out", np.zeros(1, np.float32)),),
    )
    return GraphArtifact(name, graph, OPSET, signature, metrics={"test": {"accuracy": 0.9375}})


def sums(name: str = "sums") -> GraphArtifact:
    """The sums of 24 numbers that come in together."""
    graph = graph_bytes(
        [node("Add", ["x", "sum"], ["sum_out"])],
        [("x", "float32", ["b", 24]), ("sum", "float32", ["b", 24])],
        [("sum_out", "float32", ["b", 24])],
    )
    signature = Signature(
        inputs=(Port("x", "x", shape=(24,), range=(1, 9)),),
        outputs=(Port("total", "sum_out", shape=(24,)),),
        states=(State("sum", "sum_out", np.zeros(24, np.float32)),),
    )
    return GraphArtifact(name, graph, OPSET, signature)


def voice(name: str = "voice") -> GraphArtifact:
    """Whether a frame of 32 ms is loud; what is loud for a while is speech."""
    events = SpeechEvents("speech", threshold=0.35, min_speech_ms=64, min_silence_ms=100, speech_pad_ms=30)
    return replace(loudness(name, frame=256, context=32), samples=Samples(8000, events))


def plant(name: str = "plant") -> Artifact:
    """A boiler's temperature and power every ten minutes, whose sessions learn to predict them."""
    inputs = (
        Column("temperature", "°C"),
        Column("power", "kW"),
        Column("hour_of_day_sin"),
        Column("hour_of_day_cos"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = RecurrentNetwork(len(inputs), 8, 1, 2, [0, 1])
    weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}
    persistence = {key: np.zeros_like(weights[key]) for key in ("fc.weight", "fc.bias")}
    scaling = Scaling(np.array([60.0, 12.0, 0.0, 0.0]), np.array([10.0, 4.0, 1.0, 1.0]))
    return Artifact(
        name=name,
        inputs=inputs,
        targets=("temperature", "power"),
        hidden_size=8,
        num_layers=1,
        scaling=scaling,
        target_scaling=scaling.pick([0, 1]),
        weights=weights | persistence,
        predicts="change",
        learning=Learning("rls", inputs=True, forgetting=0.999, levels=(0.9,)),
        time_features=("hour_of_day",),
        interval_seconds=600.0,
        metrics={"test": {"mae": 0.41, "skill": 0.83}},
    )


def plant_rows(steps: int, first: int = 0, seed: int = 0) -> dict[str, Any]:
    """Observations and timestamps of the boiler from this step on; step 0 begins 5 March 2026."""
    at = np.arange(first, first + steps)
    noise = np.random.default_rng([seed, first]).normal(size=(steps, 2))
    day = 2 * np.pi * at / 144
    temperature = 60 + 9 * np.sin(day) + 2.5 * np.sin(5 * day) + 0.3 * noise[:, 0]
    power = 12 + 3.5 * np.sin(day + 1.4) + 1.2 * np.sin(7 * day) + 0.2 * noise[:, 1]
    begin = datetime(2026, 3, 5, tzinfo=UTC).timestamp()
    return {
        "observations": np.stack([temperature, power], 1).round(2).tolist(),
        "timestamps": (begin + 600.0 * at).tolist(),
    }


def wav(path: Path, samples: np.ndarray) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def arguments(heard: Path) -> list[str]:
    """Of a Chromium whose microphone hears this WAV file again and again."""
    return [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={heard}",
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # it does not work as root, as in a container
    ]


def console_text(message: Any) -> list[str]:
    serious = message.type in {"error", "warning"}
    return [f"{message.text} {message.location['url']}"] if serious else []


def faults(complaints: list[str]) -> list[str]:
    """Those of the page's complaints that are faults of the page.

    The console has a line for each answer with an error, and for a socket that is closed while it connects.
    A file or an alert may be refused, and a session be left at once. A session may be deleted while the page
    asks for it: the first answer says so, and there must be no second.
    """
    found: list[str] = []
    for text in complaints:
        refused = ("400" in text and text.endswith("/rows")) or ("422" in text and text.endswith("/formed"))
        is_left = "closed before the connection is established" in text
        is_deleted = "410 (Gone)" in text and complaints.count(text) == 1
        if not (refused or is_left or is_deleted):
            found.append(text)
    return found


def foreign(url: str, server: str) -> list[str]:
    parts = urlsplit(url)
    local = parts.scheme == "blob" or parts.netloc == urlsplit(server).netloc
    return [] if local else [f"request to {url}"]


def post(server: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def observe(server: str, session: str, observations: Any, **fields: Any) -> Any:
    body = {"observations": list(observations), **fields}
    return post(server, f"/sessions/{session}/observations", body)


def wait(condition: Callable[[], Any], page: Any) -> Any:
    """Wait until the condition is true; returns its value."""
    end = time.monotonic() + WAIT_MS / 1000
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not become true"
        page.wait_for_timeout(50)
    return found


def texts(page: Any, selector: str) -> list[str]:
    """The text of each element as it is shown.

    Playwright's all_inner_texts finds the elements with one call and reads them with another. The page may
    have drawn them anew in between, and an element that is no longer in the page has no line breaks.
    """
    return page.evaluate("(s) => [...document.querySelectorAll(s)].map((e) => e.innerText)", selector)


def texts_within(page: Any, outer: str, inner: str) -> list[list[str]]:
    """For each outer element, the texts of the inner ones in it."""
    return page.evaluate(
        """([outer, inner]) => [...document.querySelectorAll(outer)].map(
            (row) => [...row.querySelectorAll(inner)].map((e) => e.innerText))""",
        [outer, inner],
    )


def texts_in_row(page: Any, session: str, selector: str) -> list[str]:
    """The text of each such element in the row of this session; none if it is not listed."""
    return page.evaluate(
        """([session, selector]) => {
            const isOf = (row) => row.querySelector("a")?.textContent === session;
            const row = [...document.querySelectorAll("#rows tr")].find(isOf);
            return [...(row?.querySelectorAll(selector) ?? [])].map((e) => e.innerText);
        }""",
        [session, selector],
    )


def fact(page: Any, name: str) -> str:
    """A fact that the page shows about the session; empty if it shows none."""
    facts = texts(page, "#facts div")
    return next((text.split("\n")[1] for text in facts if text.split("\n")[0] == name), "")


def position(page: Any) -> int:
    return int(fact(page, "position").replace(",", "") or 0)


def rows_of(page: Any) -> list[str]:
    return texts(page, "#rows a")


def picture(page: Any) -> str:
    """The first figure, once what is known by now has been drawn: that is done with the next frame."""
    return page.evaluate(
        """async () => {
            for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
            return document.querySelector("#chart canvas").toDataURL();
        }"""
    )


def pixels(page: Any, name: str, figure: int = 0) -> np.ndarray:
    """[height, width], which pixels of a figure have about this colour; [0, 0] before there is a figure.

    Parameters
    ----------
    name : of the colour in the style sheet
    """
    width, height, found = page.evaluate(
        """([name, figure]) => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(${name})`;
            const wanted = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            const canvas = document.querySelectorAll('#chart canvas')[figure];
            if (!canvas) return [0, 0, []];
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const pixels = copy.getContext('2d', { willReadFrequently: true });
            pixels.drawImage(canvas, 0, 0);
            const { data } = pixels.getImageData(0, 0, canvas.width, canvas.height);
            const found = [];
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] > 120 && wanted.every((part, j) => Math.abs(data[i + j] - part) < 12))
                    found.push(i / 4);
            return [canvas.width, canvas.height, found];
        }""",
        [name, figure],
    )
    there = np.zeros(width * height, bool)
    there[found] = True
    return there.reshape(height, width)


def in_colour(page: Any, name: str, figure: int = 0) -> int:
    """About how many pixels of a figure have this colour of the style sheet."""
    return int(pixels(page, name, figure).sum())


def watch(page: Any, server: str, session: str, observations: Any, model: str) -> Any:
    """Open the page of a session that does not exist yet, and send it a chunk; returns the answer.

    The position comes with another answer than the chunk: the chart may be drawn later.
    """
    page.goto(f"{server}/#/{session}")
    wait(lambda: page.inner_text("#link") == "live", page)
    wait(lambda: "does not exist" in fact(page, "state"), page)
    answer = observe(server, session, observations, model=model)
    wait(lambda: position(page) == len(observations), page)
    return answer


def enter(page: Any, session: str) -> None:
    """Open another session, as a link or the way back does, also while a dialog is open."""
    page.evaluate("(session) => { location.hash = `/${session}`; }", session)
    wait(lambda: page.inner_text("#detail-title") == session, page)


def captions(page: Any) -> list[str]:
    """What stands above each figure, in one line."""
    return [" ".join(text.split()) for text in texts(page, "#chart figcaption")]


def table(page: Any, name: str) -> list[list[str]]:
    """The cells of the rows of a table."""
    return [[" ".join(text.split()) for text in row] for row in texts_within(page, f"#{name} tr", "th, td")]


class opened:  # noqa: N801  (used as a context)
    """A page of a server with keys, in a context of its own; with a token, the key is typed in."""

    def __init__(
        self, browser: Any, server: str, token: str = "", has_clock: bool = False, **options: Any
    ) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(WAIT_MS)
        self.page = self.context.new_page()
        if has_clock:
            self.page.clock.install()
        self.page.goto(server)
        wait(lambda: self.page.is_visible("#ask-input"), self.page)
        if token:
            self.page.fill("#ask-input", token)
            self.page.click("#ask-yes")
            self.page.wait_for_selector("#try-model option", state="attached")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *error: object) -> None:
        self.context.close()
