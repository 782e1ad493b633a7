"""The commands that talk to a running server: streams that go on, sessions that are looked at and moved."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli import run
from app.cli.demo import StreamComparison, _draw
from app.cli.row_reader import open_rows, select_columns
from models.artifact.files import save
from models.data.dataset import open_series
from models.data.tables.options import NO_OPTIONS, TableOptions
from models.errors import BadData
from tests.helpers import graphs
from tests.helpers.commands import ran
from tests.helpers.locked import Keys
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


def read_csv(capsys: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


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
        again = ["stream", readings, "b", "--out", broken, "--chunk", 10]
        assert await ran(service, *again) == 2
        assert "has predictions already: choose another --out" in capsys.readouterr().err
        assert await ran(service, *again, "--resume") == 0
        assert "going on after row 50" in capsys.readouterr().err
        assert (await service.session("b"))["position"] == STEPS
        assert await ran(service, *again, "--resume") == 0
    assert broken.read_text() == whole.read_text()


async def test_rows_are_new_unless_going_on_is_asked_for(started, readings, values, capsys):
    async with started() as service:
        await service.advance("a", values[:100])
        assert await ran(service, "stream", readings, "a", "--json", "--resume", "--chunk", 100) == 0
        captured = capsys.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert [line["position"] for line in lines] == list(range(101, STEPS + 1))
        assert "going on after row 100 of the source" in captured.err
        assert await ran(service, "stream", readings, "a", "--json") == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == STEPS
        assert f"session a is at {STEPS}: all rows of the source are new to it" in captured.err
        assert f"--resume --began-at {STEPS}" in captured.err
        assert (await service.session("a"))["position"] == 2 * STEPS
        again = ["stream", readings, "a", "--resume"]
        assert await ran(service, *again) == 1
        assert f"the source has {STEPS} rows, but session 'a' is at {2 * STEPS}" in capsys.readouterr().err
        assert await ran(service, *again, "--began-at", STEPS) == 0
        assert await ran(service, *again, "--began-at", STEPS + 7) == 1
        assert "are not those of the source there" in capsys.readouterr().err
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


async def test_local_times_are_sent_to_a_model_with_time_features(started, tmp_path, capsys):
    path = tmp_path / "local.csv"
    path.write_text(
        "when;plan;a\n31.03.2024 01:00;0,5;1\n31.03.2024 03:00;0,25;2\n"
    )  # the clock goes forward
    async with started() as service:
        inputs = (await service.http.get("/models/planned")).json()["inputs"]
        options = ["--model", "planned", "--time-column", "when", "--timezone", "Europe/Berlin"]
        status = await ran(service, "stream", path, "a", *options)
        rows = read_csv(capsys)
        rest = {port["name"] for port in inputs} - {"plan", "a"}
        assert all(name.startswith("hour_of_day") for name in rest)
        order = [port["name"] for port in inputs if port["name"] not in rest]
        sent = [
            [{"plan": 0.5, "a": 1}[name] for name in order],
            [{"plan": 0.25, "a": 2}[name] for name in order],
        ]
        body = {
            "observations": sent,
            "timestamps": ["2024-03-31T00:00Z", "2024-03-31T01:00Z"],
            "model": "planned",
        }
        wanted = (await service.http.post("/sessions/b/observations", json=body)).json()["predictions"]
    assert (status, [row["when"] for row in rows]) == (
        0,
        ["2024-03-31T00:00:00.000Z", "2024-03-31T01:00:00.000Z"],
    )
    np.testing.assert_allclose([[float(row["a"])] for row in rows], wanted, atol=TOLERANCE)


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


async def test_a_model_of_several_outputs_is_streamed_and_forecast(start_hot, tmp_path, capsys):
    save(graphs.characters(), tmp_path / "models" / "characters")
    path = tmp_path / "tokens.csv"
    path.write_text("token\n3\n1\n4\n")
    want = graphs.reference("characters", np.array([[3], [1], [4]]))
    async with start_hot(models=(tmp_path / "models",), default_model="characters") as service:
        capsys.readouterr()
        assert await ran(service, "stream", path, "a") == 0
        rows = read_csv(capsys)
        assert await ran(service, "forecast", "a", "-n", 2, "--json") == 0
        document = json.loads(capsys.readouterr().out)
    assert [int(row["best"]) for row in rows] == want[:, 30].tolist()
    logits = [[float(row[f"logits[{i}]"]) for i in range(30)] for row in rows]
    np.testing.assert_allclose(logits, want[:, :30], atol=TOLERANCE)
    assert document["best"][0] == want[2, 30]
    assert document["logits[29]"][0] == pytest.approx(want[2, 29], abs=TOLERANCE)


async def test_a_session_is_shown_forked_reset_and_deleted(started, values, capsys, clock):
    async with started() as service:
        await service.advance("a", values)
        assert await ran(service, "sessions", "fork", "a", "b", "--json") == 0
        assert json.loads(capsys.readouterr().out)["position"] == STEPS
        assert await ran(service, "sessions", "reset", "b", "--json") == 0
        assert json.loads(capsys.readouterr().out)["observations_since_reset"] == 0
        await service.http.post("/sessions", json={"id": "tracked", "learning": {"intervals": True}})
        await service.http.post("/sessions/tracked/observations", json={"observations": [0.0, 0.1, 0.2]})
        assert await ran(service, "sessions", "show", "tracked") == 0
        shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
        assert shown["learning.levels"].strip() == "0.5, 0.8, 0.9, 0.95, 0.99"
        assert float(shown["errors.by_target.value.mse"]) == pytest.approx(float(shown["errors.mse"]))
        assert re.fullmatch(r" *\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00:00", shown["created"])
        await service.http.delete("/sessions/tracked")
        assert await ran(service, "sessions", "show", "a") == 0
        assert f"position                  {STEPS}" in capsys.readouterr().out
        assert await ran(service, "sessions", "list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == [
            *("SESSION", "MODEL", "POSITION", "SKILL", "SURPRISE", "LAST", "SEEN", "(UTC)")
        ]
        assert [line.split()[:5] for line in lines[1:]] == [
            ["a", "sine", str(STEPS), "-", "-"],
            ["b", "sine", str(STEPS), "-", "-"],
        ]
        assert len({line.index("sine") for line in lines[1:]}) == 1
        assert datetime.fromisoformat(" ".join(lines[1].split()[5:])).year > 2000
        assert await ran(service, "sessions", "list", "--json") == 0
        assert (
            capsys.readouterr().out
            == '{"session": "a", "model": "sine"}\n{"session": "b", "model": "sine"}\n'
        )
        clock.wait(1)
        await service.advance("a", [[0.5]])
        for options, first in (([], "a"), (["--ascending"], "b")):
            assert await ran(service, "sessions", "list", "--order", "last_seen", *options) == 0
            lines = capsys.readouterr().out.splitlines()
            assert (len(lines), lines[1].split()[0]) == (3, first)
        assert await ran(service, "sessions", "list", "--descending", "--json") == 0
        assert [json.loads(line)["session"] for line in capsys.readouterr().out.splitlines()] == ["b", "a"]
        assert await ran(service, "sessions", "list", "--order", "position") == 2
        assert "last_seen" in capsys.readouterr().err
        assert await ran(service, "sessions", "label", "b", "site=north", "line=4") == 0
        assert await ran(service, "sessions", "label", "b", "line=") == 0
        assert "labels.site               north" in capsys.readouterr().out
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
        assert await ran(service, "sessions", "export", tmp_path / "house") == 0
        await service.http.delete("/sessions/a")
        assert await ran(service, "sessions", "export", tmp_path / "house") == 0
        assert await ran(service, "sessions", "export", tmp_path / "house", "--prune") == 0
    lines = [line.replace(str(tmp_path), "") for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "1 session exported to /house, 0 unchanged",
        "1 session imported from /house",
        "1 session exported to /house, 0 unchanged",
        "0 sessions exported to /house, 0 unchanged, 1 kept that the server no longer has "
        "(--prune removes them)",
        "0 sessions exported to /house, 0 unchanged, 1 removed that the server no longer has",
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["sessions", "list"], 1, "is the server running?"),
        (["forecast", "a"], 1, "is the server running?"),
        (["sessions", "list", "--url", "ftp://x"], 2, "is not an http:// or https:// URL"),
        (["stream", "none.csv", "a"], 2, "none.csv does not exist"),
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
            (
                "wide.csv",
                "a",
            ): "has the columns p, q; the model reads value. Nothing is fed by position.",
            ("words.csv", "a"): "row 2, column 'value': 'low' is not a number",
            ("good.csv", "a", "--time-column", "date"): "has no column 'date'",
            ("good.csv", "a", "--model", "none"): "the server has no model 'none'",
            ("good.csv", "a", "--out", tmp_path / "thesis.csv"): "does not have such predictions",
        }.items():
            assert await ran(service, "stream", tmp_path / arguments[0], *arguments[1:]) == 2
            assert sentence in capsys.readouterr().err


async def test_the_error_of_a_server_names_the_option_that_mends_it(start_hot, readings, tmp_path, capsys):
    keys = Keys(tmp_path)
    keys.add("ops")
    (tmp_path / "key").write_text(keys.token["ops"])
    async with start_hot(api_keys_file=keys.path, default_model=None) as service:
        assert '  curl -H "authorization: Bearer $KEY" http://' in capsys.readouterr().out
        assert await ran(service, "sessions", "list") == 1
        assert "send an API key" in (refused := capsys.readouterr().err)
        assert "--key-file" in refused
        assert "CARRYOVER_KEY_FILE" in refused
        for command in (["stream", readings, "a"], ["generate", "a", "--prompt", "x"]):
            assert await ran(service, *command, "--key-file", tmp_path / "key") in (1, 2)
            assert (
                "name the model of the new session with --model; the server has " in capsys.readouterr().err
            )


# Sources.


def rows_of(path: Path, inputs: Sequence[str], standard_input: Any = sys.stdin, **more: Any) -> list[Any]:
    with open_rows(path, standard_input, follow=False, options=more.pop("options", NO_OPTIONS)) as source:
        observation, _ = select_columns(source, inputs, None, **more)
        return [observation(row) for row in source.rows]


def test_columns_are_found_by_name_and_never_by_position(tmp_path, capsys):
    path = tmp_path / "x.csv"
    path.write_text("vib,press,temperature\n1,2,3\n")
    with pytest.raises(BadData) as refused:
        rows_of(path, ("temp", "press", "vib"))
    assert "has the columns vib, press, temperature; the model reads temp, press, vib" in str(refused.value)
    assert "--map temperature=temp" in str(refused.value)
    mapped = TableOptions(names={"temperature": "temp"})
    assert rows_of(path, ("temp", "press", "vib"), options=mapped) == [[3, 2, 1]]
    assert rows_of(path, ("press", "vib")) == [[2, 1]]
    assert "note: not sent, because the model has no such input: temperature" in capsys.readouterr().err
    with pytest.raises(BadData, match="--columns vib,press,temperature does not fit"):
        rows_of(path, ("temp", "press", "vib"), columns=("vib", "press", "temperature"))
    assert rows_of(path, ("a", "b"), columns=("temperature", "vib")) == [[3, 1]]


def test_a_label_is_copied_and_rows_are_counted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("b,a\n1,2\n")
    with open_rows(path, sys.stdin, follow=False) as source:
        assert source.total == 1
        label = select_columns(source, ("a",), "b")[1]
        assert [label(row) for row in source.rows] == ["1"]


def test_a_stream_is_resampled(tmp_path, capsys):
    path = tmp_path / "x.csv"
    path.write_text("t,a\n2024-01-01T00:00,1\n2024-01-01T00:09,3\n2024-01-01T00:30,4\n")
    with open_rows(path, sys.stdin, follow=False, step=600.0) as source:
        observation, label = select_columns(source, ("a",), "t")
        rows = [(label(row)[11:16], observation(row)) for row in source.rows]
    assert rows == [("00:00", [2]), ("00:10", [None]), ("00:20", [None]), ("00:30", [4])]
    assert "resampled 3 rows to 10min: means of their steps; 2 steps without a row" in capsys.readouterr().err


def test_each_row_of_a_pipe_is_given_out_when_it_comes():
    ours, theirs = os.pipe()
    with open(ours) as reading, os.fdopen(theirs, "wb", 0) as writing:  # noqa: PTH123
        writing.write(b"t;a\n")
        writing.write(b"2024-01-01;0,5\n")
        with open_rows(Path("-"), reading, follow=False) as source:
            observation, _ = select_columns(source, ("a",), None)
            rows = source.rows
            for number in (0.5, 1.5, 2.5):
                assert observation(next(rows)) == [number]
                writing.write(f"2024-01-01;{number + 1}\n".replace(".", ",").encode())


def test_a_file_that_is_cut_while_it_is_followed_is_noticed(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n2\n")
    with open_rows(path, sys.stdin, follow=True) as source:
        observation, _ = select_columns(source, ("a",), None)
        rows = source.rows
        assert [observation(next(rows)) for _ in range(2)] == [[1], [2]]
        path.write_text("a\n")
        with pytest.raises(BadData, match="was cut or replaced"):
            next(rows)


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
        ('a,b\n1,"2"x\n', None, "is not CSV: there is a stray quote near row 1"),
        ("\n\n", None, "is empty"),
        ("a,b\n1,\udcff\n", None, "is not UTF-8"),
    ],
)
def test_train_and_stream_read_a_csv_by_the_same_rules(tmp_path, text, rows, refused):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))

    def streamed() -> list[list[float | None]]:
        with open_rows(path, sys.stdin, follow=False) as source:
            names = source.names
        return rows_of(path, names if "a" in names else ("u", "v"))

    def trained() -> list[list[float | None]]:
        values = open_series(str(path), gaps=True).values
        return [[None if np.isnan(value) else value for value in row] for row in values]

    for read in (streamed, trained):
        if refused is None:
            assert read() == rows
        else:
            with pytest.raises(BadData, match=refused):
                read()


@pytest.mark.parametrize("text", ["1,2\n,3\n", '{"b": 2, "a": 1}\n{"b": 3}\n'])
def test_standard_input_is_csv_or_json_lines(text):
    standard_input = io.TextIOWrapper(io.BytesIO(text.encode()))
    assert rows_of(Path("-"), ("a", "b"), standard_input) == [[1, 2], [None, 3]]


def test_parquet_is_read_row_by_row(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1.0, None], "b": [2, 3]}), tmp_path / "x.parquet")
    assert rows_of(tmp_path / "x.parquet", ("b", "a")) == [[2, 1], [3, None]]


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
