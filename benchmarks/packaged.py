"""Series that ship with packages of PyPI, as the CSV files that a person would train on.

    pip install --no-deps vega-datasets river==0.26.1 statsmodels==0.15.0

Only the files of the packages are read: nothing of them is imported.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np

Row = Sequence[str]
Rows = Sequence[Row]


class NotInstalledError(Exception):
    """A package with a series is not installed."""


@dataclass(frozen=True)
class Packaged:
    """A series that a package ships.

    Attributes
    ----------
    package, path : where it is: the file in the folder of the package
    what : for a person
    read : rows of the file, its header first -> rows of a time and numbers, their header first
    """

    package: str
    path: str
    what: str
    read: Callable[[Rows], Iterable[Row]]

    def write(self, path: Path) -> None:
        """Write the series as a CSV file.

        Raises
        ------
        NotInstalledError
        """
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise NotInstalledError(f"{self.package} is not installed: {self.path} is read from it")
        source = Path(spec.submodule_search_locations[0]) / self.path
        rows = list(csv.reader(source.read_text(encoding="utf-8").splitlines()))
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.read(rows))


def columns(*names: str) -> Callable[[Rows], Iterable[Row]]:
    """Some columns, the time first, as they are."""

    def read(rows: Rows) -> Iterable[Row]:
        places = [list(rows[0]).index(name) for name in names]
        return ([row[place] for place in places] for row in rows)

    return read


def _weekly(rows: Rows) -> Iterable[Row]:
    """Dates as 19580329, and empty cells between known ones: a line from one to the next."""
    values = np.array([float(row[1] or "nan") for row in rows[1:]])
    known = np.flatnonzero(~np.isnan(values))
    filled = np.interp(np.arange(len(values)), known, values[known])
    yield ("time", "co2")
    for row, value in zip(rows[1:], filled.tolist(), strict=True):
        yield datetime.strptime(row[0], "%Y%m%d").date().isoformat(), f"{value:.2f}"  # noqa: DTZ007


def _months(rows: Rows) -> Iterable[Row]:
    """A row a year: the year, and twelve numbers."""
    yield ("time", "temperature")
    for year, *numbers in rows[1:]:
        for month, number in enumerate(numbers, start=1):
            yield f"{year}-{month:02}-01", number


SERIES = {
    "seattle-temps": Packaged(
        "vega_datasets",
        "_data/seattle-temps.csv",
        "air temperature in Seattle, hourly, one year",
        columns("date", "temp"),
    ),
    "water-flow": Packaged(
        "river",
        "datasets/water-flow.csv",
        "flow through a water main, hourly, two months",
        columns("Time", "Water flow [l/s]"),
    ),
    "seattle-weather": Packaged(
        "vega_datasets",
        "_data/seattle-weather.csv",
        "rain, highest and lowest temperature and wind in Seattle, daily, four years",
        columns("date", "precipitation", "temp_max", "temp_min", "wind"),
    ),
    "co2": Packaged(
        "statsmodels",
        "datasets/co2/co2.csv",
        "carbon dioxide at Mauna Loa, weekly, 44 years; 59 gaps filled by a line",
        _weekly,
    ),
    "elnino": Packaged(
        "statsmodels",
        "datasets/elnino/elnino.csv",
        "sea temperature in the Pacific, monthly, 61 years",
        _months,
    ),
}
