"""An answer that is not the server's is an error in both clients, whatever its status: nothing seems done."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import carryover
import pytest
from carryover import AsyncCarryover, Carryover
from carryover.effects import Reply, Request
from carryover.files import replace_file
from carryover.wire import failure

from app.cli import connect, run

pytestmark = pytest.mark.anyio

MOVED = "https://real.example"
ADVICE = f"redirected to {MOVED}: use that as the address"


class Elsewhere:
    """A server that is not Carryover's: it redirects everything, or answers a page."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.status, self.page, self.version = 308, b"", "HTTP/1.1"
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(f"{handler.command} {handler.path}")
        handler.rfile.read(int(handler.headers["content-length"] or 0))
        handler.protocol_version = self.version
        handler.send_response(self.status)
        if self.status == 308:
            handler.send_header("location", MOVED + handler.path)
        handler.send_header("content-type", "text/html")
        handler.send_header("content-length", str(len(self.page)))
        handler.end_headers()
        handler.wfile.write(self.page)


@pytest.fixture(scope="module")
def _running():
    found = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):
                return lambda: found.answer(self)
            raise AttributeError(name)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def elsewhere(_running) -> Elsewhere:
    _running.requests.clear()
    _running.status, _running.page, _running.version = 308, b"", "HTTP/1.1"
    return _running


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.safetensors"
    path.write_bytes(b"good")
    return path


@pytest.fixture(params=["blocking", "awaited"])
def call(request, elsewhere) -> Callable[..., Any]:
    """`await call(use)`: the outcome of `use(client, session)`, a value or something to iterate over."""

    async def blocking(use: Callable[..., Any]) -> Any:
        with Carryover(elsewhere.url, retry=1.0) as client:
            result = use(client, placed(client))
            return list(result) if hasattr(result, "__iter__") else result

    async def awaited(use: Callable[..., Any]) -> Any:
        async with AsyncCarryover(elsewhere.url, retry=1.0) as client:
            result = use(client, placed(client))
            return await result if inspect.isawaitable(result) else [item async for item in result]

    return blocking if request.param == "blocking" else awaited


def placed(client: Any) -> Any:
    """A session whose position is known, so that its first request is the one in question."""
    session = client.session("a")
    session.rewind(3, "0" * 15 + "1")
    return session


OPERATIONS: dict[str, Callable[..., Any]] = {
    "count": lambda client, _: client.count(),
    "models": lambda client, _: client.models(),
    "sessions": lambda client, _: client.sessions(),
    "events": lambda client, _: client.events(),
    "bulk": lambda client, _: client.advance({"a": [0.1]}),
    "advance": lambda _, session: session.advance([0.1]),
    "requests": lambda _, session: session.stream([0.1], socket=False),
    "generate": lambda _, session: session.generate("x"),
    "forecast": lambda _, session: session.forecast(3),
    "history": lambda _, session: session.history(),
    "create": lambda _, session: session.create(),
    "info": lambda _, session: session.info(),
    "refresh": lambda _, session: session.refresh(),
    "reset": lambda _, session: session.reset(),
    "labels": lambda _, session: session.set_labels({"site": "north"}),
    "fork": lambda _, session: session.fork("b"),
    "delete": lambda _, session: session.delete(),
    "state": lambda _, session: session.state(),
    "load": lambda _, session: session.load(b"{}"),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_redirect_is_an_error_that_says_where_to_and_is_tried_once(call, elsewhere, name):
    with pytest.raises(carryover.NotCarryover) as error:
        await call(OPERATIONS[name])
    assert str(error.value) == ADVICE
    assert len(elsewhere.requests) == 1


async def test_a_redirect_of_a_socket_is_the_same_error(call, elsewhere):
    with pytest.raises(carryover.NotCarryover, match=ADVICE):
        await call(lambda _, session: session.stream([0.1]))
    with pytest.raises(carryover.SocketUnavailable, match=ADVICE):
        await call(lambda _, session: session.stream([0.1], socket=True))
    elsewhere.version = "HTTP/1.0"  # which a socket does not speak
    with pytest.raises(carryover.NotCarryover, match=ADVICE):
        await call(lambda _, session: session.stream([0.1]))


@pytest.mark.parametrize(
    ("status", "page"), [(308, b""), (304, b""), (200, b"<html>Log in</html>"), (200, b"")]
)
async def test_nothing_but_a_state_replaces_a_saved_file(call, elsewhere, good, status, page):
    elsewhere.status, elsewhere.page = status, page
    with pytest.raises(carryover.NotCarryover):
        await call(lambda _, session: session.save(good))
    assert good.read_bytes() == b"good"
    assert list(good.parent.iterdir()) == [good]


async def test_a_page_is_neither_a_deleted_session_nor_a_stream_of_events(call, elsewhere):
    elsewhere.status, elsewhere.page = 200, b"<html>Log in</html>"
    with pytest.raises(carryover.NotCarryover, match="has status 200, not 204"):
        await call(OPERATIONS["delete"])
    for name in ("events", "generate"):
        with pytest.raises(carryover.NotCarryover, match="no stream of events but text/html"):
            await call(OPERATIONS[name])
    assert len(elsewhere.requests) == 3


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://new.example/prefix/sessions/a?x=1", "redirected to https://new.example/prefix: use that"),
        (
            "https://login.example/?next=a",
            r"redirected to https://login.example/\?next=a, where no Carryover",
        ),
    ],
)
def test_the_address_is_told_if_the_redirect_has_one(location, said):
    error = failure(Request("GET", "/sessions/a"), Reply(302, b"", location=location))
    with pytest.raises(carryover.NotCarryover, match=said):
        raise error


