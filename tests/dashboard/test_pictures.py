"""The pictures of docs/how-to/dashboard.md: `make pictures` takes them, of this code."""

from __future__ import annotations

import io
import json
import os
import urllib.request
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dashboard.pages import (
    BROWSER,
    arguments,
    in_browser,
    in_colour,
    observe,
    opened,
    plant_rows,
    position,
    post,
    rows_of,
    table,
    wait,
)
from tests.helpers.paths import ROOT

IMAGES = ROOT / "docs" / "images"
SCHEMES = {
    "light": {"color_scheme": "light", "viewport": {"width": 1180, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1180, "height": 860}},
    "phone": {
        "color_scheme": "light",
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
    },
}
ROW_SIDE = 520  # pixels of the pictures in README's row
COLOURS = 256  # of a picture: enough for text and lines, and a third of the bytes

pytestmark = [
    in_browser,
    pytest.mark.skipif(not os.environ.get("PICTURES"), reason="writes docs/images: make pictures"),
]


class Camera:
    """Writes pictures of one scheme."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def take_for_row(self, page: Any, name: str) -> None:
        """Write the top of the session's part, for README's row of pictures; in one scheme only."""
        if self.scheme == "light":
            page.set_viewport_size({"width": ROW_SIDE, "height": ROW_SIDE})
            page.evaluate("document.getElementById('detail').scrollIntoView()")
            page.wait_for_timeout(300)  # the charts are drawn anew for this width
            self.take(page, f"row-{name}")

    def take(self, page: Any, name: str, part: str | None = None) -> None:
        """Write the page, or a part of it."""
        from PIL import Image

        page.evaluate("document.getElementById('toast').textContent = ''")
        whole = page.screenshot(animations="disabled", caret="hide") if part is None else None
        png = whole or page.locator(part).screenshot(animations="disabled", caret="hide")
        image = (
            Image.open(io.BytesIO(png))
            .convert("RGB")
            .quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        )
        image.save(IMAGES / f"dashboard-{name}-{self.scheme}.png", optimize=True)


@pytest.fixture(params=SCHEMES)
def scheme(request) -> str:
    return request.param


@pytest.fixture
def view(browser, server, scheme) -> Any:
    context = browser.new_context(**SCHEMES[scheme], timezone_id="Europe/Berlin", locale="en-GB")
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector("#try-model option", state="attached")
    yield page
    context.close()


@pytest.fixture(scope="module")
def many(server) -> None:
    """Sessions of a plant, some of them with labels."""
    for i, (site, line) in enumerate([("north", "1"), ("north", "2"), ("south", "1"), ("south", "3")]):
        labels = {"site": site, "line": line}
        session = f"boiler-{i + 1}"
        post(server, "/sessions", {"id": session, "model": "plant", "level": 0.9, "labels": labels})
        observe(server, session, **plant_rows(300, seed=i), score=True)
    pumps = [f"pump-{i:03}" for i in range(140)]
    body = {"sessions": pumps, "observations": [[[0.1], [0.2]]] * len(pumps), "model": "sine"}
    assert post(server, "/observations", body)["errors"] == {}


def hover(page: Any, across: float, figure: int = 0) -> None:
    box = page.locator("#chart .u-over").nth(figure).bounding_box()
    for by in (0, 2):
        page.mouse.move(box["x"] + across * box["width"] + by, box["y"] + box["height"] / 2)


def test_pictures_of_a_session(view, server, many, scheme):
    camera = Camera(scheme)
    view.goto(f"{server}/#/boiler-2")
    wait(lambda: position(view) >= 300, view)
    wait(lambda: in_colour(view, "--predicted") > 50, view)
    view.fill("#steps", "36")
    view.click("#forecast")
    wait(lambda: in_colour(view, "--forecast") > 20, view)
    wait(lambda: "of power: RMSE" in view.inner_text("#summary"), view)
    view.select_option("#window", "200")
    view.locator("#detail").scroll_into_view_if_needed()
    view.evaluate("document.getElementById('detail').scrollIntoView()")
    hover(view, 0.4)
    camera.take(view, "session")
    box = view.locator("#chart .u-over").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    view.mouse.move(box["x"] + 0.4 * box["width"], middle)
    view.mouse.down()
    view.mouse.move(box["x"] + 0.65 * box["width"], middle, steps=4)
    view.mouse.up()
    at = position(view)
    observe(server, "boiler-2", **plant_rows(12, at, seed=1), score=True)
    wait(lambda: "12 newer" in view.inner_text("#frozen-text"), view)
    view.mouse.move(0, 0)
    camera.take(view, "zoom")
    view.click("#live")
    view.evaluate("document.querySelector('#actions').scrollIntoView({block: 'center'})")
    view.click("#delete")
    camera.take(view, "delete")
    view.click("#ask-no")


def test_pictures_of_the_list_and_of_models(view, server, many, scheme):
    camera = Camera(scheme)
    view.goto(f"{server}/#list?label=site:north&model=plant")
    wait(lambda: rows_of(view) and set(rows_of(view)) <= {"boiler-1", "boiler-2", "boiler-7"}, view)
    camera.take(view, "filter", "section:has(#sessions)")
    view.goto(f"{server}/#list?")
    wait(lambda: len(rows_of(view)) == 100, view)
    camera.take(view, "list", "section:has(#sessions)")
    view.goto(f"{server}/#model/sine")
    wait(lambda: view.is_visible("#model-figure"), view)
    camera.take(view, "model", "#model")


@pytest.fixture(scope="module")
def alarmed(server) -> None:
    """Boilers with alerts: of the first it is raised and over, of the second it is raised."""
    step = {"alarms_per_week": 1, "kind": "any", "refractory": "6h"}
    for i, (site, alert) in enumerate(
        [("north", step), ("south", {"score_above": 0.999, "clear_after": 200})]
    ):
        session = f"kiln-{i + 1}"
        body = {"id": session, "model": "plant", "level": 0.9, "labels": {"site": site}, "alert": alert}
        post(server, "/sessions", body)
        rows = plant_rows(432, seed=20 + i)
        for at in range(330, 336):
            rows["observations"][at][i] += 25.0
        observe(server, session, **rows, score=True)


def test_pictures_of_alerts(view, server, many, alarmed, scheme):
    camera = Camera(scheme)
    view.goto(f"{server}/#list?prefix=kiln")
    wait(lambda: view.locator("#alerts li").count() >= 2, view)
    wait(lambda: set(rows_of(view)) == {"kiln-1", "kiln-2"}, view)
    wait(lambda: view.locator("#rows .pill").count() >= 1, view)
    view.evaluate("document.getElementById('alerts-part').scrollIntoView()")
    camera.take(view, "alerts")
    view.goto(f"{server}/#/kiln-1")
    wait(lambda: position(view) >= 432, view)
    view.select_option("#window", "200")
    wait(lambda: in_colour(view, "--danger") > 20, view)
    wait(lambda: "a week" in view.inner_text("#alert-summary"), view)
    view.click("#alert-summary")
    camera.take(view, "alert", "#detail")


def test_pictures_of_errors_with_and_without_the_carry(view, scheme):
    camera = Camera(scheme)
    view.fill("#try-pace", "20")
    view.click("#try-start")
    wait(lambda: position(view) >= 400, view)
    view.click("#try-start")
    wait(lambda: view.inner_text("#try-start") == "Stream", view)
    wait(lambda: len(table(view, "rmse")) == 1, view)
    view.fill("#steps", "100")
    view.click("#forecast")
    wait(lambda: in_colour(view, "--forecast") > 20, view)
    view.evaluate("scrollTo(0, 0)")
    camera.take(view, "try")
    camera.take_for_row(view, "sensor")


def test_pictures_of_keys_and_of_an_empty_server(browser, guarded, scheme):
    camera = Camera(scheme)
    server, tokens = guarded
    body = json.dumps({"observations": [0.1, 0.2]}).encode()
    headers = {"authorization": f"Bearer {tokens['streamer']}"}
    call = urllib.request.Request(f"{server}/sessions/pump-9/observations", body, headers, method="POST")
    urllib.request.urlopen(call, timeout=30).close()
    with opened(browser, server, **SCHEMES[scheme]) as page:
        page.fill("#ask-input", "cyo_wrong")
        page.click("#ask-yes")
        wait(lambda: "does not know" in page.inner_text("#ask-text"), page)
        camera.take(page, "key")
    with opened(browser, server, tokens["southern"], **SCHEMES[scheme]) as page:
        wait(lambda: page.is_visible("#first"), page)
        page.evaluate("document.getElementById('sessions-title').scrollIntoView()")
        camera.take(page, "empty", "section:has(#sessions)")
    with opened(browser, server, tokens["admin"], **SCHEMES[scheme]) as page:
        wait(lambda: page.is_visible("#tenant"), page)
        page.select_option("#tenant", "*")
        wait(lambda: "north/pump-9" in rows_of(page), page)
        page.evaluate("scrollTo(0, 0)")
        camera.take(page, "tenant")


def test_pictures_of_a_text(view, server, scheme):
    camera = Camera(scheme)
    session = f"romeo-{scheme}"
    post(server, "/sessions", {"id": session, "model": "shakespeare"})
    view.goto(f"{server}/#/{session}")
    wait(lambda: view.inner_text("#detail-title") == session and view.is_visible("#text-empty"), view)
    view.fill("#prompt", "ROMEO:\nThe sea ")
    view.fill("#seed", "7")
    view.locator("#length").fill("420")
    view.locator("#temperature").fill("0.6")
    view.click("#write")
    wait(lambda: view.inner_text("#text-status") == "Done: 420 tokens.", view)
    wait(lambda: position(view) == 435, view)
    camera.take(view, "text", "#detail")
    view.fill("#branch-at", "180")
    view.locator("#branch-at").press("Enter")
    wait(lambda: view.is_visible("#ask"), view)
    view.evaluate("document.getElementById('detail').scrollIntoView()")
    camera.take(view, "branch")
    view.click("#ask-no")
    view.fill("#branch-at", "435")
    view.evaluate("document.activeElement.blur()")
    camera.take_for_row(view, "text")


def test_pictures_of_a_voice(browser, server, scheme, tmp_path):
    camera = Camera(scheme)
    listening = browser.browser_type.launch(
        executable_path=BROWSER, args=arguments(utterances(tmp_path / "voice.wav"))
    )
    try:
        page = listening.new_context(**SCHEMES[scheme], locale="en-GB").new_page()
        page.goto(server)
        page.wait_for_selector("#try-model option", state="attached")
        page.select_option("#try-model", "voice")
        page.click("#try-start")
        wait(lambda: len(table(page, "segments")) >= 6, page)
        page.click("#try-start")
        wait(lambda: page.inner_text("#try-start") == "Stream", page)
        wait(lambda: position(page), page)
        camera.take(page, "voice", "#detail")
        camera.take_for_row(page, "voice")
    finally:
        listening.close()


def utterances(path: Path) -> Path:
    """A sound like that of somebody who speaks: syllables of a falling pitch, and pauses."""
    random, rate = np.random.default_rng(7), 16_000
    parts = []
    for syllables in (3, 5, 2, 6, 4):
        for _ in range(syllables):
            at = np.arange(int(rate * random.uniform(0.12, 0.22))) / rate
            pitch = random.uniform(110, 160) - 60 * at
            voiced = sum(np.sin(2 * np.pi * k * pitch * at) / k for k in range(1, 9))
            parts.append(0.45 * random.uniform(0.6, 1) * voiced * np.abs(np.sin(np.pi * at / at[-1])) ** 0.5)
            parts.append(0.004 * random.standard_normal(int(rate * 0.03)))
        parts.append(0.004 * random.standard_normal(int(rate * random.uniform(0.35, 0.8))))
    sound = np.clip(np.concatenate(parts), -1, 1)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((32_767 * sound).astype("<i2").tobytes())
    return path
