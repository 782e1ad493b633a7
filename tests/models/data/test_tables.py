"""Tables: small files of every kind, and the series or the refusal that each gives; cut into any pieces."""

from __future__ import annotations

import gzip
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.dataset import open_series
from models.data.resampling import format_step, parse_step
from models.data.tables.columns import TableReader
from models.data.tables.files import read_table
from models.data.tables.options import BadCell, TableOptions
from models.data.tables.times import TimeReader
from models.errors import BadData

NAN = None
T = "2024-01-01T0{}:00:00"


def read(
    blocks: list[bytes], options: TableOptions, inputs: list[str] | None = None
) -> tuple[list[str], list[list[float | None]], list[str] | None]:
    """Names, rows and times of text that comes in these blocks."""
    reader = TableReader(
        read_table([each for each in blocks if each], options, "x"), options, inputs, gaps=True
    )
    rows, times = [], []
    for piece in reader.rows():
        rows += [[None if np.isnan(value) else value for value in row] for row in piece.values]
        times += [] if piece.times is None else np.datetime_as_string(piece.times, "s").tolist()
    return list(reader.names), rows, times or None


FILES: dict[str, tuple[str, dict[str, Any], list[str], list[list[float | None]], list[str] | None]] = {
    "commas": ("a,b\n1,2\n3,4\n", {}, ["a", "b"], [[1, 2], [3, 4]], None),
    "semicolons": ("a;b\n1;2\n", {}, ["a", "b"], [[1, 2]], None),
    "tabs": ("a\tb\n1\t2\n", {}, ["a", "b"], [[1, 2]], None),
    "bars": ("a|b\n1|2\n", {}, ["a", "b"], [[1, 2]], None),
    "another separator": ("a b\n1 2\n", {"separator": " "}, ["a", "b"], [[1, 2]], None),
    "separators in names": ('"a; 1";b, c\n1;2\n', {}, ["a; 1", "b, c"], [[1, 2]], None),
    "commas in names of a file with semicolons": (
        "T, °C;p, bar\n1;2\n",
        {},
        ["T, °C", "p, bar"],
        [[1, 2]],
        None,
    ),
    "a byte order mark, CRLF and blank lines": (
        "\ufeffa,b\r\n\r\n1,2\r\n\r\n",
        {},
        ["a", "b"],
        [[1, 2]],
        None,
    ),
    "carriage returns alone": ("a,b\r1,2\r3,4\r", {}, ["a", "b"], [[1, 2], [3, 4]], None),
    "quotes": ('"a","b ""x"""\n"1","2"\n', {}, ["a", 'b "x"'], [[1, 2]], None),
    "a line end in quotes": ('a,"b\nc"\n1,2\n', {}, ["a", "b\nc"], [[1, 2]], None),
    "spaces around cells": (" a , b \n 1 ,\t2 \n", {"separator": ","}, ["a", "b"], [[1, 2]], None),
    "no header": ("1,2\n3,4\n", {}, ["x0", "x1"], [[1, 2], [3, 4]], None),
    "no header, one column": ("1\n2\n", {}, ["value"], [[1], [2]], None),
    "no header, with times": ("2024-01-01,2\n", {}, ["x1"], [[2]], ["2024-01-01T00:00:00"]),
    "a header of numbers": ("1,2\n3,4\n", {"header": True}, ["1", "2"], [[3, 4]], None),
    "gaps": (
        "a,b\n1,N/A\n,-\nnull,#N/A\n<NA>,2\n",
        {},
        ["a", "b"],
        [[1, NAN], [NAN, NAN], [NAN, NAN], [NAN, 2]],
        None,
    ),
    "an empty quoted cell is a row": ('a\n1\n""\n2\n', {}, ["a"], [[1], [NAN], [2]], None),
    "signs and exponents": ("a,b\n+1,-2e3\n.5,5.\n", {}, ["a", "b"], [[1, -2000], [0.5, 5]], None),
    "a decimal comma": ("a;b\n1,5;2\n-0,25;1,234\n", {}, ["a", "b"], [[1.5, 2], [-0.25, 1.234]], None),
    "a decimal comma that is said": ("a;b\n1,234;2\n", {"decimal": ","}, ["a", "b"], [[1.234, 2]], None),
    "a decimal point that is said": ('a;b\n"1,234";2\n', {"decimal": "."}, ["a", "b"], [[1234, 2]], None),
    "thousands and a decimal comma": ("a;b\n1.234,5;12.345\n", {}, ["a", "b"], [[1234.5, 12345]], None),
    "thousands and a decimal point": ('a,b\n"1,234.5","1,234"\n', {}, ["a", "b"], [[1234.5, 1234]], None),
    "millions": ('a\n"1,234,567"\n', {"separator": ";"}, ["a"], [[1234567]], None),
    "spaces and apostrophes between thousands": (
        "a;b\n1 234;1\u202f234,5\n1'234;1\u00a0234\n",
        {},
        ["a", "b"],
        [[1234, 1234.5], [1234, 1234]],
        None,
    ),
    "ISO times": (
        "t,a\n2024-01-01 00:00,1\n2024-01-01T01:00:00Z,2\n",
        {},
        ["a"],
        [[1], [2]],
        [T.format(0), T.format(1)],
    ),
    "offsets": ("t,a\n2024-01-01T02:00:00+02:00,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "times that say UTC": ("t,a\n2024-01-01 02:00:00 UTC,1\n", {}, ["a"], [[1]], [T.format(2)]),
    "years first with slashes": ("t,a\n2024/01/01 02:00,1\n", {}, ["a"], [[1]], [T.format(2)]),
    "days first": ("t,a\n03/04/2024 10:30,1\n", {"day_first": True}, ["a"], [[1]], ["2024-04-03T10:30:00"]),
    "months first": (
        "t,a\n03/04/2024 10:30 PM,1\n",
        {"day_first": False},
        ["a"],
        [[1]],
        ["2024-03-04T22:30:00"],
    ),
    "midnight in halves of a day": (
        "t,a\n13.04.2024 12:00 am,1\n",
        {},
        ["a"],
        [[1]],
        ["2024-04-13T00:00:00"],
    ),
    "days first, as a row says": (
        "t,a\n31.12.2024,1\n01.02.2025,2\n",
        {},
        ["a"],
        [[1], [2]],
        ["2024-12-31T00:00:00", "2025-02-01T00:00:00"],
    ),
    "one number for day and month": ("t,a\n01/01/2024,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "seconds since 1970": ("timestamp,a\n1704067200,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "milliseconds": (
        "ts,a\n1704067200000,1\n1704070800000,2\n",
        {},
        ["a"],
        [[1], [2]],
        [T.format(0), T.format(1)],
    ),
    "microseconds": ("Time (us),a\n1704067200000000,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "nanoseconds": ("unix_time,a\n1704067200000000000,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "a column that is named": (
        "s,a\n0,1\n3600,2\n",
        {"time_column": "s"},
        ["a"],
        [[1], [2]],
        ["1970-01-01T00:00:00", "1970-01-01T01:00:00"],
    ),
    "no times": ("t,a\n2024-01-01,1\n", {"no_times": True}, ["a"], [[1]], None),
    "a zone": ("t,a\n2024-07-01 02:00,1\n", {"zone": "Europe/Berlin"}, ["a"], [[1]], ["2024-07-01T00:00:00"]),
    "two columns of times": ("date,ts,a\n2024-01-01,1704067200,1\n", {}, ["a"], [[1]], [T.format(0)]),
    "new names": ("u,b\n1,2\n", {"names": {"u": "a"}}, ["a", "b"], [[1, 2]], None),
    "JSON Lines": (
        '{"a": 1, "t": "2024-01-01"}\n\n{"a": null, "t": "2024-01-01T01:00"}\n',
        {},
        ["a"],
        [[1], [NAN]],
        [T.format(0), T.format(1)],
    ),
    "JSON Lines with texts": ('{"a": "1,5"}\n{"a": 2}\n{"a": "NA"}\n', {}, ["a"], [[1.5], [2], [NAN]], None),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_table_is_read(kind):
    text, options, names, rows, times = FILES[kind]
    assert read([text.encode()], TableOptions(**options)) == (names, rows, times)


@pytest.mark.parametrize("kind", FILES)
def test_a_table_is_the_same_row_by_row_and_byte_by_byte(kind):
    text, options, *expected = FILES[kind]
    data = text.encode()
    for blocks in (data.splitlines(keepends=True), [data[i : i + 1] for i in range(len(data))]):
        assert read(blocks, TableOptions(**options)) == tuple(expected)


REFUSED = {
    "nothing": ("", {}, "is empty"),
    "a short row": ("a,b\n1,2\n3\n", {}, "row 2: 1 cells, expected 2"),
    "a long row": ("a,b\n1,2\n\n3,4,5\n", {}, "row 2: 3 cells, expected 2"),
    "a title above the names": (
        "Station 7\ntime,a\n2024-01-01,1\n",
        {},
        "row 1: 2 cells, expected 1, as there are names in the first line, 'Station 7'; remove what stands",
    ),
    "an array in JSON": ('[{"a": 1}, {"a": 2}]\n', {}, "is a JSON array: write one object a line"),
    "an array over lines": ('\n[\n  {"a": 1},\n  {"a": 2}\n]\n', {}, "is a JSON array"),
    "an array of arrays": ("[[1, 2], [3, 4]]\n", {}, "is a JSON array"),
    "a name twice": ("a,a\n1,2\n", {}, "names a column twice in its header: 'a'"),
    "a quote without end": ('a,b\n1,"2\n', {}, "a quote never ends"),
    "a stray quote": ('a,b\n1,2\n3,"4"5\n', {}, "stray quote near row 2"),
    "a word": ("a\n1\nlow\n", {}, "row 2, column 'a': 'low' is not a number"),
    "an underscore": ("a\n1\n1_000\n", {}, "row 2, column 'a': '1_000' is not a number"),
    "a comma that may be either": (
        "a;b\n1;1,234\n",
        {},
        "row 1, column 'b': '1,234' is 1.234 or 1234; say which: --decimal , or --decimal .",
    ),
    "a comma after a point": (
        "a;b\n1.5;2\n3;1,25\n",
        {},
        "row 2, column 'b': '1,25' does not fit: numbers have a decimal point, by '1.5' in row 1; say --dec",
    ),
    "a point after a comma": (
        "a;b\n1,5;2\n3;1.25\n",
        {},
        "row 2, column 'b': '1.25' does not fit: numbers have a decimal comma, by '1,5' in row 1",
    ),
    "wrong groups": ('a,b\n1.5,"1,23,456"\n', {}, "row 1, column 'b': '1,23,456' is not a number"),
    "a date that may be either": (
        "t,a\n01/01/2024,1\n02/01/2024,1\n",
        {},
        "row 2, column 't': '02/01/2024' is 2 January or 1 February; say which: --day-first or --month-first",
    ),
    "a month above 12": (
        "t,a\n12/31/2024,1\n",
        {"day_first": True},
        "row 1, column 't': '12/31/2024' is not a time with the day first",
    ),
    "a date that does not fit the one before": (
        "t,a\n31/12/2024,1\n12/31/2024,1\n",
        {},
        "row 2, column 't': '12/31/2024' is not a time with the day first, by row 1",
    ),
    "a day that does not exist": (
        "t,a\n2024-02-28,1\n2024-02-30,1\n",
        {},
        "row 2, column 't': '2024-02-30' is not a time",
    ),
    "no time": ("t,a\n2024-02-28,1\n,1\n", {}, "row 2, column 't': an empty cell is not a time"),
    "a time that does not exist": (
        "t,a\n2022-03-27 01:30,1\n2022-03-27 02:30,1\n",
        {"zone": "Europe/Berlin"},
        "row 2, column 't': 2022-03-27 02:30:00 does not exist in Europe/Berlin",
    ),
    "a time beyond all years in UTC": (
        "t,a\n9998-12-31 23:59,1\n9999-12-31 23:59,1\n",
        {"zone": "America/New_York"},
        "row 2, column 't': '9999-12-31 23:59' is not a time",
    ),
    "an offset beyond all years": (
        "t,a\n0001-01-01T00:00:00+05:00,1\n",
        {},
        "row 1, column 't': '0001-01-01T00:00:00+05:00' is not a time",
    ),
    "the year 0": ("t,a\n1/2/0000,1\n", {}, "row 1, column 't': '1/2/0000' is not a time"),
    "a date without separators": (
        "t,a\n20240131,1\n20240201,1\n",
        {"time_column": "t"},
        "row 1, column 't': '20240131' is not a time since 1970 but a date without separators: write 2024",
    ),
    "a moment without separators": (
        "t,a\n20240131120000,1\n",
        {"time_column": "t"},
        "'20240131120000' is not a time since 1970 but a date without separators: write 2024-01-31 12:00:00",
    ),
    "infinity": ("a\n1\n-inf\n", {}, "row 2, column 'a': -inf is not finite"),
    "other units": (
        "ts,a\n1704067200,1\n1704067201000,2\n",
        {},
        "row 2, column 'ts': '1704067201000' is not a time in seconds, as the first row has",
    ),
    "a zone for numbers": ("ts,a\n1704067200,1\n", {"zone": "Europe/Berlin"}, "numbers are UTC"),
    "an unknown zone": ("t,a\n2024-01-01,1\n", {"zone": "Europe/Bielefeld"}, "unknown time zone"),
    "an unknown encoding": ("a\n1\n", {"encoding": "utf-99"}, "unknown encoding 'utf-99'"),
    "a name to map that is not there": (
        "a\n1\n",
        {"names": {"b": "c"}},
        "has no column 'b' to map; it has a",
    ),
    "a name to map that is taken": ("a,b\n1,2\n", {"names": {"b": "a"}}, "would have two columns 'a'"),
    "no JSON": ('{"a": 1}\n{"a": \n', {}, "row 2 is not JSON"),
    "another name in JSON": ('{"a": 1}\n{"b": 1}\n', {}, "row 2 has 'b', which row 1 has not"),
    "a name twice in JSON": ('{"a": 1}\n{"a": 1, "a": 2}\n', {}, "row 2 has 'a' twice"),
    "no object": ('{"a": 1}\n[1]\n', {}, "row 2 is not a JSON object"),
    "a list in JSON": ('{"a": 1}\n{"a": [1]}\n', {}, "row 2, column 'a': '[1]' is not a number"),
    "a number without end in JSON": (f'{{"a": 1{"0" * 400}}}\n', {}, "row 1, column 'a': inf is not finite"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_table_is_refused_by_row_and_column(kind):
    text, options, message = REFUSED[kind]
    data = text.encode()
    for blocks in ([data], data.splitlines(keepends=True)):
        with pytest.raises(BadData) as refused:
            read(blocks, TableOptions(**options))
        assert message in str(refused.value)


ENCODINGS = {
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8; it looks like UTF-16: --encoding utf-16"),
    "UTF-16 without a mark": ("tä,b\n1,2\n".encode("utf-16-le") * 30, "it looks like UTF-16"),
    "Windows-1252": (
        "tä,b\n1,2\n".encode("cp1252"),
        "(byte 1); it looks like Windows-1252: --encoding windows-1252",
    ),
    "a workbook": (b"PK\x03\x04rest", "looks like an Excel workbook or a zip archive: save it as CSV"),
    "damaged gzip": (gzip.compress(b"a\n1\n" * 999)[:-20], "is damaged"),
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_bytes_that_are_not_its_text_are_named(tmp_path, kind):
    data, message = ENCODINGS[kind]
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(BadData) as refused:
        open_series(str(tmp_path / "x.csv"))
    assert message in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-16", "windows-1252", "utf-8"])
@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, lambda data: pa.compress(data, "zstd", asbytes=True)]
)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.txt", "x"])
def test_encodings_and_compressions_do_not_matter(tmp_path, encoding, compress, name):
    (tmp_path / name).write_bytes(compress("tä;b\n1;2\n".encode(encoding)))
    series = open_series(str(tmp_path / name), options=TableOptions(encoding=encoding))
    assert (series.columns, series.values.tolist()) == (("tä", "b"), [[1, 2]])


def test_two_gzip_files_in_a_row_are_read_whole(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n1\n") + gzip.compress(b"2\n"))
    assert open_series(str(tmp_path / "x.gz")).values.tolist() == [[1], [2]]


# Which column is which.


def test_a_model_s_inputs_are_found_by_name():
    options = TableOptions()
    assert read([b"c,t,b,a\n1,2024-01-01,2,3\n"], options, ["a", "b", "c"])[1] == [[3, 2, 1]]
    assert read([b"1,2024-01-01,2\n"], options, ["a", "b"])[1] == [[1, 2]]
    for text, message in {
        b"b,c\n1,2\n": "has the columns b, c; the model reads a, b. Nothing is fed by position. "
        "Say which column is which: --map c=a",
        b"vib,press,temperature\n1,2,3\n": "--map COLUMN=a,COLUMN=b",
        b"1,2,3\n": "has no header and 3 columns; the model reads 2: a, b",
    }.items():
        with pytest.raises(BadData) as refused:
            read([text], options, ["a", "b"])
        assert message in str(refused.value)


def test_a_column_of_times_that_is_not_named_so_is_not_learnt_from(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("n,a\n1704067200000,1\n1704067201000,2\n")
    with pytest.raises(BadData, match="column 'n' looks like times in milliseconds since 1970"):
        open_series(str(path))
    assert open_series(str(path), ["n"]).columns == ("n",)
    series = open_series(str(path), options=TableOptions(time_column="n"))
    assert (series.columns, str(series.times[0])) == (("a",), "2024-01-01T00:00:00.000000")
    path.write_text("timestamp,a\n1704067200000,1\n1704067201000,2\n")
    assert open_series(str(path)).notes == ("column 'timestamp' is read as times in milliseconds since 1970",)


# Clock changes.


def localised(moments: list[datetime], zone: str) -> list[datetime]:
    local = [moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for moment in moments]
    reader = TimeReader("x", "t", TableOptions(zone=zone))
    cells = pa.array([time.isoformat(" ") for time in local])
    times = np.concatenate([reader.read(cells[i : i + 1], i + 1) for i in range(len(cells))])
    reader.finish()
    return [time.replace(tzinfo=UTC) for time in times.tolist()]


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.sampled_from([1, 5, 15, 30, 60, 180, 1440]),
    st.integers(0, 365 * 24),
)
def test_regular_local_times_are_read_or_refused_but_never_wrong(zone, minutes, hours):
    start = datetime(2022, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    moments = [start + timedelta(minutes=minutes * row) for row in range(60)]
    try:
        found = localised(moments, zone)
    except BadCell as error:
        found = moments if "is twice in" in str(error) else []
    assert found == moments


@pytest.mark.parametrize("minutes", [1, 15, 60, 180])
def test_a_year_of_regular_times_has_no_time_that_is_refused_but_at_its_ends(minutes):
    start = datetime(2022, 10, 29, 20, tzinfo=UTC)
    moments = [start + timedelta(minutes=minutes * row) for row in range(12 * 60 // minutes)]
    assert localised(moments, "Europe/Berlin") == moments


def test_a_repeated_hour_that_is_there_once_is_refused():
    start = datetime(2022, 10, 29, 22, tzinfo=UTC)
    moments = [start + timedelta(minutes=15 * row) for row in range(24)]
    for missing in (slice(8, 12), slice(12, 16)):  # 02:00 to 02:45, first or second pass
        kept = [moment for moment in moments if moment not in moments[missing]]
        with pytest.raises(BadCell, match=r"row 9, .* 2022-10-30 02:00:00 is twice in Europe/Berlin"):
            localised(kept, "Europe/Berlin")


# Steps.


def test_irregular_steps_are_told_with_their_number_and_first_place_and_resampled(tmp_path):
    path = tmp_path / "x.csv"
    minutes = [0, 10, 20, 25, 40, 50, 80]
    path.write_text("t,a\n" + "".join(f"2024-01-01T{m // 60:02}:{m % 60:02},{m}\n" for m in minutes))
    (note,) = open_series(str(path)).notes
    assert note.startswith(
        "3 of 6 steps are not the usual 600 s; the first is 300 s, before row 4 at 2024-01-01T00:25"
    )
    assert note.endswith("--resample 10min mends them")
    series = open_series(str(path), step=600.0)
    np.testing.assert_array_equal(series.values[:, 0], [0, 10, 22.5, np.nan, 40, 50, np.nan, np.nan, 80])
    assert np.diff(series.times).tolist() == [timedelta(minutes=10)] * 8
    assert series.notes == (
        "resampled to 10min: 7 rows became 9, each the mean of its rows; 3 without a row are gaps",
    )
    path.write_text("a\n1\n")
    with pytest.raises(BadData, match="has no times to resample by"):
        open_series(str(path), step=600.0)
    path.write_text("t,a\n1970-01-01,1\n2024-01-01,2\n")
    with pytest.raises(BadData, match="more than 10,000,000 steps have no row"):
        open_series(str(path), step=1.0)


@given(st.integers(1, 10**9))
def test_a_step_is_read_as_it_is_written(milliseconds):
    assert parse_step(format_step(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize("text", ["", "10", "min", "-1s", "0s", "1 fortnight"])
def test_what_is_no_step_is_refused(text):
    with pytest.raises(BadData, match="is not a step"):
        parse_step(text)


# What others write.

frames = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(
            st.one_of(
                st.none(),
                st.integers(-(10**6), 10**6).map(float),
                st.floats(-1e6, 1e6).map(lambda x: round(x, 2)),
            ),
            min_size=width,
            max_size=width,
        ),
        min_size=1,
        max_size=12,
    )
)


@settings(deadline=None, max_examples=40)
@given(frames, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from([".", ","]), st.booleans(), st.data())
def test_what_pandas_writes_is_read_back(rows, separator, decimal, timed, data):
    frame = pd.DataFrame(rows, columns=[f"c{i}" for i in range(len(rows[0]))], dtype=float)
    if timed:
        frame.insert(0, "when", pd.date_range("2024-01-01", periods=len(frame), freq="h"))
    if separator == decimal == ",":
        decimal = "."
    quoting = data.draw(st.sampled_from([0, 1]))  # only where needed, or everywhere
    missing = data.draw(st.sampled_from(["", "NA", "null"]))
    text = frame.to_csv(index=False, sep=separator, decimal=decimal, quoting=quoting, na_rep=missing)
    if len(frame.columns) == 1 and "\n\n" in text:
        return  # an empty line, which is no row
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=3)))
    blocks = [text[a:b].encode() for a, b in itertools.pairwise([0, *cuts, len(text)])]
    names, values, times = read(blocks, TableOptions(decimal=decimal))
    assert names == [name for name in frame.columns if name != "when"]
    np.testing.assert_allclose(np.array(values, float), frame[names].to_numpy(float), rtol=1e-12)
    assert times == (None if not timed else frame["when"].dt.strftime("%Y-%m-%dT%H:%M:%S").tolist())


def test_one_column_with_decimal_commas_is_one_column():
    assert read([b"a\n0,5\n1,25\n"], TableOptions(decimal=",")) == (["a"], [[0.5], [1.25]], None)


def test_parquet_and_json_lines_from_pandas_are_the_same_table(tmp_path):
    frame = pd.DataFrame(
        {"when": pd.date_range("2024-01-01", periods=3, freq="h", tz="Europe/Berlin"), "a": [1.5, None, 3]}
    )
    frame["kind"] = pd.Categorical(["1", "2", "3"])
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "x.parquet")
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True, date_format="iso")
    (tmp_path / "x.data").write_bytes((tmp_path / "x.parquet").read_bytes())
    for name in ("x.parquet", "x.jsonl", "x.data"):
        series = open_series(str(tmp_path / name), gaps=True)
        assert series.columns == ("a", "kind")
        np.testing.assert_array_equal(series.values, [[1.5, 1], [np.nan, 2], [3, 3]])
        assert str(series.times[0]) == "2023-12-31T23:00:00.000000"