def test_an_empty_id_is_refused_before_any_request(elsewhere):
    with Carryover(elsewhere.url) as client:
        for use in (
            lambda: client.session(""),
            lambda: client.advance({"": [0.1]}),
            lambda: placed(client).fork(""),
        ):
            with pytest.raises(ValueError, match="the session's id is empty: give it one"):
                use()
    with pytest.raises(ValueError, match="id is empty"):
        AsyncCarryover(elsewhere.url).session("")
    assert elsewhere.requests == []


def test_a_saved_file_is_replaced_as_a_whole_with_its_permissions(tmp_path, monkeypatch):
    path, link = tmp_path / "state", tmp_path / "link"
    replace_file(path, b"old")
    path.chmod(0o600)
    link.symlink_to(path)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(link, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert sorted(tmp_path.iterdir()) == [link, path]
    replace_file("/dev/null", b"new")


# The commands.


@pytest.mark.parametrize(
    "command",
    [
        ["sessions", "list"],
        ["sessions", "show", "a"],
        ["sessions", "reset", "a"],
        ["sessions", "fork", "a", "b"],
        ["sessions", "label", "a", "x=y"],
        ["sessions", "delete", "a"],
        ["sessions", "export", "OUT"],
        ["events"],
        ["forecast", "a"],
        ["generate", "a"],
    ],
    ids=lambda command: command[-1] if len(command) == 1 else " ".join(command[:2]),
)
def test_every_command_ends_at_a_redirect_and_says_where_to(
    elsewhere, command, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(connect, "PATIENCE_SECONDS", 1.0)
    command = [str(tmp_path / "out") if word == "OUT" else word for word in command]
    assert run([*command, "--url", elsewhere.url]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"carryover: {ADVICE}\n")
    assert len(elsewhere.requests) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["sessions", "delete", ""],
        ["sessions", "show", ""],
        ["sessions", "fork", "a", ""],
        ["stream", "-", ""],
        ["forecast", ""],
        ["generate", ""],
        ["connect", "mqtt://localhost/a", "--session", ""],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_commands_refuse_an_empty_id_before_any_request(elsewhere, command, capsys):
    assert run([*command, "--url", elsewhere.url]) == 2
    captured = capsys.readouterr()
    assert "the session's id is empty: give it one" in captured.err
    assert (captured.out, elsewhere.requests) == ("", [])
