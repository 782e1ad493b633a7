"""A second tenant's key against a first tenant's session, by every route that the OpenAPI document names.

What the second is answered must be what it is answered for a session that nobody has: not a word of it may
tell that the other one is there. A route that is new to the document fails here until it has an example.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import main
from app.config import Settings
from app.errors import CarryoverError
from app.session import names, state_file
from models.artifact.files import save
from tests.helpers import graphs, text
from tests.helpers.locked import Keys, alike
from tests.helpers.ways import AsgiRoute, HotRoute, Way

pytestmark = pytest.mark.anyio

THEIRS, UNKNOWN_EPOCH = "their-pump", "no-ones-pump"
STEPS = 37  # a position that no answer holds by chance

Example = Callable[[str, bytes], dict[str, Any]]
CHUNK = {"observations": [[0.1], [0.2]]}
TENSOR = {
    "inputs": [{"name": "observations", "datatype": "FP32", "shape": [1, 2, 1], "data": [0.1, 0.2]}],
}


def sending(body: Any = None, **query: Any) -> Example:
    """A request with this JSON body; `{id}` in it stands for the session."""

    def example(session: str, _: bytes) -> dict[str, Any]:
        answers: dict[str, Any] = {"params": query}
        if body is not None:
            answers["content"] = json.dumps(body).replace("{id}", session)
        return answers

    return example


def hearing(**query: Any) -> Example:
    """A request with twenty samples of silence."""
    kind = {"content-type": "audio/l16;rate=8000"}
    return lambda _, __: {"params": query, "content": bytes(40), "headers": kind}


WRITING = {"prompt": "a", "steps": 3, "seed": 7}
COMPLETION = {"prompt": "a", "max_tokens": 3, "seed": 7}

# To add a route: a request to it that would show or move the session {id}, if it were the caller's.
EXAMPLES: dict[tuple[str, str], list[Example]] = {
    ("POST", "/sessions"): [sending({"id": "{id}"})],
    ("GET", "/sessions"): [
        sending(),
        sending(limit=1),
        sending(after="their-pum"),
        sending(after="theirs/their-pum"),
        sending(after="../"),
        sending(model="sine"),
        sending(detail="true"),
        sending(label="site:north"),
    ],
    ("GET", "/sessions/{id}"): [sending()],
    ("PATCH", "/sessions/{id}"): [sending({"labels": {"a": "b"}}), sending({"labels": None, "at": STEPS})],
    ("DELETE", "/sessions/{id}"): [sending(), sending(at=STEPS), sending(at=1)],
    ("POST", "/sessions/{id}/observations"): [
        sending(CHUNK),
        sending(CHUNK | {"at": STEPS}),
        sending(CHUNK | {"at": STEPS, "horizon": 3}),
        sending(CHUNK | {"at": 3, "epoch": "00000000000000ff"}),
        sending(CHUNK | {"model": "weather"}),
    ],
    ("POST", "/sessions/{id}/audio"): [hearing(), hearing(at=STEPS), hearing(at=3, epoch="00000000000000ff")],
    ("POST", "/sessions/{id}/generate"): [
        sending(WRITING),
        sending(WRITING | {"at": STEPS}),
        sending(WRITING | {"keep": False}),
        sending(WRITING | {"at": 3, "epoch": "00000000000000ff"}),
    ],
    ("POST", "/v1/completions"): [sending(COMPLETION | {"user": "{id}"})],
    ("POST", "/sessions/{id}/reset"): [sending(), sending({"at": STEPS})],
    ("POST", "/sessions/{id}/fork"): [sending({"id": "{id}-fork"}), sending({"id": "{id}", "at": STEPS})],
    ("GET", "/sessions/{id}/history"): [sending(), sending(last=2), sending(**{"from": STEPS - 1})],
    ("GET", "/sessions/{id}/forecast"): [sending(steps=3)],
    ("POST", "/sessions/{id}/forecast"): [sending({"steps": 3})],
    ("GET", "/sessions/{id}/state"): [sending()],
    ("PUT", "/sessions/{id}/state"): [
        lambda _, state: {"content": state, "params": {"at": STEPS}},
        lambda _, state: {"content": state},
        lambda _, __: {"content": b"none"},
    ],
    ("POST", "/observations"): [
        sending({"sessions": ["{id}", "{id}"], "observations": [0.1, 0.2], "at": [STEPS, None]}),
        sending({"sessions": ["{id}"], "observations": [0.1]}),
    ],
    ("POST", "/v2/models/{model}/infer"): [
        sending(TENSOR | {"parameters": {"sequence_id": "{id}"}}),
        sending(TENSOR | {"parameters": {"sequence_id": "{id}", "sequence_start": True}}),
        sending(TENSOR | {"parameters": {"sequence_id": "{id}", "sequence_end": True}}),
        sending(TENSOR | {"parameters": {"sequence_id": "{id}", "at": STEPS}}),
    ],
    ("POST", "/v2/models/{model}/versions/{version}/infer"): [
        sending(TENSOR | {"parameters": {"sequence_id": "{id}"}}),
    ],
}

# The model of the session, where the route is not for those of every model.
MODELS = {
    "/sessions/{id}/audio": "loudness",
    "/sessions/{id}/generate": "letters",
    "/v1/completions": "letters",
}

# Routes that know no session: what they tell is the same for everybody, or refused.
OF_NO_SESSION = {
    ("GET", "/events"), ("GET", "/models"), ("GET", "/models/{name}"), ("POST", "/models/{name}/reload"),
    ("POST", "/models/{name}/rows"), ("GET", "/models/{name}/figure"),
    ("GET", "/v1/models"), ("GET", "/v1/models/{name}"),
    ("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/health/balancer"), ("GET", "/metrics"),
    ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"), ("GET", "/v2/models/stats"),
    *(("GET", f"/v2/models/{{model}}{version}{what}") for version in ("", "/versions/{version}")
      for what in ("", "/config", "/ready", "/stats")),
    ("POST", "/v2/repository/index"), ("POST", "/v2/repository/models/{model}/load"),
    ("POST", "/v2/repository/models/{model}/unload"),
}  # fmt: skip
PUBLIC_PATHS = {
    "/health/live",
    "/health/ready",
    "/health/balancer",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
}


def operations() -> Iterator[tuple[str, str]]:
    """Every method and path of the OpenAPI document."""
    for path, methods in main.create_app(Settings()).openapi()["paths"].items():
        for method in methods:
            yield method.upper(), path


def test_every_route_of_the_document_has_an_example_here():
    assert set(operations()) == EXAMPLES.keys() | OF_NO_SESSION


@pytest.fixture
def keys(tmp_path) -> Keys:
    keys = Keys(tmp_path)
    keys.add("theirs")
    keys.add("ours")
    keys.add("ours-to-read", "read", "ours")
    keys.add("boss", "admin")
    keys.add("eyes", "monitor")
    return keys


@pytest.fixture(params=[AsgiRoute, HotRoute], ids=lambda way: way.name)
def way(request) -> type[Way]:
    return request.param


@pytest.fixture
def store() -> str:
    return "memory"


@pytest.fixture(scope="module")
def audible_and_literate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audible-and-literate")
    save(graphs.loudness(), folder / "loudness")
    save(text.text_model(), folder / "letters")
    return folder


@pytest.fixture
def start_for(start, keys, audible_and_literate) -> Callable[[str], AbstractAsyncContextManager[Way]]:
    """Starts a service whose default model is one that the route is for."""

    def start_for(path: str) -> AbstractAsyncContextManager[Way]:
        if path not in MODELS:
            return start(api_keys_file=keys.path)
        return start(api_keys_file=keys.path, models=(audible_and_literate,), default_model=MODELS[path])

    return start_for


async def their_session(http: httpx.AsyncClient, keys: Keys) -> tuple[dict[str, Any], list[float]]:
    """A session of the other tenant's: what it looks like to them, and its carry."""
    body = {"observations": [[step % 5] for step in range(STEPS)], "at": 0}
    moved = await http.post(f"/sessions/{THEIRS}/observations", json=body, headers=keys.headers("theirs"))
    assert moved.status_code == 200, moved.text
    return await looked_at(http, keys)


