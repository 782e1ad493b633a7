"""What `carryover stream` and `forecast` refuse: they name the place in the file, and what was applied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.cli import run

pytestmark = pytest.mark.anyio
HOURS = [f"2026-01-{1 + hour // 24:02} {hour % 24:02}:00:00" for hour in range(48)]


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


@pytest.fixture
def started(start_hot, capsys):
    @asynccontextmanager
    async def start() -> AsyncIterator[Any]:
        async with start_hot() as service:
            capsys.readouterr()  # where it listens
            yield service

    return start


async def ran(service: Any, *arguments: object) -> int:
    url = ["--url", f"http://127.0.0.1:{service.port}"]
    return await asyncio.to_thread(run, [*map(str, arguments), *url])


def write(path: Path, header: str, *columns: Any) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in zip(*columns, strict=True)), ""]))
    return path


async def test_options_that_contradict_the_session_are_refused(started, tmp_path, capsys):
    path = write(tmp_path / "x.csv", "value", range(3))
    plan = write(tmp_path / "plan.csv", "when,plan", HOURS[:3], range(3))
    async with started() as service:
        await service.advance("a", [0.5])
        for model in ("nope", "pair"):
            assert await ran(service, "stream", path, "a", "--model", model) == 1
            assert f"session 'a' runs model 'sine', not '{model}'" in capsys.readouterr().err
        assert (await service.session("a"))["position"] == 1
        assert await ran(service, "stream", path, "a", "--model", "sine") == 0
        # A gap alone gives a session no time.
        body = {"observations": [[0.1, 1, 0, 1]], "model": "planned"}
        assert (await service.http.post("/sessions/p/observations", json=body)).status_code == 200
        forecast = ["forecast", "p", "--future", plan]
        assert await ran(service, *forecast) in (0, 1)
        capsys.readouterr()
        assert await ran(service, *forecast, "--time-column", "when") == 2
        assert "session 'p' has no times, so --time-column cannot say which rows" in capsys.readouterr().err
        assert await ran(service, "forecast", "p", "--time-column", "when") == 2
        assert "names a column of --future, which is not given" in capsys.readouterr().err


async def test_times_that_go_back_are_refused_with_their_row(started, tmp_path, capsys):
    reverse = write(tmp_path / "reverse.csv", "when,value", HOURS[:4][::-1], range(4))
    jump = write(tmp_path / "jump.csv", "when,value", [*HOURS[4:8], *HOURS[:2]], range(6))
    async with started() as service:
        for path, options, row in ((reverse, [], 2), (jump, [], 5), (jump, ["--resample", "1h"], 5)):
            status = await ran(service, "stream", path, path.stem, "--time-column", "when", *options)
            said = capsys.readouterr().err
            assert (status, "mends them" in said) == (2, False)
            assert f"{path.name}, row {row}: time {HOURS[0 if row == 5 else 2][:10]}" in said
            assert "sort the rows by time" in said
        assert (await service.http.get("/sessions/reverse")).status_code == 404


async def test_the_times_that_a_model_needs_are_found_as_in_a_body(started, tmp_path, capsys):
    path = write(tmp_path / "x.csv", "plan,date,a,note", range(3), HOURS[:3], range(3), HOURS[3:6])
    without = write(tmp_path / "y.csv", "plan,a", range(3), range(3))
    async with started() as service:
        assert await ran(service, "stream", without, "a", "--model", "planned") == 2
        assert "no column of times is found in" in (said := capsys.readouterr().err)
        assert "model 'planned' needs" in said
        assert await ran(service, "stream", path, "a", "--model", "planned") == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines()[1].startswith("1,2026-01-01T00:00:00.000Z,")
        assert "the times are those of column 'date'" in captured.err
        assert (await service.session("a"))["time"] == "2026-01-01T02:00:00.000Z"
        assert await ran(service, "stream", path, "a", "--resume") == 0
        assert "skipping 3 rows at or before 2026-01-01T02:00:00Z" in capsys.readouterr().err
