import json
import logging

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.errors import UnknownSession
from app.observability import logs
from tests.helpers import raw
from tests.helpers.locked import Keys

pytestmark = pytest.mark.anyio

CHUNK = {"observations": [[0.1]]}
BODY = b'{"observations": [[0.1]]}'
OTHER = "https://plant.example"


@pytest.fixture
def store():
    return "memory"


@pytest.fixture
def keys(tmp_path):
    answer = Keys(tmp_path)
    answer.add("acme")
    return answer


async def test_a_page_of_another_origin_moves_nothing(start_http):
    async with start_http() as service:
        for origin in (OTHER, "null", "http://localhost.evil", "http://localhost:81", "https://"):
            for method, path in (
                ("POST", "/sessions/a/observations"),
                ("DELETE", "/sessions/a"),
                ("POST", "/sessions"),
            ):
                response = await service.http.request(method, path, json=CHUNK, headers={"origin": origin})
                assert response.status_code == 403
                assert response.json()["type"] == "urn:carryover:forbidden"
                assert "access-control-allow-origin" not in response.headers
        assert (await service.http.get("/sessions")).json()["total"] == 0


async def test_a_page_of_the_server_itself_may_call_it(start_http):
    async with start_http() as service:
        answer = await service.http.post(
            "/sessions/a/observations", json=CHUNK, headers={"origin": "http://localhost"}
        )
        assert answer.status_code == 200


async def test_a_page_of_an_allowed_origin_may_call_and_read(start_http):
    async with start_http(allowed_origins=(OTHER,)) as service:
        headers = {"origin": OTHER}
        ask = headers | {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        preflight = await service.http.options("/sessions/a/observations", headers=ask)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, OTHER)
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = await service.http.post("/sessions/a/observations", json=CHUNK, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, OTHER)
        assert "origin" in answer.headers["vary"].lower()
        other = await service.http.options("/sessions", headers=ask | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


REBOUND = "evil.example:8000"
OWN_NAMES = ("localhost", "LocalHost:8000", "127.0.0.1:8000", "10.1.2.3", "[::1]:8000", "[::1]")
NO_NAMES = (
    REBOUND,
    "localhost.evil",
    "127.0.0.1.evil",
    "[::1].evil",
    "",
    "a b",
    "localhost:80:80",
    "[",
    "\xff",
)
LOOKS = (
    "/",
    "/docs",
    "/dashboard/main.js",
    "/openapi.json",
    "/sessions",
    "/v2/models/sine",
    "/metrics",
    "/none",
)


async def test_a_page_whose_name_was_rebound_to_this_machine_learns_and_moves_nothing(start_hot):
    rebound = {"host": REBOUND}
    page = rebound | {"origin": f"http://{REBOUND}"}  # as a browser sends: none with a GET
    async with start_hot() as service:
        for path in LOOKS:
            answer = await service.http.get(path, headers=rebound)
            assert answer.status_code == (400 if path.startswith("/v2") else 421)
            assert "CARRYOVER_ALLOWED_HOSTS" in answer.text
        for path in ("/sessions/a/observations", "/observations", "/sessions", "/v2/models/sine/infer"):
            answer = await service.http.post(path, json=CHUNK, headers=page)
            assert answer.status_code == (400 if path.startswith("/v2") else 421)
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{REBOUND}/stream", host="127.0.0.1", port=service.port, proxy=None)
        assert refused.value.response.status_code == 421
        assert service.engine.metrics.refusals["misdirected"] == len(LOOKS) + 4 + 1
        assert (await service.http.get("/sessions")).json()["total"] == 0


async def test_a_server_of_its_machine_is_called_by_address_localhost_or_a_name_of_the_settings(start_http):
    async def statuses(hosts):
        return {
            (await service.http.get("/sessions", headers=[(b"host", host.encode("latin-1"))])).status_code
            for host in hosts
        }

    async with start_http() as service:
        assert await statuses(OWN_NAMES) == {200}
        assert await statuses(NO_NAMES) == {421}
    async with start_http(allowed_hosts=("plant.example",)) as service:
        assert await statuses([*OWN_NAMES, "plant.example", "Plant.Example:443"]) == {200}
        assert await statuses([*NO_NAMES, "not.plant.example"]) == {421}


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed_hosts": ("*",)},
        {"host": "0.0.0.0", "insecure": True},
        {"published_host": "h", "insecure": True},
    ],
)
async def test_a_server_that_others_reach_or_that_takes_any_is_called_anything(start_http, changes):
    async with start_http(**changes) as service:
        assert (await service.http.get("/sessions", headers={"host": REBOUND})).status_code == 200


