"""Every error of the tree has its status, and one shape."""

import asyncio
import json

import pytest

from app import errors
from app.api.errors import STATUS, problem
from tests.helpers.ways import HttpRoute


def tree(error: type[errors.CarryoverError]) -> set[type[errors.CarryoverError]]:
    return {error}.union(*(tree(child) for child in error.__subclasses__()))


def leaves() -> list[type[errors.CarryoverError]]:
    found = [one for one in tree(errors.CarryoverError) if one.__module__ == "app.errors"]
    return [one for one in found if not one.__subclasses__() and one is not errors.ConfigError]


def test_every_error_that_a_client_may_see_has_its_own_status_title_and_type():
    assert set(leaves()) - set(STATUS) == set()
    told = [problem(one("why"))[1] for one in leaves()]
    assert len({one["type"] for one in told}) == len({one["title"] for one in told}) == len(told)


def test_an_error_tells_what_a_program_wants_beside_the_sentence():
    status, body, headers = problem(errors.OutOfStep("no", position=2**62))
    assert json.loads(json.dumps(body)) == {
        "type": "urn:carryover:out-of-step",
        "title": "Out of step",
        "status": 409,
        "detail": "no",
        "position": 2**62,
    }
    assert (status, headers) == (409, {})


def test_whatever_passes_by_itself_says_when_to_try_again():
    for one in leaves():
        status, _, headers = problem(one("why"))
        assert (status in (429, 503)) == issubclass(one, errors.Unavailable) == ("retry-after" in headers)


@pytest.mark.anyio
@pytest.mark.parametrize("way", [HttpRoute], indirect=True)
@pytest.mark.parametrize("store", ["memory"], indirect=True)
async def test_a_client_that_hangs_up_amid_its_body_is_no_crash(start, caplog):
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
