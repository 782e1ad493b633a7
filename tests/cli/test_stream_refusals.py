"""What `carryover stream` and `forecast` refuse: they name the place in the file, and what was applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.cli.prediction_writer import Layout
from tests.helpers.commands import ran

pytestmark = pytest.mark.anyio
HOURS = [f"2026-01-{1 + hour // 24:02} {hour % 24:02}:00:00" for hour in range(48)]


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


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
        # A session that got the time inputs as numbers has no time.
        body = {"observations": [[0.1, 1, 0, 1]], "model": "planned"}
        assert (await service.http.post("/sessions/p/observations", json=body)).status_code == 200
        forecast = ["forecast", "p", "--future", plan]
        assert await ran(service, *forecast, "--time-column", "when") == 2
        assert "session 'p' has no times, so --time-column cannot say which rows" in capsys.readouterr().err
        assert await ran(service, "stream", path, "a", "--began-at", 1) == 2
        assert "says where to go on, which needs --resume" in capsys.readouterr().err
        for cell, said in (
            ("", "is empty: a forecast needs"),
            (1e39, "is 1e+39, which is not a finite float32"),
        ):
            ahead = write(tmp_path / "ahead.csv", "when,plan", HOURS[:3], [0, 1, cell])
            assert await ran(service, "forecast", "p", "--future", ahead) == 2
            assert f"ahead.csv, row 3, column 'plan' {said}" in capsys.readouterr().err
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


async def test_a_refused_row_is_named_as_in_the_file_and_what_was_applied_is_said(started, tmp_path, capsys):
    numbers = [0.1] * 24
    huge = write(tmp_path / "huge.csv", "value", [*numbers[:12], 1e39, *numbers[13:]])
    hole = write(tmp_path / "hole.csv", "when,a,plan", [*HOURS[:12], *HOURS[13:25]], numbers, numbers)
    whole = write(tmp_path / "whole.csv", "when,a,plan", HOURS[:24], numbers, numbers)
    timed = ["--model", "planned", "--time-column", "when"]
    gap = "time 2026-01-01T13:00:00.000Z is 7200 s after the row before it"
    async with started() as service:
        for path, session, options, said in (
            (huge, "a", [], "huge.csv, row 13, column 'value' is 1e+39, which is not a finite float32"),
            (hole, "b", timed, f"hole.csv, row 13: {gap}; model 'planned' expects 3600 s from row to row"),
        ):
            assert await ran(service, "stream", path, session, "--chunk", 5, *options) == 2
            captured = capsys.readouterr()
            assert said in captured.err
            applied = "10 rows of this run were applied; to go on behind what was applied: --resume\n"
            assert applied in captured.err
            assert len(captured.out.splitlines()) == 1 + 10
        assert captured.err.endswith("--resample 1h\n")
        assert await ran(service, "stream", whole, "b", "--chunk", 5, *timed) == 2
        assert "before the session's last time, 2026-01-01T09:00:00Z" in (said := capsys.readouterr().err)
        assert "go on behind the rows that were applied with --resume" in said
        # The rows that are skipped are counted, too.
        assert await ran(service, "stream", hole, "b", "--chunk", 2, *timed, "--resume") == 2
        assert "hole.csv, row 13: " in (said := capsys.readouterr().err)
        assert "2 rows of this run were applied; to go on behind what was applied: the same" in said
        assert await ran(service, "stream", hole, "b", *timed, "--resume", "--resample", "1h") == 2
        step = "hole.csv, the step at 2026-01-01T12:00:00.000Z, column 'plan' is missing"
        assert step in capsys.readouterr().err


async def test_a_stream_that_breaks_off_says_what_was_applied(started, tmp_path, capsys, monkeypatch):
    bad = write(tmp_path / "bad.csv", "when,value", [*HOURS[1:13], HOURS[0]], range(13))
    write_rows, left = Layout.write, [2]

    def interrupted(self: Layout, *arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write_rows(self, *arguments)

    async with started() as service:
        for _ in range(2):  # the second time from position 10
            position = (await service.http.get("/sessions/a")).json().get("position", 0)
            assert await ran(service, "stream", bad, "a", "--chunk", 5, "--time-column", "when") == 2
            captured = capsys.readouterr()
            assert "bad.csv, row 13: time 2026-01-01 00:00:00 is before 2026-01-01 12:00:00" in captured.err
            again = f"--resume --began-at {position}" if position else "--resume"
            said = f"10 rows of this run were applied; to go on behind what was applied: {again}\n"
            assert said in captured.err
            assert len(captured.out.splitlines()) == 1 + 10
            assert (await service.session("a"))["position"] == position + 10
        monkeypatch.setattr(Layout, "write", interrupted)
        path = write(tmp_path / "x.csv", "value", range(12))
        assert await ran(service, "stream", path, "b", "--chunk", 5) == 130
        assert "at least 12 rows of this run were applied" in capsys.readouterr().err


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