async def test_where_a_key_is_asked_for_a_rebound_page_has_none(start_http, keys):
    async with start_http(api_keys_file=keys.path) as service:
        assert (await service.http.get("/sessions", headers={"host": REBOUND})).status_code == 401
        headers = keys.headers("acme", host="predict.example")
        assert (await service.http.get("/sessions", headers=headers)).status_code == 200


async def test_every_answer_forbids_what_a_browser_need_not_do(start_http):
    async with start_http() as service:
        for path in ("/sessions", "/health/live", "/none", "/metrics"):
            headers = (await service.http.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "server" not in headers


async def test_no_answer_lets_a_browser_guess_its_type(start_hot):
    async with start_hot() as service:
        for path in ("/sessions", "/health/live", "/none"):
            assert (await service.http.get(path)).headers["x-content-type-options"] == "nosniff"
        hot = await service.http.post("/sessions/a/observations", json=CHUNK)
        assert hot.headers["x-content-type-options"] == "nosniff"


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-request-id": "abc-1"}, "abc-1"),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"x-request-id": "a b", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE),
        ({"x-request-id": "x" * 129}, None),
        ({"x-request-id": "a\x00b"}, None),
        ({"traceparent": "nonsense"}, None),
        ({}, None),
    ],
)
async def test_a_request_id_is_passed_through_or_made(start_http, headers, expected):
    async with start_http() as service:
        answer = (await service.http.get("/health/live", headers=headers)).headers["x-request-id"]
        assert answer == expected if expected else logs.REQUEST_ID_PATTERN.fullmatch(answer)


async def test_a_request_is_logged_in_one_line_of_json_without_values_or_keys(start_http, keys, caplog):
    async with start_http(api_keys_file=keys.path, access_log=True) as service:
        caplog.set_level(logging.INFO, "carryover")
        headers = keys.headers("acme", **{"x-request-id": "id-7"})
        body = {"observations": [[0.123456]], "at": 5}
        await service.http.post("/sessions/secret-name/observations", json=body, headers=headers)
        await service.http.post("/sessions/secret-name/observations", content=b"{0.123456", headers=headers)
        await service.http.get("/sessions?after=0.123456", headers={"authorization": "Bearer 0.123456"})
    formatter = logs.JsonFormatter()
    lines = [formatter.format(record) for record in caplog.records if record.name == "carryover.access"]
    answer = [json.loads(line) for line in lines]
    assert [(logger["method"], logger["route"], logger["status"]) for logger in answer] == [
        ("POST", "/sessions/{id}/observations", 404),
        ("POST", "/sessions/{id}/observations", 400),
        ("GET", "unknown", 401),
    ]
    assert (answer[0]["request_id"], answer[0]["key"], answer[0]["tenant"]) == ("id-7", "acme", "acme")
    everything = "\n".join([*lines, caplog.text])
    assert "0.123456" not in everything
    assert keys.token["acme"] not in everything


@pytest.fixture
def levels_restored():
    loggers = [logging.getLogger(name) for name in ("carryover", "uvicorn", logs.SOCKET_LOGGER)]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.parametrize(("level", "expected"), [("info", logging.WARNING), ("error", logging.ERROR)])
async def test_a_socket_that_comes_and_goes_is_no_line_of_the_log(
    start_hot, levels_restored, level, expected
):
    async with start_hot(log_level=level):
        assert logging.getLogger("carryover").level == getattr(logging, level.upper())
        one_socket = logging.getLogger(f"{logs.SOCKET_LOGGER}.14")  # as picows names it
        assert one_socket.getEffectiveLevel() == expected


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
def test_the_traceback_of_a_crash_names_no_session(formatter):
    name = "secret-name"
    try:
        try:
            {}[f"acme/{name}"]
        except KeyError as error:
            raise UnknownSession(f"there is no session {name!r}") from error
    except UnknownSession as error:
        group = ExceptionGroup("2 tasks failed", [error, ValueError("a shape is wrong")])
    record = logging.getLogger("carryover").makeRecord(
        "carryover", logging.ERROR, __file__, 1, "it failed", (), (type(group), group, group.__traceback__)
    )
    line = formatter.format(record)
    assert name not in line
    for text in ("KeyError", "there is no session '...'", "a shape is wrong", "test_guard.py"):
        assert text in line