async def looked_at(http: httpx.AsyncClient, keys: Keys) -> tuple[dict[str, Any], list[float]]:
    shown = await http.get(f"/sessions/{THEIRS}", headers=keys.headers("theirs"))
    return shown.json(), state_file.decode(await their_state(http, keys)).carry.tolist()


async def their_state(http: httpx.AsyncClient, keys: Keys) -> bytes:
    return (await http.get(f"/sessions/{THEIRS}/state", headers=keys.headers("theirs"))).content


EACH = [(method, path, i) for (method, path), examples in EXAMPLES.items() for i in range(len(examples))]


@pytest.mark.parametrize(("method", "path", "i"), EACH, ids=str)
async def test_a_session_of_another_tenant_is_answered_like_an_unknown_session(
    start_for, keys, method, path, i
):
    async with start_for(path) as service:
        await compare(service.http, keys, method, path, EXAMPLES[method, path][i])


@pytest.mark.parametrize(
    ("method", "path"),
    [each for each in EXAMPLES if "{id}" in each[1] or "infer" in each[1] or each[1] in MODELS],
    ids=str,
)
async def test_the_comparison_notices_a_server_that_forgets_about_tenants(
    start_for, keys, method, path, monkeypatch
):
    monkeypatch.setattr(names, "prefix", lambda tenant: "")
    async with start_for(path) as service:
        with pytest.raises((AssertionError, CarryoverError)):
            await compare_all(service.http, keys, method, path)


