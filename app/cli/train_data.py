"""What `carryover train` trains on: a file, or many series, split into parts and scaled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import options

if TYPE_CHECKING:
    from app.cli.bundles import DataArguments
    from models.arrays import Doubles
    from models.data.dataset import Dataset
    from models.data.series import Series
    from models.errors import BadData
    from models.training.recipe import Recipe


@dataclass(frozen=True)
class InputNames:
    """The columns that a training uses, by their names; empty `columns` and `targets` are all columns.

    time_features : inputs that are computed from the times
    future : inputs that are known in advance
    units : by column
    """

    columns: tuple[str, ...]
    targets: tuple[str, ...]
    time_features: tuple[str, ...]
    future: tuple[str, ...]
    units: dict[str, str]


def read_dataset(
    source: str, names: InputNames, reading: DataArguments, split: str | None, scaled: bool
) -> Dataset:
    """The data of one series.

    Raises
    ------
    BadData : it cannot be read, or not be trained on
    """
    from models.data.dataset import open_series

    table, gaps, step = reading.table_options(), reading.gaps, reading.step
    with advice_on(source):
        series = open_series(source, names.columns, names.targets, table, names.time_features, gaps, step)
    options.print_notes(series.notes)
    return _dataset(series, names, split, scaled)


@contextmanager
def advice_on(source: str) -> Iterator[None]:
    """Add to an error of the data what may be done about it."""
    from models.errors import BadData

    try:
        yield
    except BadData as error:
        raise BadData(f"{error}{_advice(error, source)}") from error


def _advice(error: BadData, source: str) -> str:
    """What may be done about data that cannot be trained on; empty if the error says it."""
    from models.data.tables.options import BadCell, TextCell

    is_table = isinstance(error, BadCell) and error.column is not None and not isinstance(error, TextCell)
    if source.endswith(".txt") and Path(source).is_file() and not is_table:
        return f". To train a model that writes, on a text: --text {source}"
    if isinstance(error, TextCell):
        return (
            f". If the column says to which series a row belongs: --series-column {error.column}; "
            f"to leave it out: --ignore {error.column}"
        )
    return ""


def read_fleet(
    sources: list[str], names: InputNames, reading: DataArguments, split: str | None, recipe: Recipe
) -> dict[str, Dataset]:
    """The data of many series, by name.

    Raises
    ------
    BadData : one cannot be read, or not be trained on
    """
    from models.data.dataset import open_fleet
    from models.errors import BadData
    from models.training.fleet import check_fleet

    fleet = open_fleet(
        sources,
        names.columns,
        names.targets,
        reading.table_options(),
        names.time_features,
        reading.gaps,
        reading.step,
        label=reading.series_column,
    )
    options.print_fleet_notes(fleet)
    datasets: dict[str, Dataset] = {}
    for name, series in fleet.items():
        try:
            datasets[name] = _dataset(series, names, split, recipe.scaled)
        except BadData as error:
            raise BadData(f"series {name!r}: {error}") from error
    check_fleet(datasets, recipe)
    return datasets


def _dataset(series: Series, names: InputNames, split: str | None, scaled: bool) -> Dataset:
    from models.data import calendar
    from models.data.dataset import DEFAULT_SPLIT, identity_scaling, prepare, split_rows
    from models.data.scaling import Column
    from models.errors import BadData

    computed = calendar.columns(names.time_features)
    inputs = [*names.columns, *computed] if names.columns else list(series.columns)
    targets = names.targets or tuple(name for name in inputs if name not in (*computed, *names.future))
    for name in names.future:
        if name not in inputs:
            raise BadData(f"{name!r} of --future is not an input; the inputs are {', '.join(inputs)}")
    if not targets:
        raise BadData("all inputs are known ahead (--future), so no column is left to predict")
    for name in names.units:
        if name not in inputs:
            raise BadData(f"{name!r} has a unit but is not an input; the inputs are {', '.join(inputs)}")
    parts = options.parse_numbers(split, "--split") or DEFAULT_SPLIT
    own_units = None if scaled else (identity_scaling(len(inputs)), identity_scaling(len(targets)))
    columns = [Column(name, names.units.get(name)) for name in inputs]
    return prepare(series, columns, targets, split_rows(len(series), parts), own_units, names.future)


def common_season(datasets: Sequence[Dataset]) -> int:
    """Rows of a season of most of the training parts; 1 where none is found."""
    from models.artifact.learning import MAX_SEASON
    from models.evaluation.baselines import find_season
    from models.training.training import MOST_JUDGED

    some = datasets[:: -(-len(datasets) // MOST_JUDGED)]
    filled = [_known(dataset) for dataset in some]
    found = [find_season(past) or 1 for past in filled]
    season = max(found, key=found.count)
    return season if season <= MAX_SEASON else 1


def _known(dataset: Dataset) -> Doubles:
    """[rows, targets], the training part without gaps."""
    from models.data.series import fill_gaps

    past = dataset.truth[: dataset.split.train].double().numpy()
    return fill_gaps("the training part", dataset.targets, past)
