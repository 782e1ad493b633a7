"""What the dashboard shows of sessions and models, and what it refuses to do by accident."""

from __future__ import annotations

import json
import os
import struct
import urllib.error
import urllib.request
import zlib
from typing import Any

import numpy as np
import pytest

from app import model_library
from tests.dashboard.pages import (
    enter,
    fact,
    in_browser,
    in_colour,
    observe,
    opened,
    picture,
    plant_rows,
    position,
    post,
    rows_of,
    table,
    texts,
    texts_in_row,
    texts_within,
    wait,
)


def request(server: str, path: str, token: str = "", **headers: str) -> Any:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    if token:
        named["authorization"] = f"Bearer {token}"
    return urllib.request.urlopen(urllib.request.Request(f"{server}{path}", headers=named), timeout=30)


def hover(page: Any, across: float, figure: int = 0) -> str:
    """Put the pointer on a chart, at this share of its width; returns what its tip says."""
    chart = page.locator("#chart .u-over, #surprise .u-over").nth(figure)
    visible = (
        "[...document.querySelectorAll('.tip')].filter((e) => e.checkVisibility()).map((e) => e.innerText)"
    )

    def tips() -> list[str]:
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()  # what is drawn above it may still move it
        page.mouse.move(box["x"] + across * box["width"] - 2, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + across * box["width"], box["y"] + box["height"] / 2)
        return page.evaluate(visible)

    (tip,) = wait(tips, page)
    return " ".join(tip.split())


def zoom(page: Any, start: float, end: float) -> None:
    """Drag over this part of the first chart."""
    chart = page.locator("#chart .u-over").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], middle, steps=4)
    page.mouse.up()


@pytest.fixture(scope="module")
def boiler(server) -> str:
    """A session with timestamps, units, labels and two targets; returns its id."""
    labels = {"site": "harbour", "line": "<b>2</b>"}
    post(server, "/sessions", {"id": "boiler-7", "model": "plant", "level": 0.9, "labels": labels})
    observe(server, "boiler-7", **plant_rows(288), score=True)
    return "boiler-7"


@pytest.fixture
def shown(page, server, boiler) -> Any:
    """The page of that session."""
    page.goto(f"{server}/#/{boiler}")
    wait(lambda: position(page) >= 288, page)
    wait(lambda: in_colour(page, "--predicted") > 50, page)
    return page


@in_browser
def test_a_tip_has_values_units_position_and_time(shown):
    tip = hover(shown, 0.5)
    assert "position" in tip
    assert "Mar 2026" in tip
    names = ("observed", "predicted", "interval")
    assert all(name in tip for name in names)
    assert tip.count("°C") == 3
    assert hover(shown, 0.5, figure=1).count("kW") == 3
    assert "surprise 0." in hover(shown, 0.5, figure=2)


@in_browser
def test_the_axis_has_round_times_where_there_are_timestamps(shown):
    ticks = shown.evaluate(
        """async () => {
            const { timeTicks } = await import("/dashboard/axis.js");
            const positions = Array.from({ length: 40 }, (_, i) => i + 100);
            const start = new Date(2026, 2, 28, 22, 50).getTime() / 1000;
            return timeTicks(positions, positions.map((_, i) => start + 600 * i), 100, 139, 500);
        }"""
    )
    labels = [tick["label"] for tick in ticks]
    assert labels[:3] == ["00:00\n29 Mar", "02:00", "04:00"]
    assert [tick["position"] for tick in ticks[:2]] == [107, 119]
    shown.click("#table-part summary")
    wait(lambda: shown.locator("#last tr").count() == 12, shown)
    heads = [cell.inner_text() for cell in shown.locator("#last-head th").all()]
    assert heads == ["position", "time", "observed (°C)", "predicted (°C)", "interval", "surprise"]
    assert "6 Mar 2026 23:50:00" in table(shown, "last")[0]


@in_browser
def test_times_that_are_missing_or_run_back_leave_positions_on_the_axis(page):
    ticks = page.evaluate(
        """async () => {
            const { timeTicks } = await import("/dashboard/axis.js");
            const at = (times) => timeTicks(times.map((_, i) => i), times, 0, times.length - 1, 500);
            return [at([null, null]), at([5, null]), at([50, 20, 90]), at([7, 7, 7])];
        }"""
    )
    assert ticks == [None] * 4


