"""A TLS handshake that will fail each time ends a call at once; one that was cut off is tried again."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from shutil import which
from socket import create_server, socket
from typing import Any

import carryover
import pytest
from carryover import AsyncCarryover, Carryover
from carryover.connection import not_connected

from app.cli import run

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def certified(tmp_path_factory) -> ssl.SSLContext:
    """A server's context, with a certificate that nobody knows."""
    if which("openssl") is None:
        pytest.skip("no openssl here")
    key, certificate = (tmp_path_factory.mktemp("tls") / name for name in ("key.pem", "certificate.pem"))
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class Port:
    """A port that answers every connection in one way, and how many there were."""

    def __init__(self, answer: Callable[[socket], Any]) -> None:
        self.connections = 0
        self._answer = answer
        self._listening = create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection:
                if self._listening.fileno() < 0 or not connection.recv(1, 2):  # MSG_PEEK; nothing: the end
                    return
                self.connections += 1
                try:
                    self._answer(connection)
                except OSError:
                    continue

    def close(self) -> None:
        with socket() as last:
            last.connect(self._listening.getsockname())
        self._thread.join()
        self._listening.close()


def plain_http(connection: socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def port() -> Iterator[Callable[..., Port]]:
    opened: list[Port] = []

    def open_port(answer: Callable[[socket], Any]) -> Port:
        opened.append(Port(answer))
        return opened[-1]

    yield open_port
    for each in opened:
        each.close()


@pytest.fixture(params=["blocking", "awaited"])
def call(request) -> Callable[..., Any]:
    async def send(url: str, socket: bool, retry: float) -> None:
        if request.param == "blocking":
            with Carryover(url, retry=retry) as client:
                session = client.session("a")
                session.stream([0.1], socket=True).collect() if socket else session.info()
            return
        async with AsyncCarryover(url, retry=retry) as client:
            session = client.session("a")
            await (session.stream([0.1], socket=True).collect() if socket else session.info())

    return send


@pytest.fixture(params=[False, True], ids=["request", "socket"])
def through_socket(request) -> bool:
    return request.param


async def test_a_port_without_tls_ends_a_call_at_once(port, call, through_socket):
    found = port(plain_http)
    with pytest.raises(carryover.TlsFailed, match=r"no TLS with https://.*the address begins with http://"):
        await call(found.url, through_socket, 5.0)
    assert found.connections == 1


async def test_a_certificate_that_does_not_verify_ends_a_call_at_once(port, call, through_socket, certified):
    found = port(lambda connection: certified.wrap_socket(connection, server_side=True))
    with pytest.raises(
        carryover.TlsFailed, match=r"the certificate of https://.* does not verify: self-signed"
    ):
        await call(found.url, through_socket, 5.0)
    assert found.connections == 1


async def test_a_handshake_that_is_cut_off_is_tried_again(port, call, through_socket):
    found = port(lambda connection: connection.recv(65536))
    with pytest.raises(carryover.Unreachable) as error:
        await call(found.url, through_socket, 0.2)
    assert not isinstance(error.value, carryover.TlsFailed)
    assert found.connections > 1


def test_a_server_that_cannot_yet_do_tls_is_tried_again():
    alert = ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error")
    alert.reason = "TLSV1_ALERT_INTERNAL_ERROR"
    assert type(not_connected("https://x", alert)) is carryover.Unreachable


def test_a_command_that_waits_for_the_server_ends_at_once(port, capsys):
    found = port(plain_http)
    assert run(["events", "--url", found.url]) == 1
    assert capsys.readouterr().err.startswith(f"carryover: no TLS with {found.url}: ")
    assert found.connections == 1
