"""Every error has its own status, and all have the same shape."""

import asyncio
import json

import pytest

from app import errors
from app.codec.problems import STATUS, problem
from tests.helpers.ways import HttpRoute


def tree(error: type[errors.CarryoverError]) -> set[type[errors.CarryoverError]]:
    return {error}.union(*(tree(child) for child in error.__subclasses__()))


def leaves() -> list[type[errors.CarryoverError]]:
    own = [error for error in tree(errors.CarryoverError) if error.__module__ == "app.errors"]
    return [error for error in own if not error.__subclasses__() and error is not errors.ConfigError]


def test_every_error_that_a_client_may_see_has_its_own_status_title_and_type():
    assert set(leaves()) - set(STATUS) == set()
    problems = [problem(error("why"))[1] for error in leaves()]
    types, titles = {body["type"] for body in problems}, {body["title"] for body in problems}
    assert len(types) == len(titles) == len(problems)


def test_a_problem_has_the_fields_that_a_program_needs():
    status, body, headers = problem(errors.OutOfStep("no", position=2**62))
    assert json.loads(json.dumps(body)) == {
        "type": "urn:carryover:out-of-step",
        "title": "Out of step",
        "status": 409,
        "detail": "no",
        "position": 2**62,
    }
    assert (status, headers) == (409, {})


def test_every_temporary_error_says_when_to_retry():
    for error in leaves():
        status, _, headers = problem(error("why"))
        assert (status in (429, 503)) == issubclass(error, errors.Unavailable) == ("retry-after" in headers)


@pytest.mark.anyio
@pytest.mark.parametrize("way", [HttpRoute], indirect=True)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_a_client_that_disconnects_within_its_body_is_not_a_crash(start, caplog):
    async with start() as service:
        for path in ("/sessions/a/observations", "/sessions"):
            _, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(
                f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nhalf".encode()
            )
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            assert (await service.advance("b", [[0.5]])).status == 200
        assert (await service.http.get("/sessions")).json()["total"] == 1
    assert "crashed" not in caplog.text