async def test_the_log_of_a_crashed_request_names_its_route_and_no_session(start_http, caplog, monkeypatch):
    async with start_http() as service:

        def crash(*_: object) -> None:
            raise RuntimeError("planted")

        monkeypatch.setattr(service.engine, "submit", crash)
        answer = await service.http.get("/sessions/secret-name")
    assert answer.status_code == 500
    assert "GET /sessions/{id}" in caplog.text
    assert "secret-name" not in caplog.text


def test_an_exception_is_logged_in_the_same_line():
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.getLogger("carryover").makeRecord(
            "carryover", logging.ERROR, __file__, 1, "it %s", ("failed",), __import__("sys").exc_info()
        )
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    answer = json.loads(line)
    assert (answer["event"], answer["level"]) == ("it failed", "error")
    assert "ValueError" in answer["exception"]
    assert "it failed" in logs.TextFormatter().format(record)


@pytest.mark.parametrize("hot_route", [True, False])
async def test_a_host_is_checked_for_every_request_whether_or_not_it_is_hot(start_hot, hot_route):
    async with start_hot(hot_route=hot_route) as service:
        for path in ("/sessions/a/observations", "/observations", "/sessions", "/v2/models/sine/infer"):
            answer = await service.http.post(path, json=CHUNK, headers={"host": REBOUND})  # no Origin
            assert answer.status_code == (400 if path.startswith("/v2") else 421)
        for host in NO_NAMES[1:-1]:
            answer = await service.http.post("/sessions/a/observations", json=CHUNK, headers={"host": host})
            assert answer.status_code == 421
        assert (await service.http.get("/sessions")).json()["total"] == 0
        for host in OWN_NAMES:
            answer = await service.http.post("/sessions/a/observations", json=CHUNK, headers={"host": host})
            assert answer.status_code == 200


UNCLEAR_HEADS = {
    "two hosts": ("HTTP/1.1", ["host: localhost", "host: localhost"]),
    "two other hosts": ("HTTP/1.1", ["host: localhost", "host: evil.example"]),
    "no host": ("HTTP/1.1", []),
    "two keys": ("HTTP/1.1", ["host: localhost", "authorization: Bearer a", "authorization: Bearer b"]),
    "two hosts of HTTP/1.0": ("HTTP/1.0", ["host: localhost", "host: localhost"]),
}


@pytest.mark.parametrize("head", UNCLEAR_HEADS)
@pytest.mark.parametrize(
    "target",
    [
        ("POST", "/sessions/a/observations"), ("POST", "/observations"), ("POST", "/sessions"),
        ("POST", "/v2/models/sine/infer"), ("GET", "/health/live"), ("GET", "/sessions/a/stream"),
    ],
    ids=lambda target: target[1],
)  # fmt: skip
async def test_a_head_that_may_be_read_in_two_ways_is_400(start_hot, head, target):
    version, headers = UNCLEAR_HEADS[head]
    lines = [f"{target[0]} {target[1]} {version}", *headers, f"content-length: {len(BODY)}"]
    if target[1].endswith("stream"):
        lines = [f"GET {target[1]} {version}", *headers, "connection: upgrade", "upgrade: websocket"]
    async with start_hot() as service, raw.connect(service.port) as connection:
        await connection.send("\r\n".join([*lines, "", ""]).encode() + BODY)
        (answer,) = await connection.answers()
        assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
        assert (await service.http.get("/sessions")).json()["total"] == 0


async def test_http_1_0_needs_no_host(start_hot):
    async with start_hot() as service, raw.connect(service.port) as connection:
        await connection.send(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert (await connection.answer()).status == 200


async def test_a_redirect_names_no_host_of_the_request(start_http, keys):
    async with start_http(api_keys_file=keys.path) as service:
        headers = keys.headers("acme", host="evil.example")
        for path, target in (
            ("/sessions/", "/sessions"),
            ("/sessions/?limit=1", "/sessions?limit=1"),
            ("/health/live/", "/health/live"),
        ):
            answer = await service.http.get(path, headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (307, target)
        for path in ("//evil.example/sessions/", "//evil.example/%2e%2e/sessions/"):
            answer = await service.http.get(f"http://localhost{path}", headers=headers)
            assert not answer.headers.get("location", "/").startswith("//")