async def compare_all(http: httpx.AsyncClient, keys: Keys, method: str, path: str) -> None:
    for example in EXAMPLES[method, path]:
        await compare(http, keys, method, path, example)


async def compare(http: httpx.AsyncClient, keys: Keys, method: str, path: str, example: Example) -> None:
    """Ask for theirs, and for one that nobody has: the answers are the same, and theirs is untouched."""
    before, state = await their_session(http, keys), await their_state(http, keys)
    answers = []
    for session in (UNKNOWN_EPOCH, THEIRS):
        response = await ask(http, method, path, session, example(session, state), keys.headers("ours"))
        content: Any = response.content
        if content and response.headers.get("content-type", "").endswith("json"):
            content = alike(response.json(), session)
            if path == "/v1/completions":
                content.pop("id", None)  # drawn
        answers.append((response.status_code, content))
        assert before[0]["epoch"] not in response.text
        await forget_ours(http, keys)  # what this made, so that both find the same
    assert answers[0] == answers[1]
    assert answers[0][0] < 500
    assert await looked_at(http, keys) == before


async def ask(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    session: str,
    request: dict[str, Any],
    key: dict[str, str],
) -> httpx.Response:
    headers = request.get("headers", {}) | key
    return await http.request(method, addressed(path, session), **(request | {"headers": headers}))


def addressed(path: str, session: str) -> str:
    for name, value in {"id": session, "name": "sine", "model": "sine", "version": "1"}.items():
        path = path.replace(f"{{{name}}}", value)
    return path


async def forget_ours(http: httpx.AsyncClient, keys: Keys) -> None:
    listed = (await http.get("/sessions", headers=keys.headers("ours"))).json()
    for one in listed["sessions"]:
        gone = await http.delete(f"/sessions/{one['session']}", headers=keys.headers("ours"))
        assert gone.status_code == 204


async def test_a_listing_counts_and_names_its_own_tenants_sessions_only(start, keys):
    async with start(api_keys_file=keys.path) as service:
        await their_session(service.http, keys)
        for name in ("a", "zz"):
            made = await service.http.post("/sessions", json={"id": name}, headers=keys.headers("ours"))
            assert made.headers["location"] == f"/sessions/{name}"
        listed = (await service.http.get("/sessions", headers=keys.headers("ours-to-read"))).json()
        assert [one["session"] for one in listed["sessions"]] == ["a", "zz"]
        assert listed["total"] == 2
        theirs = (await service.http.get("/sessions", headers=keys.headers("theirs"))).json()
        assert ([one["session"] for one in theirs["sessions"]], theirs["total"]) == ([THEIRS], 1)


