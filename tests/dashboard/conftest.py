"""One server and one browser for all tests of the dashboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from app.access import keys
from app.config import SHIPPED_MODELS
from models.artifact.files import save
from tests.dashboard.pages import (
    BROWSER,
    WAIT_MS,
    arguments,
    console_text,
    detector,
    faults,
    foreign,
    plant,
    position,
    sums,
    voice,
    wait,
    wav,
)
from tests.helpers.graphs import characters, counter, frames, loudness
from tests.helpers.zoo import artifacts
from tests.system.test_serve import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    for name in ("sine", "shakespeare"):
        shutil.copytree(SHIPPED_MODELS / name, folder / name)
    recurrent = [artifacts()[name] for name in ("adaptive", "planned", "tokens")]
    for artifact in (
        characters(),
        counter(),
        detector(),
        frames(),
        loudness(),
        sums(),
        plant(),
        voice(),
        *recurrent,
    ):
        save(artifact, folder / artifact.name)
    with serving(folder) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    """Chromium; its microphone hears a tone for half a second, then nothing, and so on."""
    from playwright.sync_api import sync_playwright

    tone = 20_000 * np.sin(np.arange(8000)) * (np.arange(8000) < 4000)
    heard = wav(tmp_path_factory.mktemp("microphone") / "voice.wav", tone)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=arguments(heard))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def tabs(browser) -> Iterator[Any]:
    """Where pages are opened: each has a session storage of its own, and nothing is kept beside that."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def page(tabs, server) -> Iterator[Any]:
    """The page, opened; a console error or a request to another host fails the test at its end."""
    opened = tabs.new_page()
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.extend(console_text(message)))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.extend(foreign(request.url, server)))
    opened.goto(server)
    opened.wait_for_selector("#try-model option", state="attached")
    yield opened
    opened.close()
    assert faults(complaints) == []


@pytest.fixture
def streaming(page) -> Iterator[Any]:
    """The page while it streams the sine; stopped at the end."""
    page.fill("#try-pace", "20")
    page.click("#try-start")
    wait(lambda: position(page) > 0, page)
    yield page
    if page.inner_text("#try-start") == "Stop":
        page.click("#try-start")
    wait(lambda: page.inner_text("#try-start") == "Stream", page)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory) -> Iterator[tuple[str, dict[str, str]]]:
    """A server with keys: its address, and the tokens of a streaming key and of an admin by name."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    made = {
        "streamer": keys.generate_key("streamer", tenant="north"),
        "southern": keys.generate_key("southern", tenant="south"),
        "admin": keys.generate_key("admin", tenant="staff", role="admin"),
    }
    keys.write(file, [key for key, _ in made.values()])
    with serving(SHIPPED_MODELS, CARRYOVER_API_KEYS_FILE=str(file)) as (_, port):
        yield f"http://127.0.0.1:{port}", {name: token for name, (_, token) in made.items()}
