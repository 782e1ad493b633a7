"""The packaged series are CSV files of a time and numbers, and a package that is missing is named."""

import csv
from dataclasses import replace

import pytest

from benchmarks.packaged import SERIES, NotInstalledError, _months, _weekly


def test_a_series_of_a_package_is_written_with_its_time_first(tmp_path):
    path = tmp_path / "series.csv"
    SERIES["seattle-weather"].write(path)
    rows = list(csv.reader(path.read_text().splitlines()))
    assert rows[:2] == [
        ["date", "precipitation", "temp_max", "temp_min", "wind"],
        ["2012/01/01", "0.0", "12.8", "5.0", "4.7"],
    ]
    assert len(rows) == 1462


def test_a_package_that_is_not_installed_is_named(tmp_path):
    missing = replace(SERIES["co2"], package="not_a_package")
    with pytest.raises(NotInstalledError, match="not_a_package is not installed"):
        missing.write(tmp_path / "series.csv")


def test_empty_cells_are_filled_by_a_line_and_years_become_months():
    weeks = [["date", "co2"], ["19580329", "316"], ["19580405", ""], ["19580412", "318"]]
    assert list(_weekly(weeks))[1:] == [
        ("1958-03-29", "316.00"),
        ("1958-04-05", "317.00"),
        ("1958-04-12", "318.00"),
    ]
    months = list(_months([["YEAR", "JAN", "FEB"], ["1950", "23.1", "24.2"]]))
    assert months == [("time", "temperature"), ("1950-01-01", "23.1"), ("1950-02-01", "24.2")]
