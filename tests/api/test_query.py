"""A query parameter that a request does not take is refused, so that nobody believes that it works."""

from __future__ import annotations

import re

import pytest

from tests.helpers.ways import check_problem

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> str:
    return "memory"


async def test_every_operation_refuses_a_query_parameter_that_it_does_not_take(start_both):
    async with start_both() as service:
        await service.advance("a", [0.5])
        paths = service.app.openapi()["paths"]
        ours = re.compile(r"/(sessions|observations|models|events|v1)\b")
        operations = [(method, path) for path, item in paths.items() for method in item if ours.match(path)]
        assert len(operations) > 20
        for method, path in operations:
            address = path.replace("{id}", "a").replace("{name}", "sine")
            answer = await service.http.request(method, f"{address}?steps_=2", content=b"{}")
            assert answer.status_code == 422, (method, path, answer.text)
            message = answer.json().get("detail") or answer.json()["error"]["message"]
            assert "'steps_'" in message
        assert (await service.session("a"))["position"] == 1


async def test_what_belongs_into_the_body_of_a_chunk_in_json_is_refused_in_the_query(start_both):
    async with start_both() as service:
        for query in ("at=0", "at=99", "model=nope"):
            body = {"observations": [[0.5]]}
            answer = await service.http.post(f"/sessions/a/observations?{query}", json=body)
            name = query.split("=")[0]
            check_problem(answer)
            assert (answer.status_code, answer.json()["field"]) == (422, name)
            assert f"in JSON '{name}' belongs into the body" in answer.json()["detail"]
        assert (await service.http.get("/sessions/a")).status_code == 404
        default = await service.http.post("/sessions/a/observations?score=false", json=body)
        assert default.status_code == 200
