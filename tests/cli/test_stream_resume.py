"""`carryover stream --resume` after a kill anywhere; models of times and known inputs from the shell."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli import resume
from app.cli.prediction_writer import Layout
from models.artifact.files import save
from models.data.scaling import Column
from models.errors import BadData
from tests.helpers import zoo
from tests.helpers.commands import ran
from tests.helpers.zoo import series

pytestmark = pytest.mark.anyio
ROWS, CHUNK = 5, 2
HOURS = [f"2026-01-01 {hour:02}:00:00" for hour in range(24)]


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return path


class Killed(Exception):
    """The command's process has ended."""


@pytest.fixture
def kill_at(monkeypatch) -> Callable[[int | None], None]:
    """End the command when it writes the predictions of its n-th chunk: the server has applied it."""
    left: list[int | None] = [None]
    write = Layout.write

    def dying(self: Layout, *arguments: Any) -> None:
        if left[0] == 0:
            raise Killed
        if left[0] is not None:
            left[0] -= 1
        write(self, *arguments)

    monkeypatch.setattr(Layout, "write", dying)

    def set_left(count: int | None) -> None:
        left[0] = count

    return set_left


@pytest.mark.parametrize("times", [[], ["--time-column", "when"]], ids=["by-count", "by-time"])
async def test_killed_at_every_chunk_the_predictions_are_those_of_an_uninterrupted_run(
    started, kill_at, tmp_path, times
):
    first, second = series("sine", 5, 1)[:, 0].tolist(), series("sine", ROWS)[:, 0].tolist()
    day1 = write_csv(tmp_path / "day1.csv", {"when": HOURS[:5], "value": first})
    day2 = write_csv(tmp_path / "day2.csv", {"when": HOURS[5 : 5 + ROWS], "value": second})
    async with started() as service:
        files = []
        for count in (None, *range(-(-ROWS // CHUNK))):
            session, out = f"s{count}", tmp_path / f"{count}.csv"
            options = ["--chunk", CHUNK, *times]
            assert (
                await ran(service, "stream", day1, session, *options, "--out", tmp_path / f"1-{count}") == 0
            )
            kill_at(count)
            if count is None:
                assert await ran(service, "stream", day2, session, *options, "--out", out) == 0
            else:
                with pytest.raises(Killed):
                    await ran(service, "stream", day2, session, *options, "--out", out)
                kill_at(None)
                assert await ran(service, "stream", day2, session, *options, "--out", out, "--resume") == 0
            assert (await service.session(session))["position"] == 5 + ROWS
            assert not list(tmp_path.glob(f"{count}.csv.*"))
            files.append(out.read_text())
    assert [text == files[0] for text in files] == [True] * len(files)
    assert files[0].count("\n") == 1 + ROWS


async def test_rows_up_to_the_last_time_are_skipped_and_counted(started, tmp_path, capsys):
    values = series("sine", 12)[:, 0].tolist()
    out = tmp_path / "out.csv"
    first = write_csv(tmp_path / "first.csv", {"when": HOURS[:6], "value": values[:6]})
    # A later cut of the log: it begins at another row than the file before.
    later = write_csv(tmp_path / "later.csv", {"when": HOURS[4:12], "value": values[4:]})
    twice = write_csv(tmp_path / "twice.csv", {"when": [HOURS[11]] * 2, "value": [1, 2]})
    back = write_csv(tmp_path / "back.csv", {"when": [HOURS[13], HOURS[2]], "value": [1, 2]})
    options = ["a", "--time-column", "when", "--out", out]
    async with started() as service:
        assert await ran(service, "stream", first, *options) == 0
        assert await ran(service, "stream", later, *options, "--resume") == 0
        assert "skipping 2 rows at or before 2026-01-01T05:00:00Z" in capsys.readouterr().err
        assert (await service.session("a"))["position"] == 12
        assert await ran(service, "stream", twice, *options, "--resume") == 2
        assert "several rows have the time 2026-01-01T11:00:00Z" in capsys.readouterr().err
        assert (await service.session("a"))["position"] == 12
        assert await ran(service, "stream", back, *options, "--resume") == 2
        assert "the rows are not in order of time" in capsys.readouterr().err
    assert [row["when"] for row in csv.DictReader(io.StringIO(out.read_text()))] == HOURS[:12]


@pytest.mark.parametrize("kept", [True, False], ids=["by-out", "by-the-session"])
async def test_a_time_in_microseconds_is_applied_once(started, tmp_path, capsys, kept):
    columns = {"when": [f"{hour}.123456" for hour in HOURS[:6]], "a": [0.1] * 6, "plan": [1] * 6}
    path = write_csv(tmp_path / "whole.csv", columns)
    cut = write_csv(tmp_path / "cut.csv", {name: cells[:4] for name, cells in columns.items()})
    options = ["a", "--time-column", "when", *(["--out", tmp_path / "out.csv"] if kept else [])]
    async with started() as service:
        assert await ran(service, "stream", cut, *options, "--model", "planned") == 0
        assert await ran(service, "stream", path, *options, "--resume") == 0
        assert "skipping 4 rows at or before 2026-01-01T03:00:00.123456Z" in capsys.readouterr().err
        assert (await service.session("a"))["position"] == 6


async def test_a_local_time_in_microseconds_is_applied_once(started, tmp_path):
    columns = {"when": [f"{hour}.123456" for hour in HOURS[:6]], "value": [0.1] * 6}
    path = write_csv(tmp_path / "whole.csv", columns)
    cut = write_csv(tmp_path / "cut.csv", {name: cells[:4] for name, cells in columns.items()})
    options = ["a", "--time-column", "when", "--timezone", "Europe/Berlin", "--out", tmp_path / "out.csv"]
    async with started() as service:
        assert await ran(service, "stream", cut, *options) == 0
        assert await ran(service, "stream", path, *options, "--resume") == 0
        assert (await service.session("a"))["position"] == 6


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
async def test_a_target_called_position_hides_no_position(start_hot, tmp_path, capsys, format_):
    valve = replace(zoo.artifacts()["sine"], inputs=(Column("position"),), targets=("position",))
    save(valve, tmp_path / "models" / "valve")
    path = write_csv(tmp_path / "whole.csv", {"position": [0.1 * i for i in range(6)]})
    cut = write_csv(tmp_path / "cut.csv", {"position": [0.1 * i for i in range(4)]})
    options = ["a", "--format", format_, "--out", tmp_path / "out"]
    async with start_hot(models=(tmp_path / "models",), default_model="sine") as service:
        assert await ran(service, "stream", cut, *options) == 0
        assert await ran(service, "stream", path, *options, "--resume") == 0
        assert (await service.session("a"))["position"] == 6
        assert await ran(service, "forecast", "a", "-n", 1, "--json") == 0
        document = json.loads(capsys.readouterr().out.splitlines()[-1])
    lines = (tmp_path / "out").read_text().splitlines()
    rows = list(csv.DictReader(lines)) if format_ == "csv" else [json.loads(line) for line in lines]
    assert [int(row["position"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert list(rows[0]) == ["position", "position_2"]
    assert document["position"] == 6
    assert len(document["position_2"]) == 1


async def test_a_stream_that_cannot_go_on_says_why_and_writes_nothing(started, tmp_path, capsys):
    path = write_csv(tmp_path / "a.csv", {"value": [1, 2, 3]})
    other = write_csv(tmp_path / "b.csv", {"value": [4, 5, 6]})
    async with started() as service:
        assert await ran(service, "stream", path, "a") == 0
        assert capsys.readouterr().out.splitlines()[0] == "position,value"
        assert await ran(service, "stream", other, "a", "--resume") != 0
        said = capsys.readouterr()
        assert said.out == ""
        assert "going on" not in said.err
        assert await ran(service, "stream", path, "a", "--resume") == 0
        said = capsys.readouterr()
        assert said.out == "position,value\n"
        assert "going on after row 3 of the source" in said.err


def test_a_pipe_is_written_and_not_read(tmp_path, monkeypatch):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("waits for what it should write"))
    output = resume.Output(Layout(["value"]), pipe, "a")
    ours = os.open(pipe, os.O_RDWR)  # a reader and a writer: nobody waits for the other end
    try:
        with output.open(output.new_rows(0), resume=False):
            assert not list(tmp_path.glob("pipe.*"))
            output.finish()
        assert os.read(ours, 100) == b"position,value\n"
    finally:
        os.close(ours)


async def test_irregular_steps_are_told_once_the_rows_are_sent(started, tmp_path, capsys):
    hours = ["00:00", "01:00", "02:00", "04:00", "05:00"]
    columns = {"when": [f"2026-01-01T{hour}Z" for hour in hours], "value": [1, 2, 3, 4, 5]}
    path = write_csv(tmp_path / "a.csv", columns)
    async with started() as service:
        for session, options, is_said in (
            ("a", ["--time-column", "when"], True),
            ("b", [], False),
            ("c", ["--time-column", "when", "--resample", "1h"], False),
        ):
            assert await ran(service, "stream", path, session, *options) == 0
            warning = "1 of 4 steps is not the usual 3600 s; the first is 7200 s, before row 4"
            assert (warning in capsys.readouterr().err) == is_said


async def test_predictions_of_a_session_that_has_lost_observations_are_refused(started, tmp_path, capsys):
    path, out = write_csv(tmp_path / "a.csv", {"value": [1, 2, 3]}), tmp_path / "out.csv"
    async with started() as service:
        assert await ran(service, "stream", path, "a", "--out", out) == 0
        await service.http.delete("/sessions/a")
        assert await ran(service, "stream", path, "a", "--out", out, "--resume") == 2
        assert "go to position 3, but the session is at 0" in capsys.readouterr().err
        (tmp_path / "other.csv.resume").write_text('{"session": "b", "start": 0}')
        assert await ran(service, "stream", path, "a", "--out", tmp_path / "other.csv", "--resume") == 2
        assert "is of session 'b'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["years,of\n", "years", "position,load\n1,2\n", "position,value\n1,x,3\n"])
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, text):
    path = tmp_path / "other.csv"
    path.write_text(text)
    for layout in (Layout(["value"]), Layout(["value"], as_json=True)):
        with pytest.raises(BadData, match="does not have such predictions"):
            layout.read_written(path)
    assert path.read_text() == text


async def test_a_model_of_times_and_known_inputs_is_streamed_and_forecast(started, tmp_path, capsys):
    columns = {"plan": range(12), "date": HOURS[:12], "a": np.sin(np.arange(12.0)).tolist()}
    path = write_csv(tmp_path / "readings.csv", columns)
    future = write_csv(tmp_path / "future.csv", {"date": HOURS[10:15], "x": range(5), "plan": range(10, 15)})
    async with started() as service:
        assert await ran(service, "stream", path, "a", "--model", "planned", "--time-column", "date") == 0
        capsys.readouterr()
        assert (await service.session("a"))["time"] == "2026-01-01T11:00:00.000Z"
        # Without --out the session's own time says which rows it has.
        assert await ran(service, "stream", path, "a", "--time-column", "date", "--resume") == 0
        assert "skipping 12 rows at or before 2026-01-01T11:00:00Z" in capsys.readouterr().err
        assert await ran(service, "forecast", "a") == 1
        assert "needs the future of plan" in capsys.readouterr().err
        arguments = ["forecast", "a", "--future", future, "--time-column", "date", "--json"]
        assert await ran(service, *arguments) == 0
        got = json.loads(capsys.readouterr().out)
        body = {"steps": 3, "future": [[12], [13], [14]]}
        want = (await service.http.post("/sessions/a/forecast", json=body)).json()["forecast"]
        assert got["a"] == pytest.approx([row[0] for row in want], rel=1e-6)
        assert await ran(service, *arguments, "--steps", 4) == 2
        assert "has 3 rows for 4 steps" in capsys.readouterr().err
        await service.advance("b", [0.1])
        assert await ran(service, "forecast", "b", "--future", future) == 2
        assert "has no inputs that are known ahead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01 01:00:00+01:00", 1767225600.0),
        ("2026-01-01", 1767225600.0),
        ("1767225600", 1767225600.0),
        (1767225600, 1767225600.0),
        ("t7", None),
        (None, None),
    ],
)
def test_times_are_compared_as_seconds(cell, seconds):
    assert resume.parse_time(cell) == seconds
