"""Observations with names go to the inputs of those names, whatever their order, or are refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from carryover.named import Naming, names_of, read_table, time_list
from carryover.observations import chunk_of, future_chunk

PAIR = Naming("pair", ("a", "b", "c"), targets=("c", "a", "b"))
TIMED = Naming("planned", ("a", "plan"), ("hour_sin", "hour_cos"), ("a",), ("plan",))
ROWS = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
SHUFFLED = {"c": [3.0, 6.0], "a": [1.0, 4.0], "b": [2.0, 5.0]}
STRUCTURED = np.array([(3.0, 1.0, 2.0), (6.0, 4.0, 5.0)], dtype=[("c", "f8"), ("a", "f4"), ("b", "f8")])
SOURCES = {
    "pandas": pd.DataFrame(SHUFFLED),
    "polars": pl.DataFrame(SHUFFLED),
    "arrow": pa.table(SHUFFLED),
    "columns": SHUFFLED,
    "arrays": {name: np.array(column) for name, column in SHUFFLED.items()},
    "structured": STRUCTURED,
    "dicts": [dict(zip(SHUFFLED, row, strict=True)) for row in zip(*SHUFFLED.values(), strict=True)],
}


def rows_of(chunk: Any) -> list[list[float]]:
    return np.asarray(chunk.rows, float).tolist()


@pytest.mark.parametrize("kind", SOURCES)
def test_columns_of_every_table_are_matched_by_name(kind):
    assert rows_of(chunk_of(SOURCES[kind], PAIR)) == ROWS


@pytest.mark.parametrize("kind", SOURCES)
def test_other_names_are_refused_with_both_lists_and_the_option_that_maps_them(kind):
    naming = Naming("pair", ("a", "b", "load"))
    with pytest.raises(ValueError, match=r"takes a, b, load; the observations have c, a, b: .*columns=\{"):
        chunk_of(SOURCES[kind], naming)
    mapped = Naming("pair", ("a", "b", "load"), columns={"c": "load"})
    assert rows_of(chunk_of(SOURCES[kind], mapped)) == ROWS


@pytest.mark.parametrize(
    "observations", [ROWS, np.array(ROWS), pd.DataFrame(ROWS), ROWS[0], 1.0, pd.Series([1.0])]
)
def test_only_observations_without_names_go_by_position(observations):
    assert names_of(observations) is None
    assert len(chunk_of(observations)) > 0
    with pytest.raises(ValueError, match="the observations have none"):
        chunk_of(observations, Naming("pair", ("a",), columns={"b": "a"}))


def test_ambiguous_and_unknown_names_are_refused():
    twice = pd.DataFrame(np.ones((2, 4)), columns=["a", "b", "c", "a"])
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        chunk_of(twice, PAIR)
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        chunk_of(SHUFFLED | {"d": [0, 0]}, Naming("pair", ("a", "b", "c"), columns={"d": "a"}))
    with pytest.raises(ValueError, match="maps e, but the observations have c, a, b"):
        chunk_of(SHUFFLED, Naming("pair", ("a", "b", "c"), columns={"e": "a"}))
    with pytest.raises(ValueError, match="row 1 has no 'b'"):
        chunk_of([{"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}], PAIR)
    with pytest.raises(ValueError, match="differ in length"):
        chunk_of({"a": [1], "b": [1, 2], "c": [1]}, PAIR)


def test_missing_values_stay_missing_in_every_table():
    holes = {"c": [3.0, None], "a": [1.0, 4.0], "b": [2.0, 5.0]}
    for table in (pd.DataFrame(holes), pl.DataFrame(holes), pa.table(holes), holes):
        assert chunk_of(table, PAIR).text() == "[[1.0, 2.0, 3.0], [4.0, 5.0, null]]"


DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
TIMES = {
    "array": np.array(["2026-01-01"], "datetime64[D]"),
    "durations": np.array([1], "timedelta64[s]"),
    "complex": np.array([1 + 2j]),
    "series": pd.Series([DAY]),
    "without a zone": pd.Series(pd.to_datetime(["2026-01-01"])),
    "polars series": pl.Series([DAY.date()]),
    "pandas": pd.DataFrame({"value": [DAY]}),
    "polars": pl.DataFrame({"value": [DAY]}),
    "arrow": pa.table({"value": [DAY]}),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_and_complex_numbers_are_no_observations(kind):
    with pytest.raises(ValueError, match="are no observations"):
        chunk_of(TIMES[kind], Naming("sine", ("value",)))


def test_what_is_masked_is_missing():
    for values in ([[1, 2, 3], [4, 5, 9999]], [[1.0, 2.0, 3.0], [4.0, 5.0, 9999.0]]):
        rows = np.ma.masked_equal(values, 9999)
        columns = dict(zip("abc", rows.T, strict=True))
        for observations in (rows, list(rows), columns):
            assert chunk_of(observations, PAIR).text().count("null]]") == 1


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "structured"])
def test_a_table_without_rows_has_none(kind):
    assert len(chunk_of(SOURCES[kind][:0], PAIR)) == 0


def test_columns_that_the_model_does_not_take_are_left_out():
    assert rows_of(chunk_of(SHUFFLED | {"note": ["x", "y"]}, PAIR)) == ROWS


# Times.

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HOURS = [START + dt.timedelta(hours=hour) for hour in range(3)]
SECONDS = [time.timestamp() for time in HOURS]
NUMBERS = {"plan": [1.0, 2.0, 3.0], "a": [0.0, 0.1, 0.2]}
TEXTS = [time.isoformat() for time in HOURS]


@pytest.mark.parametrize(
    ("table", "times"),
    [
        (pd.DataFrame(NUMBERS, index=pd.DatetimeIndex(HOURS)), SECONDS),
        (pd.DataFrame(NUMBERS, index=pd.DatetimeIndex(HOURS).tz_convert("Europe/Berlin")), SECONDS),
        (pd.DataFrame(NUMBERS, index=pd.DatetimeIndex(HOURS).tz_localize(None)), SECONDS),
        (pd.DataFrame(NUMBERS | {"time": HOURS}), SECONDS),
        (pl.DataFrame(NUMBERS | {"time": HOURS}), SECONDS),
        (pa.table(NUMBERS | {"time": HOURS}), TEXTS),
        (NUMBERS | {"time": TEXTS}, TEXTS),
        (NUMBERS | {"time": SECONDS}, SECONDS),
        (
            NUMBERS | {"time": np.array([time.replace(tzinfo=None) for time in HOURS], "datetime64[s]")},
            SECONDS,
        ),
    ],
)
def test_a_column_or_an_index_of_times_gives_the_timestamps(table, times):
    chunk = chunk_of(table, TIMED)
    assert chunk.timestamps == times
    assert rows_of(chunk) == [[0.0, 1.0], [0.1, 2.0], [0.2, 3.0]]
    assert chunk.part(1, 2).timestamps == times[1:2]
    assert chunk.floats() is None  # a binary message has no timestamps


def test_a_model_of_times_needs_times_or_its_own_columns():
    with pytest.raises(ValueError, match="makes inputs from the time of each observation"):
        chunk_of(NUMBERS, TIMED)
    assert chunk_of(NUMBERS, TIMED, SECONDS).timestamps == SECONDS
    assert chunk_of(NUMBERS | {"hour_sin": [0, 0, 0], "hour_cos": [1, 1, 1]}, TIMED).timestamps is None
    mapped = Naming("planned", ("a", "plan"), ("hour_sin", "hour_cos"), columns={"date": "time"})
    assert chunk_of(NUMBERS | {"date": TEXTS}, mapped).timestamps == TEXTS


def test_other_models_get_no_timestamps_from_an_index():
    frame = pd.DataFrame(SHUFFLED, index=pd.DatetimeIndex(HOURS[:2]))
    assert chunk_of(frame, PAIR).timestamps is None


@pytest.mark.parametrize("times", [[None, 1.0], pd.Series([pd.NaT, HOURS[0]]), [float("nan"), 1.0], [1.0]])
def test_missing_times_are_refused(times):
    with pytest.raises(ValueError, match=r"has no time|1 times for 2"):
        time_list(times, 2)


def test_the_future_goes_by_name_too():
    assert rows_of(future_chunk({"other": [0, 0], "plan": [1, 2]}, TIMED)) == [[1.0], [2.0]]
    with pytest.raises(ValueError, match="takes plan; the observations have other"):
        future_chunk({"other": [0]}, TIMED)
    assert rows_of(future_chunk([[1.0]], TIMED)) == [[1.0]]


def test_an_input_of_several_numbers_is_a_wide_column():
    table = {"mel": [[1, 2], [3, 4]], "token": [7, 8]}
    assert read_table(table, Naming("graph", ("token", "mel"))).rows == [[7, 1, 2], [8, 3, 4]]