@in_browser
def test_a_zoom_stands_still_until_live_is_pressed(shown, server, boiler):
    zoom(shown, 0.3, 0.6)
    wait(lambda: shown.is_visible("#live"), shown)
    still = picture(shown)
    before = position(shown)
    observe(server, boiler, **plant_rows(10, before), score=True)
    wait(lambda: "10 newer observations" in shown.inner_text("#frozen-text"), shown)
    shown.mouse.move(0, 0)
    assert picture(shown) == still
    shown.click("#live")
    wait(lambda: shown.is_hidden("#frozen"), shown)
    wait(lambda: picture(shown) != still, shown)
    assert f"position {before + 10:,}" in hover(shown, 0.999) or f"position {before + 11:,}" in hover(
        shown, 0.999
    )


@in_browser
def test_the_surprise_has_a_title_and_says_that_it_warms_up(shown, server, boiler):
    assert shown.inner_text("#surprise-part b") == "Surprise"
    assert "It warms up: 2" in wait(lambda: shown.inner_text("#surprise-note"), shown)
    at = position(shown)
    observe(server, boiler, **plant_rows(600 - at, at), score=True)
    wait(lambda: shown.inner_text("#surprise-note") == "", shown)


@in_browser
def test_each_target_has_its_own_error_in_its_own_unit(shown):
    for name, unit in (("temperature", "°C"), ("power", "kW")):
        assert f" {unit} (skill " in wait(lambda of=name: fact(shown, f"RMSE of {of}"), shown)
    assert fact(shown, "RMSE") == ""
    summary = wait(
        lambda: "power: RMSE" in shown.inner_text("#summary") and shown.inner_text("#summary"), shown
    )
    assert "of temperature: RMSE" in summary
    _, _, _, error, *_ = wait(lambda: texts_in_row(shown, "boiler-7", "td"), shown)
    assert error.startswith("temperature ")
    assert "°C" in error
    assert "kW" in error


@in_browser
def test_trying_a_model_compares_the_errors_of_each_target(page):
    page.select_option("#try-model", "plant")
    page.fill("#try-pace", "20")
    page.click("#try-start")
    wait(lambda: len(table(page, "rmse")) == 2, page)
    page.click("#try-start")
    names = [row[0] for row in table(page, "rmse")]
    assert names == ["temperature (°C)", "power (kW)"]
    wait(lambda: page.inner_text("#try-start") == "Stream", page)


@in_browser
def test_the_list_is_paged_by_the_server_and_has_the_chosen_session(page, server):
    bulk = [f"many-{i:04}" for i in range(240)]
    body = {"sessions": bulk, "observations": [[0.1]] * len(bulk), "model": "sine"}
    post(server, "/observations", body)
    page.goto(f"{server}/#/many-0239")
    page.fill("#search", "many-")
    page.click("[data-sort=surprise]")
    wait(
        lambda: "by surprise. Sessions that are not in memory come last." in page.inner_text("#page-hint"),
        page,
    )
    page.click("[data-sort=name]")
    wait(lambda: rows_of(page) == bulk[:100] and page.is_visible("#page-next"), page)
    page.click("[data-sort=name]")
    wait(lambda: rows_of(page) == bulk[:-101:-1], page)
    page.click("[data-sort=name]")
    wait(lambda: rows_of(page) == bulk[:100], page)
    page.click("#page-next")
    wait(lambda: "many-0100" in rows_of(page), page)
    page.click("#page-next")
    wait(lambda: len(rows_of(page)) == 40, page)
    assert page.is_disabled("#page-next")
    page.click("#page-before")
    wait(lambda: "many-0100" in rows_of(page), page)
    assert page.inner_text("#page-hint") == "Page 2, by id."
    page.fill("#search", "")
    wait(lambda: "boiler" in page.inner_text("#rows") or rows_of(page)[0] == "many-0239", page)
    wait(lambda: rows_of(page)[0] == "many-0239", page)
    assert len(rows_of(page)) == 101, "the chosen session stands above the page that it is not in"


