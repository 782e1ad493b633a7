"""Behind a proxy that shares its connections among clients, nobody gets another client's answer.

nginx and haproxy are Debian's, started here. Both forward `Upgrade` (nginx as its documentation configures it
for WebSockets) and keep connections to the server open. An attacker sends a request that offers an upgrade,
and then, in a packet of its own, a body that is a request itself. A server that parsed the body as a request
would answer twice: the proxy would hand the second answer to the next client on that connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from benchmarks.ports import free_port
from tests.helpers.raw import connect, request
from tests.system.test_serve import serving

pytestmark = pytest.mark.anyio

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream carryover {{ server 127.0.0.1:{server}; keepalive 2; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://carryover;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_set_header Host localhost;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 256
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 30s
    http-reuse always
frontend front
    bind 127.0.0.1:{port}
    default_backend carryover
backend carryover
    server one 127.0.0.1:{server}
"""
OFFERS = (
    ("connection: Upgrade", "upgrade: foo"),
    ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABk"),
    ("connection: Upgrade", "upgrade: websocket", "sec-websocket-version: 13",
     "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="),
)  # fmt: skip
PATHS = (
    ("POST", "/sessions/outer/observations"),
    ("POST", "/observations"),
    ("POST", "/sessions"),
    ("POST", "/v2/models/sine/infer"),
    ("GET", "/sessions/outer/stream"),
    ("GET", "/health/live"),
)
SMUGGLED = request("POST", "/sessions/smug/observations", b'{"observations":[0.5,0.25]}')
ROUNDS = 3
EXCHANGES = 40  # of the victims with the server, in which a proxy forwards whatever it was sent before


def nginx(folder: Path, config: Path) -> list[str]:
    return ["nginx", "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]


def haproxy(folder: Path, config: Path) -> list[str]:
    return ["haproxy", "-db", "-q", "-f", str(config)]


PROXIES = {"nginx": (NGINX, nginx), "haproxy": (HAPROXY, haproxy)}


@pytest.fixture(scope="module")
def server(zoo_folder) -> Iterator[int]:
    """The port of a server."""
    with serving(zoo_folder, CARRYOVER_RESIDENT_SESSIONS="2048") as (_, port):
        yield port


@pytest.fixture(scope="module", params=PROXIES)
def proxy(request, tmp_path_factory, server) -> Iterator[int]:
    """The port of a proxy before the server, which has no sessions."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: apt install {name}")
    template, command = PROXIES[name]
    with running(template, command, tmp_path_factory.mktemp(name), server) as port:
        yield port
    with httpx.Client(base_url=f"http://127.0.0.1:{server}", timeout=30) as http:
        for entry in http.get("/sessions").json()["sessions"]:
            http.delete(f"/sessions/{entry['session']}")


@contextlib.contextmanager
def running(template: str, command, folder: Path, server: int) -> Iterator[int]:
    port, config = free_port(), folder / "proxy.conf"
    config.write_text(template.format(folder=folder, server=server, port=port))
    process = subprocess.Popen(command(folder, config), stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise RuntimeError(process.stdout.read().decode())
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                process_wait(process, 0.05)
        yield port
    finally:
        process.kill()
        process.communicate()


def process_wait(process: subprocess.Popen, seconds: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


async def attack(
    port: int, exchanges: Callable[[], Awaitable[None]], method: str, path: str, offer: tuple[str, ...]
) -> None:
    """Send a request in two packets, and give the proxy time for each while the victims go on."""
    head, _, body = request(method, path, SMUGGLED, *offer).partition(b"\r\n\r\n")
    async with connect(port) as connection:
        await connection.send(head + b"\r\n\r\n")
        await exchanges()  # the proxy forwards the head meanwhile: the body is a packet of its own
        with contextlib.suppress(ConnectionError):
            await connection.send(body)
        await exchanges()


async def test_nobody_gets_the_answer_to_a_request_in_another_clients_body(proxy):
    done = asyncio.Event()
    exchanged = 0

    async def exchanges() -> None:
        """Wait until the victims have exchanged so much more that all that came before was forwarded."""
        enough = exchanged + EXCHANGES
        while exchanged < enough and not any(task.done() for task in victims):  # noqa: ASYNC110  (the victims set no event)
            await asyncio.sleep(0)

    async def victim(name: str) -> None:
        """Sends chunks and looks at every answer: it must be the session's own, and the next in order."""
        nonlocal exchanged
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy}", timeout=30) as http:
            position = 0
            while not done.is_set():
                body = {"observations": [0.1], "at": position}
                answer = await http.post(f"/sessions/{name}/observations", json=body)
                position += 1
                assert (answer.status_code, answer.json()["session"]) == (200, name), answer.text
                assert answer.json()["position"] == position
                exchanged += 1

    victims = [asyncio.create_task(victim(f"victim-{number}")) for number in range(4)]
    attacks = [(*path, offer) for path in PATHS for offer in OFFERS for _ in range(ROUNDS)]
    for start in range(0, len(attacks), 6):
        await asyncio.gather(*(attack(proxy, exchanges, *attempt) for attempt in attacks[start : start + 6]))
    done.set()
    await asyncio.gather(*victims)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy}", timeout=30) as http:
        listed = {entry["session"] for entry in (await http.get("/sessions")).json()["sessions"]}
    assert listed == {f"victim-{number}" for number in range(4)}
    print(f"{exchanged} answers beside {len(attacks)} attacks, each of them right")


async def test_a_socket_works_through_the_proxy(proxy):
    async with websockets.connect(f"ws://127.0.0.1:{proxy}/sessions/s/stream") as stream:
        await stream.recv()
        await stream.send(json.dumps({"observations": [0.5]}))
        assert json.loads(await stream.recv())["position"] == 1
