"""The client and the commands find the server and the key in the environment; arguments win over it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from carryover import AsyncCarryover, Carryover

from app.cli import run

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def requests():
    """A server without sessions, and what `Authorization` its requests had."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["authorization"])
            body = json.dumps({"sessions": [], "next": None, "total": 0}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


@pytest.fixture
def seen(requests, monkeypatch, tmp_path) -> list[str | None]:
    """The keys of the requests; the environment has the address, and a file with a key."""
    url, keys = requests
    keys.clear()
    (tmp_path / "key").write_text("of-the-file\n")
    monkeypatch.setenv("CARRYOVER_URL", url)
    monkeypatch.setenv("CARRYOVER_KEY_FILE", str(tmp_path / "key"))
    return keys


@pytest.mark.parametrize(
    ("options", "key"),
    [({}, "Bearer of-the-file"), ({"key": "given"}, "Bearer given"), ({"key": ""}, None)],
    ids=["environment", "argument", "no key"],
)
async def test_both_clients_take_address_and_key_from_the_environment(seen, options, key):
    with Carryover(**options) as blocking:
        assert blocking.count() == 0
    async with AsyncCarryover(**options) as awaited:
        assert await awaited.count() == 0
    assert seen == [key, key]


def test_the_commands_take_them_too_and_options_win(seen, tmp_path, requests, monkeypatch, capsys):
    assert run(["sessions", "list"]) == 0
    (tmp_path / "other").write_text("of-the-option")
    monkeypatch.setenv("CARRYOVER_URL", "http://127.0.0.1:1")
    assert run(["sessions", "list", "--url", requests[0], "--key-file", str(tmp_path / "other")]) == 0
    assert seen == ["Bearer of-the-file", "Bearer of-the-option"]
    assert capsys.readouterr().err == "there are no sessions\n" * 2
    assert run(["sessions", "list"]) == 1
    assert "no answer from http://127.0.0.1:1" in capsys.readouterr().err


def test_a_file_of_the_key_that_cannot_be_read_is_named(seen, monkeypatch):
    monkeypatch.setenv("CARRYOVER_KEY_FILE", "/nowhere/key")
    with pytest.raises(ValueError, match=r"CARRYOVER_KEY_FILE=/nowhere/key cannot be read: No such file"):
        Carryover()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: write the token of an API key into the file"),
        (b" \n", "is empty: write"),
        (b"\xff", "cannot be read: it is not text"),
        (b"two\nlines", "is no key: the file must have the token of an API key and nothing else"),
    ],
    ids=["empty", "blank", "binary", "lines"],
)
def test_a_file_without_a_key_is_named(seen, tmp_path, monkeypatch, capsys, content, said):
    path = tmp_path / "bad"
    path.write_bytes(content)
    assert run(["sessions", "list", "--key-file", str(path)]) == 2
    assert f"--key-file: {path} {said}" in capsys.readouterr().err
    monkeypatch.setenv("CARRYOVER_KEY_FILE", str(path))
    with pytest.raises(ValueError, match=f"CARRYOVER_KEY_FILE={path} {said}"):
        AsyncCarryover()
    assert seen == []


def test_without_an_environment_it_is_this_machine(monkeypatch):
    for name in ("CARRYOVER_URL", "CARRYOVER_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    with Carryover() as client:
        assert client.url == "http://127.0.0.1:8000"