@in_browser
def test_a_list_that_takes_longer_than_its_refresh_is_shown(page, server):
    observe(server, "slow-list", [0.1])
    page.add_init_script(
        """const { fetch, setInterval } = window;
        const later = (answer) => new Promise((resolve) => setTimeout(() => resolve(answer), 300));
        window.setInterval = (call, ms) => setInterval(call, ms / 20); // the list is asked for every 0.1 s
        window.fetch = (...request) => fetch(...request).then(later);"""
    )
    page.reload()
    page.fill("#search", "slow-list")
    wait(lambda: rows_of(page) == ["slow-list"], page)


@in_browser
def test_the_list_shows_labels_and_is_filtered_by_label_and_model(page, server, boiler):
    post(server, "/sessions", {"id": "boiler-8", "model": "plant", "labels": {"site": "south"}})
    page.fill("#search", "boiler-")
    wait(lambda: {"boiler-7", "boiler-8"} <= set(rows_of(page)), page)
    assert sorted(texts_in_row(page, boiler, ".label")) == ["line:<b>2</b>", "site:harbour"]
    row = page.locator("#rows tr", has=page.get_by_text(boiler, exact=True))
    row.locator("button", has_text="site:harbour").click()
    wait(lambda: rows_of(page) == ["boiler-7"], page)
    assert page.input_value("#by-label") == "site:harbour"
    page.fill("#by-label", "site:none")
    wait(lambda: page.inner_text("#none") == "No session is like this.", page)
    assert page.is_hidden("#first")
    page.fill("#by-label", "")
    page.fill("#search", "")
    page.select_option("#by-model", "plant")
    wait(lambda: "boiler-8" in rows_of(page) and page.inner_text("#rows td") == "plant", page)
    assert set(texts(page, "#rows td:nth-of-type(1)")) == {"plant"}


@in_browser
def test_the_page_of_a_model_has_its_figure_its_sessions_and_can_be_loaded_again(page, server, boiler):
    page.goto(f"{server}/#model/sine")
    width = "document.getElementById('model-figure').naturalWidth"  # 0 until the picture is there
    wait(lambda: page.is_visible("#model-figure") and page.evaluate(width) > 300, page)
    page.click("#reload")
    page.click("#ask-yes")
    wait(lambda: "the same as on disk" in page.inner_text("#toast"), page)
    page.goto(f"{server}/#model/plant")
    wait(lambda: page.inner_text("#model-title") == "plant", page)
    wait(lambda: page.is_hidden("#figure-part"), page)
    page.click("#model-list")
    wait(lambda: page.is_hidden("#model") and boiler in rows_of(page), page)
    assert page.input_value("#by-model") == "plant"


@in_browser
def test_delete_looks_dangerous_and_enter_alone_destroys_nothing(page, server):
    observe(server, "precious", [0.1])
    page.goto(f"{server}/#/precious")
    wait(lambda: position(page) == 1, page)
    danger = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--danger')").strip()
    wanted = tuple(int(danger[i : i + 2], 16) for i in (1, 3, 5))
    border = page.evaluate("getComputedStyle(document.getElementById('delete')).borderTopColor")
    assert border == f"rgb{wanted}"
    page.click("#delete")
    assert "cannot be restored" in page.inner_text("#ask-text")
    assert page.evaluate("getComputedStyle(document.getElementById('ask-yes')).backgroundColor") == border
    page.keyboard.press("Enter")
    wait(lambda: page.is_hidden("#ask"), page)
    assert json.load(request(server, "/sessions/precious"))["position"] == 1


@in_browser
def test_an_empty_server_shows_the_command_for_this_address(browser, guarded):
    server, tokens = guarded
    with opened(browser, server, tokens["southern"]) as page:
        command = wait(lambda: page.is_visible("#first") and page.inner_text("#first"), page)
        assert command.startswith(f"curl -s '{server}/sessions/sine-1/observations'")
        assert tokens["southern"] not in command