async def test_an_admin_enters_a_tenant_by_name_and_nobody_else_does(start, keys):
    async with start(api_keys_file=keys.path) as service:
        before, _ = await their_session(service.http, keys)
        inside = {"carryover-tenant": "theirs"}
        admitted = await service.http.get(f"/sessions/{THEIRS}", headers=keys.headers("boss", **inside))
        assert admitted.json() == before
        everybody = await service.http.get(
            "/sessions", headers=keys.headers("boss", **{"carryover-tenant": "*"})
        )
        assert [one["session"] for one in everybody.json()["sessions"]] == [f"theirs/{THEIRS}"]
        assert everybody.json()["total"] == 1
        for refused in ({"carryover-tenant": "theirs"}, {"carryover-tenant": "*"}):
            response = await service.http.get("/sessions", headers=keys.headers("ours", **refused))
            assert response.status_code == 403
            moved = await service.http.post(
                f"/sessions/{THEIRS}/observations", json=CHUNK, headers=keys.headers("ours", **refused)
            )
            assert moved.status_code == 403
        assert (await looked_at(service.http, keys))[0] == before


@pytest.mark.parametrize(("method", "path"), [*EXAMPLES, *sorted(OF_NO_SESSION)], ids=str)
async def test_without_a_good_key_every_route_but_health_is_401(start, keys, method, path):
    public = path in PUBLIC_PATHS
    async with start(api_keys_file=keys.path) as service:
        for header in (None, "", "Bearer", "Bearer no", "Basic abc", "Bearer " + "x" * 5000):
            headers = {} if header is None else {"authorization": header}
            url = addressed(path, THEIRS)
            response = await service.http.request(method, url, headers=headers)
            assert (response.status_code == 401) != public, (header, response.text)
            if not public:
                assert response.headers["www-authenticate"].startswith("Bearer")
                assert response.headers["content-type"].endswith("json")


LOOKS = {("POST", "/sessions/{id}/forecast")}  # a body, and moves nothing all the same
CHANGES = [each for each in EXAMPLES if each[0] != "GET" and each not in LOOKS]


@pytest.mark.parametrize(("method", "path"), CHANGES, ids=str)
async def test_a_key_to_read_changes_nothing(start_for, keys, method, path):
    example = EXAMPLES[method, path][0]
    async with start_for(path) as service:
        await their_session(service.http, keys)
        state = await their_state(service.http, keys)
        key = keys.headers("ours-to-read")
        response = await ask(service.http, method, path, "own", example("own", state), key)
        refused = response.status_code == 403 or set(response.json().get("errors", {})) == {"0", "1"}
        assert refused, response.text
        listed = (await service.http.get("/sessions", headers=keys.headers("ours"))).json()
        assert listed == {"sessions": [], "next": None, "total": 0}


async def test_a_monitor_reads_the_metrics_and_nothing_else(start, keys):
    async with start(api_keys_file=keys.path) as service:
        assert (await service.http.get("/metrics", headers=keys.headers("eyes"))).status_code == 200
        assert (await service.http.get("/sessions", headers=keys.headers("eyes"))).status_code == 403
        assert (await service.http.get("/models", headers=keys.headers("eyes"))).status_code == 403
        moved = await service.http.post("/sessions/a/observations", json=CHUNK, headers=keys.headers("eyes"))
        assert moved.status_code == 403
        for other in ("ours", "ours-to-read"):
            assert (await service.http.get("/metrics", headers=keys.headers(other))).status_code == 403


async def test_only_an_admin_reloads_a_model(start, keys):
    async with start(api_keys_file=keys.path) as service:
        for name, status in (("ours", 403), ("ours-to-read", 403), ("boss", 200)):
            response = await service.http.post("/models/sine/reload", headers=keys.headers(name))
            assert response.status_code == status
