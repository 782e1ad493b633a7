"""The dashboard in a real browser: what a person does with it works, live and by keyboard, with no error."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from app import dashboard
from app.access import keys
from app.config import SHIPPED
from app.errors import ConfigError
from tests.system.test_serve import serving

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_MS = 15_000

in_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(SHIPPED) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    # As root, as in a container, Chromium's own sandbox is not to be had.
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server) -> Iterator[Any]:
    """The page, opened; what it complains of or asks of another host fails the test at its end."""
    context = browser.new_context(accept_downloads=True)
    context.set_default_timeout(WAIT_MS)
    one = context.new_page()
    complaints: list[str] = []
    one.on("console", lambda said: complaints.extend(told(said) * (said.type in {"error", "warning"})))
    one.on("pageerror", lambda error: complaints.append(str(error)))
    one.on("request", lambda request: complaints.extend(foreign(request.url, server)))
    one.goto(server)
    one.wait_for_selector("#try-model option", state="attached")
    yield one
    context.close()
    assert complaints == []


def told(said: Any) -> list[str]:
    return [f"{said.text} {said.location['url']}"]


def foreign(url: str, server: str) -> list[str]:
    asked = urlsplit(url)
    return [] if asked.scheme == "blob" or asked.netloc == urlsplit(server).netloc else [f"asked {url}"]


def post(server: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def observe(server: str, session: str, observations: Any) -> Any:
    return post(server, f"/sessions/{session}/observations", {"observations": list(observations)})


def wait(condition: Callable[[], Any], page: Any) -> Any:
    """What the condition is once it is anything."""
    end = time.monotonic() + WAIT_MS / 1000
    while not (found := condition()):
        assert time.monotonic() < end, "it never came true"
        page.wait_for_timeout(50)
    return found


def fact(page: Any, name: str) -> str:
    """What the facts of the session say; empty when they do not."""
    facts = page.locator("#facts div").all_inner_texts()
    return next((text.split("\n")[1] for text in facts if text.split("\n")[0] == name), "")


def position(page: Any) -> int:
    return int(fact(page, "position").replace(",", "") or 0)


def rows_of(page: Any) -> list[str]:
    return page.locator("#rows a").all_inner_texts()


def picture(page: Any) -> str:
    return page.evaluate("document.querySelector('#chart canvas').toDataURL()")


def in_colour(page: Any, name: str) -> int:
    """How many pixels of the chart have this colour of the style sheet, about."""
    return page.evaluate(
        """(name) => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(${name})`;
            const wanted = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            const canvas = document.querySelector('#chart canvas');
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const pixels = copy.getContext('2d', { willReadFrequently: true });
            pixels.drawImage(canvas, 0, 0);
            const { data } = pixels.getImageData(0, 0, canvas.width, canvas.height);
            let found = 0;
            for (let i = 0; i < data.length; i += 4)
                found += data[i + 3] > 120 && wanted.every((part, j) => Math.abs(data[i + j] - part) < 12);
            return found;
        }""",
        name,
    )


@pytest.fixture
def streaming(page) -> Iterator[Any]:
    """The page while it streams the sine; stopped in the end."""
    page.fill("#try-pace", "20")
    page.click("#try-start")
    wait(lambda: position(page) > 0, page)
    yield page
    if page.inner_text("#try-start") == "Stop":
        page.click("#try-start")
    wait(lambda: page.inner_text("#try-start") == "Stream", page)


@in_browser
def test_the_sine_streams_the_line_grows_and_the_carry_is_shown_to_pay(streaming):
    before, drawn = position(streaming), picture(streaming)
    wait(lambda: position(streaming) > before + 200, streaming)
    assert picture(streaming) != drawn
    assert in_colour(streaming, "--predicted") > 100
    assert in_colour(streaming, "--forgetful") > 20
    carried, forgetful = (float(streaming.inner_text(f"#rmse-{one}")) for one in ("carried", "forgetful"))
    assert forgetful > 5 * carried
    assert "factor" in streaming.inner_text("#factor")


@in_browser
def test_reset_zeroes_the_carry_and_leaves_the_position(streaming):
    streaming.click("#try-start")
    wait(lambda: streaming.inner_text("#try-start") == "Stream", streaming)
    wait(lambda: fact(streaming, "since reset") not in ("", "0"), streaming)
    streaming.click("#reset")
    wait(lambda: fact(streaming, "since reset") == "0", streaming)
    assert position(streaming) > 0
    assert "was reset" in streaming.inner_text("#toast")


@in_browser
def test_a_forecast_is_drawn_ahead_of_the_session_which_does_not_move(page, server):
    observe(server, "ahead", np.sin(np.arange(100) / 10))
    page.goto(f"{server}/#/ahead")
    wait(lambda: position(page) == 100, page)
    assert in_colour(page, "--forecast") == 0
    page.fill("#steps", "60")
    page.press("#steps", "Enter")
    wait(lambda: in_colour(page, "--forecast") > 50, page)
    assert "forecast" in page.inner_text("#legend")
    assert position(page) == 100
    observe(server, "ahead", np.sin(np.arange(100, 110) / 10))
    wait(lambda: position(page) == 110, page)
    assert in_colour(page, "--forecast") > 50, "it stays, so that it is seen how it held"


@in_browser
def test_what_another_client_sends_is_seen_live_in_the_chart_in_words_and_in_numbers(page, server):
    observe(server, "pump-7", [0.0])
    page.goto(f"{server}/#/pump-7")
    wait(lambda: page.inner_text("#link") == "live", page)
    page.click("#view summary")
    for at in range(0, 100, 10):
        observe(server, "pump-7", np.sin((np.arange(at, at + 10) + 1) / 10))
    wait(lambda: page.locator("#last tr").count() == 12, page)
    wait(lambda: page.locator("#last tr").first.inner_text().startswith("101"), page)
    assert in_colour(page, "--predicted") > 100
    wait(lambda: "RMSE" in page.inner_text("#summary"), page)


@in_browser
def test_sessions_are_listed_searched_sorted_and_opened_by_keyboard(page, server):
    for session, length in (("boiler-a", 3), ("boiler-b", 1), ("boiler-c", 2)):
        observe(server, session, np.zeros(length))
    page.fill("#search", "boiler-")
    wait(lambda: sorted(rows_of(page)) == ["boiler-a", "boiler-b", "boiler-c"], page)
    page.focus("[data-sort=position]")
    page.keyboard.press("Enter")
    assert rows_of(page) == ["boiler-a", "boiler-c", "boiler-b"]
    page.keyboard.press("Enter")
    assert rows_of(page) == ["boiler-b", "boiler-c", "boiler-a"]
    assert page.get_attribute("th:has([data-sort=position])", "aria-sort") == "ascending"
    page.focus("#rows a")
    page.keyboard.press("Enter")
    wait(lambda: page.inner_text("#detail-title") == "boiler-b", page)
    assert page.get_attribute("#rows a", "aria-current") == "true"


@in_browser
def test_a_session_can_be_forked_exported_and_deleted(page, server):
    observe(server, "origin", [0.1, 0.2])
    page.goto(f"{server}/#/origin")
    wait(lambda: position(page) == 2, page)
    page.click("#fork")
    page.fill("#ask-input", "branch")
    page.click("#ask-yes")
    wait(lambda: "branch" in rows_of(page), page)
    with page.expect_download() as download:
        page.click("#export")
    assert download.value.suggested_filename == "origin.safetensors"
    assert Path(download.value.path()).stat().st_size > 500
    page.click("#delete")
    page.click("#ask-no")
    assert page.inner_text("#detail-title") == "origin"
    page.click("#delete")
    page.click("#ask-yes")
    wait(lambda: "origin" not in rows_of(page) and "branch" in rows_of(page), page)
    assert page.inner_text("#detail-title") == "No session chosen"


@in_browser
def test_a_dropped_csv_is_streamed_to_its_end(page, tmp_path):
    file = tmp_path / "<b>readings.csv"
    rows = [f"2026-01-01;{x:.4f};{x * 2:.4f}" for x in np.sin(np.arange(130) / 10)]
    file.write_text("\n".join(["time;value;twice", *rows]))
    page.set_input_files("#try-file", file)
    wait(lambda: "130 rows of time, value, twice" in page.inner_text("#try-source"), page)
    assert page.inner_text("#try-source").startswith("<b>readings.csv")
    page.fill("#try-pace", "50")
    page.click("#try-start")
    wait(lambda: position(page) == 130, page)
    wait(lambda: page.inner_text("#try-start") == "Stream", page)
    assert page.locator("#rows a", has_text="forgetful").count() == 0


@in_browser
def test_a_csv_without_numbers_is_refused_in_words(page, tmp_path):
    file = tmp_path / "names.csv"
    file.write_text("name\nanna\nbob\n")
    page.set_input_files("#try-file", file)
    wait(lambda: "2 rows" in page.inner_text("#try-source"), page)
    page.click("#try-start")
    wait(lambda: "the model takes 1 columns of numbers, the file has 0" in page.inner_text("#toast"), page)


@in_browser
@pytest.mark.parametrize(
    ("text", "names", "values", "times"),
    [
        ("a,b\n1,2\n3,\n", ["a", "b"], [[1, 2], [3, None]], None),
        ("\ufeffa;b\r\n1.5;-2e3\r\n", ["a", "b"], [[1.5, -2000]], None),
        ("1\t2\n3\t4", ["column 1", "column 2"], [[1, 2], [3, 4]], None),
        ('"x, ""y""",z\n"1",2', ['x, "y"', "z"], [[1, 2]], None),
        (
            "t,v\n1970-01-02 00:00:00,7\n1970-01-02T01:00:00+01:00,8",
            ["t", "v"],
            [[None, 7], [None, 8]],
            [86400] * 2,
        ),
        ("t,v\n1970-01-02,7\nsoon,8", ["t", "v"], [[None, 7], [None, 8]], None),
    ],
)
def test_a_csv_is_read_whatever_its_separator_its_quotes_and_its_times(page, text, names, values, times):
    read = page.evaluate(
        "async (text) => (await import('/dashboard/series.js')).parsed(text)",
        text,
    )
    assert (read["names"], read["values"], read["times"]) == (names, values, times)


@in_browser
def test_thousands_of_points_are_drawn_without_stutter(page, server):
    page.goto(f"{server}/#/many")
    wait(lambda: page.inner_text("#link") == "live", page)
    page.select_option("#window", "20000")
    for _ in range(20):
        observe(server, "many", np.sin(np.arange(1000) / 10))
    wait(lambda: position(page) == 20_000, page)
    page.evaluate(
        "window.frames_ = []; let last = performance.now();"
        "(function next(now) { frames_.push(now - last); last = now; requestAnimationFrame(next); })(last)"
    )
    for _ in range(20):
        observe(server, "many", np.zeros(50))
    wait(lambda: position(page) == 21_000, page)
    frames = page.evaluate("frames_.slice(1)")
    assert np.median(frames) < 50, f"median frame {np.median(frames):.0f} ms"


@in_browser
def test_a_server_with_keys_is_asked_for_one_that_stays_out_of_addresses(browser, tmp_path):
    file = tmp_path / "keys.json"
    key, token = keys.made("reader")
    keys.write(file, [key])
    with serving(SHIPPED, CARRYOVER_API_KEYS_FILE=str(file)) as (_, port):
        context = browser.new_context()
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        page.goto(f"http://127.0.0.1:{port}")
        page.fill("#ask-input", token)
        page.click("#ask-yes")
        page.wait_for_selector("#try-model option", state="attached")
        page.fill("#try-pace", "20")
        page.click("#try-start")
        wait(lambda: position(page) > 0, page)
        page.click("#try-start")
        assert page.evaluate("sessionStorage.getItem('carryover.key')") == token
        assert page.evaluate("localStorage.length") == 0
        assert len(asked) > 5
        assert [url for url in asked if token in url] == []
        context.close()


def test_the_page_allows_no_script_of_its_own_or_of_others(server):
    with urllib.request.urlopen(f"{server}/", timeout=30) as answer:
        policy, html = answer.headers["content-security-policy"], answer.read().decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\ssrc=)|\son\w+=|style=|https?://", html)


def test_what_has_not_changed_is_not_sent_again(server):
    with urllib.request.urlopen(f"{server}/dashboard/style.css", timeout=30) as answer:
        tag = answer.headers["etag"]
    again = urllib.request.Request(f"{server}/dashboard/style.css", headers={"if-none-match": tag})
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(again, timeout=30)
    assert unchanged.value.code == 304
    unchanged.value.close()


def test_every_file_that_the_page_names_is_there():
    files = dashboard.assets()
    texts = [file.body.decode() for name, file in files.items() if not name.startswith(("uplot", "swagger"))]
    named = {name for text in texts for name in re.findall(r'"(?:\./|dashboard/)([\w.-]+)"', text)}
    assert "trail.js" in named
    assert named - set(files) == set()


@pytest.mark.parametrize(("part", "file"), [("CHART", "uplot.min.css"), ("API_PAGE", "swagger-ui-bundle.js")])
def test_a_file_of_others_that_is_not_as_it_was_published_is_refused(monkeypatch, part, file):
    carried = getattr(dashboard, part)
    monkeypatch.setattr(dashboard, part, replace(carried, files=carried.files | {file: "0" * 64}))
    with pytest.raises(ConfigError, match=f"{file} is not {carried.name} as published"):
        dashboard.assets()


@pytest.mark.parametrize("part", ["CHART", "API_PAGE"])
def test_files_of_others_that_are_missing_are_told_with_what_to_install(monkeypatch, part):
    monkeypatch.setattr(dashboard, part, replace(getattr(dashboard, part), package="no_such_package"))
    with pytest.raises(ConfigError, match="pip install no-such-package"):
        dashboard.assets()


def test_the_page_of_the_api_and_all_that_it_names_come_from_this_server(server):
    with urllib.request.urlopen(f"{server}/docs", timeout=30) as answer:
        page, policy = answer.read().decode(), answer.headers["content-security-policy"]
    assert "//" not in page  # no address of another host, with a scheme or without
    assert "http" not in policy
    assert "unsafe" not in policy
    named = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert len(named) == 4
    for name in named:
        with urllib.request.urlopen(f"{server}/{name}", timeout=30) as answer:
            assert answer.headers["content-security-policy"] == policy
            assert answer.read() == dashboard.assets()[name.removeprefix("dashboard/")].body
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server}/redoc", timeout=30)


@in_browser
def test_the_page_of_the_api_lists_every_operation_and_asks_no_other_host(page, server):
    with urllib.request.urlopen(f"{server}/openapi.json", timeout=30) as answer:
        paths = json.load(answer)["paths"]
    operations = {(method.upper(), path) for path, item in paths.items() for method in item}
    page.goto(f"{server}/docs")
    page.wait_for_selector(".opblock")
    shown = page.eval_on_selector_all(
        ".opblock-summary",
        """(all) => all.map((one) => [
            one.querySelector(".opblock-summary-method").textContent,
            one.querySelector("[data-path]").dataset.path,
        ])""",
    )
    assert {tuple(one) for one in shown} == operations
    page.click(".opblock-summary-get")  # its parameters and answers are drawn under the same policy
    page.wait_for_selector(".opblock.is-open .responses-table")