@in_browser
def test_a_wrong_key_is_said_once_and_not_sent_again(browser, guarded):
    server, tokens = guarded
    with opened(browser, server, has_clock=True) as page:
        assert page.inner_text("#ask-text") == "This server needs an API key."
        page.fill("#ask-input", "ck_wrong")
        page.click("#ask-yes")
        wait(lambda: page.inner_text("#ask-text") == "The server does not know this key.", page)
        page.click("#ask-no")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        page.on("websocket", lambda socket: sent.append(socket.url))
        page.goto(f"{server}/#/pump-7")
        page.clock.run_for(30_000)  # the list, the models and the watch are due many times
        wait(lambda: page.inner_text("#link") == "the server refuses this key", page)
        assert page.is_hidden("#ask")
        assert [url for url in sent if "/dashboard/" not in url] == []
        page.click("#use-key")
        page.fill("#ask-input", tokens["streamer"])
        page.click("#ask-yes")
        page.wait_for_selector("#try-model option", state="attached")
        wait(lambda: page.inner_text("#link") == "live", page)


@in_browser
def test_an_admin_chooses_the_tenant_whose_sessions_are_shown(browser, guarded):
    server, tokens = guarded
    body = json.dumps({"observations": [0.1, 0.2]}).encode()
    headers = {"authorization": f"Bearer {tokens['streamer']}"}
    call = urllib.request.Request(f"{server}/sessions/pump-1/observations", body, headers, method="POST")
    urllib.request.urlopen(call, timeout=30).close()
    with opened(browser, server, tokens["streamer"]) as page:
        wait(lambda: "pump-1" in rows_of(page), page)
        assert page.is_hidden("#tenant-label")
        assert page.goto(f"{server}/#model/sine") is None
        wait(lambda: page.inner_text("#model-title") == "sine", page)
        assert page.is_hidden("#reload"), "only an admin may load a model again"
    with opened(browser, server, tokens["admin"]) as page:
        wait(lambda: page.is_visible("#tenant option") or page.is_visible("#tenant"), page)
        assert rows_of(page) == []
        page.select_option("#tenant", "*")
        wait(lambda: "north/pump-1" in rows_of(page), page)
        page.click("#rows >> text=north/pump-1")
        wait(lambda: page.inner_text("#detail-title") == "pump-1" and position(page) == 2, page)
        assert page.input_value("#tenant") == "north"
        wait(lambda: page.inner_text("#link") == "live", page)  # the socket is the tenant's, too


