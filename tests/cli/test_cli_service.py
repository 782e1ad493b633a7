"""The commands that talk to a running server: streams that go on, sessions that are looked at and moved."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli import run
from app.cli.demo import StreamComparison, _draw
from app.cli.row_reader import open_rows, select_columns
from models.data.dataset import open_series
from models.errors import BadData
from tests.helpers.zoo import TOLERANCE, one_pass, series

pytestmark = pytest.mark.anyio
STEPS = 120


@pytest.fixture(params=["memory"])
def store(request) -> str:
    return request.param


@pytest.fixture
def values() -> np.ndarray:
    return series("sine", STEPS)


@pytest.fixture
def readings(tmp_path, values) -> Path:
    path = tmp_path / "readings.csv"
    path.write_text(
        "when,value\n" + "".join(f"t{i},{value[0]!r}\n" for i, value in enumerate(values.tolist()))
    )
    return path


@pytest.fixture
def started(start_hot, capsys):
    @asynccontextmanager
    async def start():
        async with start_hot() as service:
            capsys.readouterr()  # where it listens
            yield service

    return start


def read_csv(capsys: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


async def ran(service: Any, *arguments: object) -> int:
    """Run a command against the service, off its event loop."""
    url = ["--url", f"http://127.0.0.1:{service.port}"]
    return await asyncio.to_thread(run, [*map(str, arguments), *url])


async def test_a_file_is_streamed_and_its_times_are_copied(started, readings, values, artifacts, capsys):
    async with started() as service:
        assert await ran(service, "stream", readings, "a", "--time-column", "when", "--chunk", 7) == 0
        rows = read_csv(capsys)
        assert (await service.session("a"))["position"] == STEPS
    assert [row["position"] for row in rows] == [str(i + 1) for i in range(STEPS)]
    assert rows[3]["when"] == "t3"
    got = np.array([[float(row["value"])] for row in rows])
    np.testing.assert_allclose(got, one_pass(artifacts["sine"], values), atol=TOLERANCE)


async def test_an_interrupted_stream_continues_and_loses_no_prediction(started, readings, tmp_path, capsys):
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    async with started() as service:
        assert await ran(service, "stream", readings, "a", "--out", whole, "--chunk", 10) == 0
        lines = whole.read_text().splitlines(keepends=True)
        (tmp_path / "part.csv").write_text("".join(readings.read_text().splitlines(keepends=True)[:81]))
        assert await ran(service, "stream", tmp_path / "part.csv", "b", "--out", broken, "--chunk", 10) == 0
        # Killed: 80 observations were applied; of the predictions 50 were written, and half of a line.
        broken.write_text("".join(lines[:51]) + lines[51][:4])
        assert await ran(service, "stream", readings, "b", "--out", broken, "--chunk", 10) == 0
        assert "continuing after row 50" in capsys.readouterr().err
        assert (await service.session("b"))["position"] == STEPS
        assert await ran(service, "stream", readings, "b", "--out", broken, "--chunk", 10) == 0
    assert broken.read_text() == whole.read_text()


async def test_a_stream_without_an_output_continues_at_the_position(started, readings, values, capsys):
    async with started() as service:
        await service.advance("a", values[:100])
        assert await ran(service, "stream", readings, "a", "--json") == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["position"] for line in lines] == list(range(101, STEPS + 1))
        assert await ran(service, "stream", readings, "a", "--json", "--from-start") == 0
        assert (await service.session("a"))["position"] == 2 * STEPS


async def test_a_file_that_grows_is_followed(started, tmp_path, zoo_folder):
    growing, out = tmp_path / "growing.csv", tmp_path / "out.csv"
    growing.write_text("value\n0.1\n0.2")
    async with started() as service:
        url = f"http://127.0.0.1:{service.port}"
        command = ["stream", str(growing), "a", "--follow", "--out", str(out), "--url", url]
        with followed(command) as process:
            await until(lambda: lines_of(out) == 2)
            with growing.open("a") as file:
                file.write("5\n0.3\n")
            await until(lambda: lines_of(out) == 4)
            assert process.poll() is None
        assert (await service.session("a"))["position"] == 3
    assert process.returncode != 0


def followed(command: list[str]) -> Any:
    process = subprocess.Popen([sys.executable, "-c", "from app.cli import main; main()", *command])

    class Ended:
        def __enter__(self) -> subprocess.Popen:
            return process

        def __exit__(self, *what: object) -> None:
            process.kill()
            process.wait()

    return Ended()


def lines_of(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it took more than 30 s"
        await asyncio.sleep(0.02)


async def test_columns_are_found_by_the_model_s_names_and_gaps_are_sent(started, tmp_path, capsys):
    path = tmp_path / "many.csv"
    path.write_text("c,note,b,a\n1,x,2,3\n4,y,,6\n7,z,8,9\n")
    async with started() as service:
        status = await ran(service, "stream", path, "a", "--model", "pair", "--time-column", "note")
        rows = read_csv(capsys)
        want = (await service.advance("b", [[3, 2, 1], [6, None, 4], [9, 8, 7]], model="pair")).numbers
    assert (status, [row["note"] for row in rows]) == (0, ["x", "y", "z"])
    got = [[float(row[name]) for name in ("c", "a", "b")] for row in rows]
    np.testing.assert_allclose(got, want, atol=3 * TOLERANCE)


async def test_a_forecast_is_printed(started, values, capsys):
    async with started() as service:
        await service.advance("a", values)
        assert await ran(service, "forecast", "a", "--steps", 3) == 0
        rows = read_csv(capsys)
        assert await ran(service, "forecast", "a", "-n", 3, "--json") == 0
        document = json.loads(capsys.readouterr().out)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert [float(row["value"]) for row in rows] == document["value"]
    assert document["position"] == STEPS


async def test_a_session_is_shown_forked_reset_and_deleted(started, values, capsys):
    async with started() as service:
        await service.advance("a", values)
        assert await ran(service, "sessions", "fork", "a", "b", "--json") == 0
        assert json.loads(capsys.readouterr().out)["position"] == STEPS
        assert await ran(service, "sessions", "reset", "b", "--json") == 0
        assert json.loads(capsys.readouterr().out)["observations_since_reset"] == 0
        assert await ran(service, "sessions", "show", "a") == 0
        assert f"position                  {STEPS}" in capsys.readouterr().out
        assert await ran(service, "sessions", "list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["SESSION", "MODEL", "POSITION", "LAST", "SEEN", "(UTC)"]
        assert [line.split()[:3] for line in lines[1:]] == [
            ["a", "sine", str(STEPS)],
            ["b", "sine", str(STEPS)],
        ]
        assert len({line.index("sine") for line in lines[1:]}) == 1
        assert datetime.fromisoformat(" ".join(lines[1].split()[3:])).year > 2000
        assert await ran(service, "sessions", "list", "--json") == 0
        assert (
            capsys.readouterr().out
            == '{"session": "a", "model": "sine"}\n{"session": "b", "model": "sine"}\n'
        )
        assert await ran(service, "sessions", "label", "b", "site=north", "line=4") == 0
        assert await ran(service, "sessions", "label", "b", "line=") == 0
        assert "labels                    {'site': 'north'}" in capsys.readouterr().out
        assert await ran(service, "sessions", "list", "--json", "--label", "site=north") == 0
        assert capsys.readouterr().out == '{"session": "b", "model": "sine"}\n'
        assert await ran(service, "sessions", "list", "--label", "north") == 2
        assert "a label is name=value" in capsys.readouterr().err
        assert await ran(service, "sessions", "delete", "b") == 0
        assert await ran(service, "sessions", "show", "b") == 1
        assert capsys.readouterr().err == f"carryover: session 'b' was deleted at position {STEPS}\n"


async def test_sessions_are_exported_and_imported(started, values, tmp_path, capsys):
    async with started() as service:
        await service.advance("a", values)
        assert await ran(service, "sessions", "export", tmp_path / "house") == 0
        await service.http.delete("/sessions/a")
        assert await ran(service, "sessions", "import", tmp_path / "house") == 0
        assert (await service.session("a"))["position"] == STEPS
    assert capsys.readouterr().out.count("1 sessions") == 2


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["sessions", "list"], 1, "is the server running?"),
        (["forecast", "a"], 1, "is the server running?"),
        (["sessions", "list", "--url", "ftp://x"], 2, "is not an http:// or https:// URL"),
        (["stream", "none.csv", "a"], 1, "none.csv: No such file"),
        (["stream", "empty.csv", "a"], 2, "empty.csv is empty"),
        (["forecast", "a", "--key-file", "none"], 1, "none: No such file"),
    ],
)
def test_an_error_is_one_line(arguments, status, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    url = [] if "--url" in arguments else ["--url", "http://127.0.0.1:1"]
    assert run([*arguments, *url]) == status
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert sentence in captured.err


async def test_the_error_says_why_a_file_cannot_be_streamed(started, tmp_path, capsys):
    (tmp_path / "wide.csv").write_text("p,q\n1,2\n")
    (tmp_path / "words.csv").write_text("value\n1\nlow\n")
    (tmp_path / "good.csv").write_text("value\n1\n")
    (tmp_path / "thesis.csv").write_text("years,of\nwork,x\n")
    async with started() as service:
        for arguments, sentence in {
            ("wide.csv", "a"): "the model reads value; the columns are p, q: name them with --columns",
            ("words.csv", "a"): "column 'value' has 'low', which is not a number",
            ("good.csv", "a", "--time-column", "date"): "there is no column 'date'",
            ("good.csv", "a", "--model", "none"): "the server has no model 'none'",
            ("good.csv", "a", "--out", tmp_path / "thesis.csv"): "does not end with a prediction",
        }.items():
            assert await ran(service, "stream", tmp_path / arguments[0], *arguments[1:]) == 2
            assert sentence in capsys.readouterr().err


# Sources.


def test_a_source_s_columns_are_taken_by_name_or_in_order(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("b,a\n1,2\n")
    with open_rows(path, sys.stdin, follow=False) as source:
        row = next(source.rows)
        assert source.total == 1
        assert select_columns(source, ("a", "b"), None)[0](row) == [2, 1]
        assert select_columns(source, ("u", "v"), None)[0](row) == [1, 2]
        assert select_columns(source, ("u",), "b")[1](row) == "1"
        with pytest.raises(BadData, match="name them with --columns"):
            select_columns(source, ("u",), None)


def test_a_file_with_some_of_the_inputs_is_not_read_in_order(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("b,x\n1,10\n2,20\n")
    with (
        open_rows(path, sys.stdin, follow=False) as source,
        pytest.raises(BadData, match="the model reads a, b; the columns are b, x: name them with --columns"),
    ):
        select_columns(source, ("a", "b"), None)


@pytest.mark.parametrize(
    ("text", "rows", "refused"),
    [
        ("a;b\n1;2\n", [[1, 2]], None),
        ("\ufeffa\tb\r\n1\t2\r\n\r\n3\t\r\n", [[1, 2], [3, None]], None),
        ('"b, l/s",a\n1,2\n', [[1, 2]], None),
        ("1,2\n,3\n", [[1, 2], [None, 3]], None),
        (",\n1,2\n", [[None, None], [1, 2]], None),
        ("a,b\n1,2\n3\n", None, "row 2: 1 cells, expected 2"),
        ("a,b\n1,2,3\n", None, "row 1: 3 cells, expected 2"),
        ("a,a\n1,2\n", None, "names a column twice"),
        ('a,b\n1,"2"x\n', None, "not CSV in UTF-8"),
        ("\n\n", None, "is empty"),
        ("a,b\n1,\udcff\n", None, "not CSV in UTF-8"),
    ],
)
def test_train_and_stream_read_a_csv_by_the_same_rules(tmp_path, text, rows, refused):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))

    def streamed() -> list[list[float | None]]:
        with open_rows(path, sys.stdin, follow=False) as source:
            observation, _ = select_columns(
                source, ("u", "v") if "a" not in source.names else source.names, None
            )
            return [observation(row) for row in source.rows]

    def trained() -> list[list[float | None]]:
        values = open_series(str(path), gaps=True).values
        return [[None if np.isnan(value) else value for value in row] for row in values]

    for read in (streamed, trained):
        if refused is None:
            assert read() == rows
        else:
            with pytest.raises(BadData, match=refused):
                read()


def test_standard_input_needs_no_header():
    with open_rows(Path("-"), io.StringIO("1,2\n,3\n"), follow=False) as source:
        observation, _ = select_columns(source, ("a", "b"), None)
        assert [observation(row) for row in source.rows] == [[1, 2], [None, 3]]


def test_parquet_is_read_row_by_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1.0, None], "b": [2, 3]}), tmp_path / "x.parquet")
    with open_rows(tmp_path / "x.parquet", sys.stdin, follow=False) as source:
        observation, _ = select_columns(source, ("b", "a"), None)
        assert ([observation(row) for row in source.rows], source.total) == ([[2, 1], [3, None]], 2)


# The demo, and completion.


def test_the_demo_trains_serves_and_compares_both_errors(capfd):
    assert run(["demo", "sine", "temperatures", "--steps", "60", "--epochs", "2"]) == 0
    out = capfd.readouterr().out
    assert "serving at http://127.0.0.1:" in out
    assert "sine: 59 predictions; mean squared error" in out
    assert "temperatures: 59 predictions" in out


def test_the_demo_draws_what_it_streams(capsys):
    story = StreamComparison()
    for place in range(50):
        story.add(np.sin(place / 5), np.sin(place / 5), 0.0)
    _draw("sine", story, first=True)
    assert "predicted, carried" in capsys.readouterr().out
    assert story.errors[0] == 0.0 < story.errors[1]


def test_commands_are_completed():
    words = {"_CARRYOVER_COMPLETE": "complete_bash", "COMP_WORDS": "carryover st", "COMP_CWORD": "1"}
    program = "from app.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | words, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["stream"]