@in_browser
def test_on_a_telephone_the_chart_comes_into_view_when_a_session_is_chosen(page, server, boiler):
    page.set_viewport_size({"width": 390, "height": 844})
    page.fill("#search", boiler)
    wait(lambda: rows_of(page) == [boiler], page)
    page.locator("#rows a").scroll_into_view_if_needed()
    page.click("#rows a")
    wait(lambda: in_colour(page, "--predicted") > 20, page)
    inside = """() => {
        const { top, bottom } = document.querySelector("#chart canvas").getBoundingClientRect();
        return top >= 0 && bottom <= innerHeight;
    }"""
    wait(lambda: page.evaluate(inside), page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390


# Alerts.


def alarm(server: str, session: str, alert: dict[str, Any], token: str = "", **fields: Any) -> int:
    """Make a session and have its alert raised; returns the position where it is."""
    send(server, "POST", "/sessions", {"id": session, "learning": {"intervals": True}, **fields}, token)
    values = np.sin(np.arange(300) / 5)
    values[250] += 9
    path = f"/sessions/{session}/observations"
    send(server, "POST", path, {"observations": values[:250].tolist()}, token)
    send(server, "PATCH", f"/sessions/{session}", {"alert": alert}, token)
    send(server, "POST", path, {"observations": values[250:].tolist()}, token)
    return 251


def send(server: str, method: str, path: str, body: Any, token: str = "") -> Any:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    call = urllib.request.Request(f"{server}{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(call, timeout=30) as answer:
        return json.load(answer)


def alerts(page: Any) -> list[list[str]]:
    """State, session, cause and place of each alert of the page, the newest first."""
    return texts_within(page, "#alerts > li", "span, a, small")


@in_browser
def test_alerts_are_listed_and_marked_at_the_session_and_in_its_chart(page, server):
    at = alarm(server, "alarmed", {"score_above": 0.99, "clear_after": 1000})
    state, session, cause, place = wait(lambda: alerts(page) and alerts(page)[0], page)
    assert (state, session) == ("raised", "alarmed")
    assert cause.startswith("surprise 0.99")
    assert cause.endswith(", above 0.99")
    assert place.startswith(f"position {at}, ")
    wait(lambda: texts_in_row(page, "alarmed", ".pill") == ["alert"], page)
    page.click("#alerts a")
    wait(lambda: page.inner_text("#detail-title") == "alarmed" and position(page) == 300, page)
    wait(lambda: in_colour(page, "--danger") > 100, page)
    wait(lambda: "alert" in page.inner_text("#legend"), page)
    first = json.load(request(server, "/sessions/alarmed/history"))["from"] + 1
    assert f"alert: {cause}" in hover(page, (at - first) / (301 - first))  # the last prediction is for 301
    assert "alert" not in hover(page, 0.5)
    page.click("#alert-summary")
    wait(lambda: page.inner_text("#alert-summary") == "Alert: surprise above 0.99 raised", page)
    page.check("[name=rule][value=none]")
    page.click("#alert-save")  # no event says that it is over
    wait(lambda: alerts(page)[0][0] == "over", page)
    wait(lambda: rows_of(page) and texts_in_row(page, "alarmed", ".pill") == [], page)


@in_browser
def test_the_form_sets_the_alert_and_a_refusal_stands_at_its_field(page, server):
    post(server, "/sessions", {"id": "formed", "model": "sine", "learning": {"intervals": True}})
    page.goto(f"{server}/#/formed")
    wait(lambda: page.inner_text("#alert-summary") == "Alert: none of its own", page)
    page.click("#alert-summary")
    assert page.locator("#alert-form [data-rule]:visible").count() == 0

    def refused(field: str) -> str:
        (error,) = wait(lambda: texts(page, "#alert-error"), page)
        names = "[...document.querySelectorAll('#alert-form [aria-invalid=true]')].map((e) => e.name)"
        assert page.evaluate(names) == ([field] if field else [])
        return str(error)

    def saved() -> dict[str, Any]:
        page.click("#alert-save")
        wait(lambda: "formed has" in page.inner_text("#toast"), page)
        page.evaluate("document.getElementById('toast').textContent = ''")
        assert page.locator("#alert-error").count() == 0
        alert = json.load(request(server, "/sessions/formed"))["alert"] or {}
        return {name: value for name, value in alert.items() if value is not None}

    page.check("[name=rule][value=limit]")
    page.click("#alert-save")
    assert "needs score_above or outside" in refused("")
    page.fill("[name=score_above]", "1.5")
    page.click("#alert-save")
    assert refused("score_above") == "Input should be less than 1"
    page.fill("[name=score_above]", "0.5")
    page.select_option("[name=outside]", label="90 %")
    page.fill("[name=webhook]", "ops")
    page.click("#alert-save")
    assert refused("webhook") == "there is no webhook 'ops'"
    page.fill("[name=webhook]", "")
    assert saved() == {"score_above": 0.5, "outside": 0.9, "clear_after": 1}
    page.check("[name=rule][value=rate]")
    page.fill("[name=alarms_per_week]", "2")
    page.select_option("[name=kind]", "trend")
    page.click("#alert-save")
    assert "add a step" in refused("step")
    page.fill("[name=step]", "10min")
    assert saved() == {"alarms_per_week": 2, "kind": "trend", "step": "10min", "clear_after": 1}
    assert page.inner_text("#alert-summary") == "Alert: 2 alarms a week (trend)"
    page.check("[name=rule][value=none]")
    assert saved() == {}
    observe(server, "plain", [0.1], model="sine")
    page.goto(f"{server}/#/plain")
    wait(lambda: page.is_visible("#alert-cannot") and page.is_hidden("#alert-form"), page)


@in_browser
def test_a_lost_stream_of_alerts_goes_on_behind_the_last_and_shows_each_once(page, server):
    def block(event_id: str, kind: str, at: int) -> str:
        event = {
            "event": kind, "id": event_id, "session": "far", "epoch": "e", "position": at,
            "time": "2026-11-27T08:00:00Z", "cause": f"<i>{event_id}</i>",
        }  # fmt: skip
        return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(event)}\n\n"

    first, second = block("a", "alert", 3), block("b", "alert", 9)
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.headers["last-event-id"])
        over = block("c", "clear", 5)
        bodies = [first, first + over + second]
        body = ": connected\n\n" + (bodies[len(asked) - 1] if len(asked) <= len(bodies) else "")
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.goto("about:blank")  # the stream of the page as it was opened is no part of this
    page.route("**/events", answer)
    page.goto(server)
    wait(lambda: len(asked) >= 2 and len(alerts(page)) == 2, page)
    assert asked[:2] == ["0", "a"]
    assert [row[:3] for row in alerts(page)] == [["raised", "far", "<i>b</i>"], ["over", "far", "<i>a</i>"]]


@in_browser
def test_an_admin_sees_the_alerts_of_all_tenants_and_enters_that_of_one(browser, guarded):
    server, tokens = guarded
    alarm(server, "watched", {"score_above": 0.99, "clear_after": 1000}, tokens["streamer"], model="sine")
    with opened(browser, server, tokens["southern"]) as page:
        wait(lambda: page.inner_text("#link") == "live", page)
        assert page.is_hidden("#alerts-part")
    with opened(browser, server, tokens["admin"]) as page:
        wait(lambda: page.is_visible("#tenant"), page)
        page.select_option("#tenant", "*")
        wait(lambda: [row[1] for row in alerts(page)] == ["north/watched"], page)
        wait(lambda: texts_in_row(page, "north/watched", ".pill") == ["alert"], page)
        page.click("#alerts a")
        wait(lambda: page.inner_text("#detail-title") == "watched" and position(page) == 300, page)
        assert [row[1] for row in wait(lambda: alerts(page), page)] == ["watched"]


def test_the_figure_of_a_training_needs_the_rights_of_its_model_and_never_leaves_the_folder(guarded):
    server, tokens = guarded
    with pytest.raises(urllib.error.HTTPError, match="401"):
        request(server, "/models/sine/figure")
    with request(server, "/models/sine/figure", tokens["streamer"]) as answer:
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
    for name in ("none", "..%2Fsine", "..", "sine%2F..%2Fsine"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            request(server, f"/models/{name}/figure", tokens["streamer"])


@pytest.mark.parametrize("kind", ["absent", "link", "folder", "text", "pipe", "large"])
def test_only_a_png_in_the_folder_itself_is_a_figure(tmp_path, kind):
    figure = tmp_path / "figure.png"
    png = model_library.PNG_SIGNATURE + zlib.compress(struct.pack(">I", 1))
    outside = tmp_path / "outside"
    outside.write_bytes(png)
    make = {
        "absent": lambda: None,
        "link": lambda: figure.symlink_to(outside),
        "folder": figure.mkdir,
        "text": lambda: figure.write_text("secret"),
        "pipe": lambda: os.mkfifo(figure),
        "large": lambda: figure.write_bytes(png + bytes(model_library.MAX_FIGURE_BYTES)),
    }
    make[kind]()
    assert model_library._read_png(figure) is None
    assert model_library._read_png(outside) == png


def test_errors_of_a_session_are_those_of_each_target(server, boiler):
    errors = json.load(request(server, f"/sessions/{boiler}"))["errors"]
    assert len(errors["by_target"]) == 2
    assert errors["mse"] == pytest.approx(np.mean([target["mse"] for target in errors["by_target"]]))


def generated(server: str, session: str, **fields: Any) -> Any:
    return post(server, f"/sessions/{session}/generate", {"model": "shakespeare", **fields})


def the_text(page: Any, kind: str = "") -> str:
    """What the pane shows, or the part of it of this kind."""
    parts = "(s) => [...document.querySelectorAll(s)].map((e) => e.textContent).join('')"
    return page.evaluate(parts, f"#text span{kind}")


@in_browser
def test_a_new_text_is_written_stopped_and_gone_on_with(page, server):
    page.click("#new-text")
    wait(lambda: page.is_visible("#text-empty"), page)
    session = page.inner_text("#detail-title")
    page.evaluate("document.getElementById('text').style.setProperty('--lines', 5)")
    page.fill("#prompt", "The &amp;sea ")
    page.fill("#seed", "7")
    page.locator("#prompt").press("Tab")
    page.click("#write")
    wait(lambda: page.inner_text("#text-status") == "Done: 200 tokens.", page)
    wait(lambda: the_text(page, ".prompt") == "The &amp;sea ", page)  # drawn with the next frame
    answer = generated(server, "same", prompt="The &amp;sea ", steps=200, seed=7, temperature=0.8)
    wait(lambda: the_text(page, ".written") == answer["text"], page)
    page.check("#on-copy")
    page.click("#write")
    wait(lambda: page.inner_text("#text-status") == "Done: 200 tokens on a copy.", page)
    more = generated(server, "same", steps=200, seed=7, temperature=0.8, keep=False)
    wait(lambda: the_text(page, ".copy") == more["text"], page)
    scrolled, padding, line = page.evaluate(
        "(({ scrollTop }, { paddingTop, lineHeight }) => [scrollTop, paddingTop, lineHeight].map(parseFloat))"
        "(document.getElementById('text'), getComputedStyle(document.getElementById('text')))"
    )
    hidden = scrolled - padding
    assert hidden > line, "the text is scrolled to its end"
    assert hidden / line == pytest.approx(round(hidden / line), abs=0.05), "and its first line is whole"
    assert json.load(request(server, f"/sessions/{session}"))["position"] == 213
    page.reload()
    wait(lambda: the_text(page, ".earlier") == f"The &amp;sea {answer['text']}", page)


@in_browser
def test_a_text_goes_on_behind_a_lost_connection_and_ends_where_it_is_stopped(page, server):
    whole = generated(server, "whole", prompt="The sea ", steps=300, seed=7, temperature=0.8)["text"]
    post(server, "/sessions", {"id": "cut", "model": "shakespeare"})
    resumed = []

    def cut(route: Any) -> None:
        """Answer the first 40 events, and then nothing more; what is behind the last of them is asked for."""
        resumed.append(route.request.headers.get("last-event-id"))
        if len(resumed) > 1:
            route.continue_()
            return
        events = route.fetch().body().split(b"\n\n")[:40]
        route.fulfill(body=b"\n\n".join(events) + b"\n\n", content_type="text/event-stream")

    page.route("**/cut/generate", cut)
    page.goto(f"{server}/#/cut")
    wait(lambda: page.is_visible("#text-empty"), page)
    page.fill("#prompt", "The sea ")
    page.fill("#seed", "7")
    page.locator("#length").fill("300")
    page.click("#write")
    wait(lambda: page.inner_text("#text-status") == "Done: 300 tokens.", page)
    assert the_text(page, ".written") == whole
    assert resumed[0] is None
    assert resumed[1].endswith(".48")
    page.unroute("**/cut/generate")
    page.locator("#length").fill("1000")
    page.evaluate(
        """() => new MutationObserver((_, observer) => {
            observer.disconnect(); // a second press would write again
            document.getElementById("write").click();
        }).observe(document.getElementById("text"), { childList: true })"""
    )
    page.click("#write")
    wait(lambda: "Stopped after" in page.inner_text("#text-status"), page)


@in_browser
def test_tokens_that_come_while_the_text_is_read_are_shown(page, server):
    page.add_init_script(
        """const { fetch } = window;
        window.fetch = async (...request) => {
          const answer = await fetch(...request);
          if (String(request[0]).endsWith("/history")) {
            document.title += "."; // the server has answered
            await new Promise((resolve) => setTimeout(resolve, 500));
          }
          return answer;
        };"""
    )
    observe(server, "typed", [[1]], model="shakespeare")
    page.goto(f"{server}/#/typed")
    page.reload()
    wait(lambda: len(the_text(page)) == 1, page)
    reads = page.title().count(".")
    observe(server, "typed", [[20]])
    wait(lambda: page.title().count(".") > reads, page)
    observe(server, "typed", [[30]])
    history = json.load(request(server, "/sessions/typed/history"))
    wait(lambda: the_text(page) == "".join(history["pieces"]), page)


@in_browser
def test_a_text_that_is_left_says_nothing_more_and_asks_nothing(page, server):
    for session in ("left", "entered"):
        generated(server, session, prompt=f"The {session} sea ", steps=1)
    page.goto(f"{server}/#/left")
    wait(lambda: the_text(page).startswith("The left sea"), page)

    page.route("**/left/generate", lambda route: route.fulfill(content_type="text/event-stream"))
    page.click("#write")
    wait(lambda: "connection was lost" in page.inner_text("#text-status"), page)
    enter(page, "entered")
    wait(lambda: the_text(page).startswith("The entered sea"), page)
    wait(lambda: page.inner_text("#write") == "Write", page)
    assert page.inner_text("#text-status") == ""

    enter(page, "left")
    wait(lambda: the_text(page).startswith("The left sea"), page)
    page.evaluate(
        """() => {
            const { fetch } = window;
            const isOpen = new Promise((resolve) => (window.open_ = resolve));
            window.fetch = async (...request) => {
              const answer = await fetch(...request);
              const body = await answer.clone().text();
              if (String(request[0]).endsWith("/sessions/left")) await isOpen;
              return new Response(body, answer);
            };
        }"""
    )
    page.fill("#branch-at", "4")
    page.locator("#branch-at").press("Enter")
    enter(page, "entered")
    wait(lambda: the_text(page).startswith("The entered sea"), page)
    page.evaluate("async () => (open_(), await (await fetch('models')).json())")
    assert page.is_hidden("#ask"), page.inner_text("#ask-title")


@in_browser
def test_a_branch_is_of_the_text_that_it_was_asked_for_and_is_shown_to_who_stays_there(page, server):
    whole = generated(server, "asked", prompt="The sea ", steps=4)["text"]
    generated(server, "beside", prompt="A mountain ", steps=4)
    page.goto(f"{server}/#/asked")
    wait(lambda: the_text(page) == f"The sea {whole}", page)
    page.fill("#branch-at", "6")
    page.locator("#branch-at").press("Enter")
    wait(lambda: page.is_visible("#ask"), page)
    enter(page, "beside")
    page.click("#ask-yes")
    said = wait(lambda: page.inner_text("#toast"), page)
    assert said == "asked-6 is a branch of asked at 6"
    assert page.evaluate("location.hash") == "#/beside"
    assert "".join(json.load(request(server, "/sessions/asked-6/history"))["pieces"]) == "The se"


@in_browser
def test_a_branch_has_the_state_of_the_text_at_the_character_that_was_clicked(page, server):
    whole = generated(server, "trunk", prompt="The sea ", steps=80, seed=7)["text"]
    page.goto(f"{server}/#/trunk")
    wait(lambda: the_text(page) == f"The sea {whole}", page)
    texts = (40, "reads the 40 tokens", f"The sea {whole}"[:40]), (88, "copy of the present state", "")
    for at, how, shown in texts:
        page.fill("#branch-at", str(at))
        page.locator("#branch-at").press("Enter")
        wait(lambda: page.is_visible("#ask"), page)
        assert how in page.inner_text("#ask-text")
        page.click("#ask-yes")
        wait(lambda at=at: page.inner_text("#detail-title") == f"trunk-{at}", page)
        wait(lambda shown=shown: the_text(page) == shown, page)
        page.goto(f"{server}/#/trunk")
        wait(lambda: the_text(page) == f"The sea {whole}", page)
    rest = generated(server, "trunk-40", steps=48, seed=7)["text"]
    assert rest == whole[32:]
    assert generated(server, "trunk-88", steps=9)["text"] != generated(server, "trunk", steps=9)["text"]
    page.evaluate(  # at once: where a character stands may change between two calls
        """() => {
            const range = document.createRange();
            const span = document.querySelector("#text span");
            span.scrollIntoView({ block: "nearest" });
            range.setStart(span.firstChild, 3);
            range.setEnd(span.firstChild, 4);
            const { left, right, top, bottom } = range.getBoundingClientRect();
            const [clientX, clientY] = [left + 0.9 * (right - left), (top + bottom) / 2];
            span.dispatchEvent(new MouseEvent("click", { clientX, clientY, bubbles: true }));
        }"""
    )
    wait(lambda: page.input_value("#branch-at") == "4", page)
    wait(lambda: the_text(page, ".behind").startswith(f"sea {whole}"), page)


@in_browser
def test_a_text_is_written_with_the_key_of_the_tab(browser, guarded):
    server, tokens = guarded
    with opened(browser, server, tokens["streamer"]) as page:
        page.click("#new-text")
        wait(lambda: page.is_visible("#text-empty"), page)
        page.fill("#prompt", "The sea ")
        page.locator("#length").fill("20")
        page.click("#write")
        wait(lambda: page.inner_text("#text-status") == "Done: 20 tokens.", page)
        session = page.inner_text("#detail-title")
        with request(server, f"/sessions/{session}", tokens["streamer"]) as answer:
            assert json.load(answer)["position"] == 28
