"""Series -> scaled parts and contiguous streams, ready to learn from.

series --split by time--> train | validation | test      scaling from train alone
                            |
                            +--> streams [streams, steps, features], each contiguous, targets one step ahead
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.arrays import Bools, Doubles
from models.data import calendar
from models.data.readers import is_long_table, read_long_table, read_series
from models.data.resampling import resample
from models.data.scaling import Column, Scaling
from models.data.series import Series, fill_gaps
from models.data.tables.files import COMPRESSED
from models.data.tables.options import NO_OPTIONS, TableOptions
from models.errors import BadData

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet", ".npz")  # of the files of a folder
DEFAULT_SPLIT = (0.7, 0.15, 0.15)
ROUNDING = 1e-12  # relative, of numbers that were computed


def sine(points: int = 1000, *, step: float = 100 / 999) -> Series:
    """The built-in series: `sin(linspace(0, 100, 1000))`, or more points of the same sine."""
    return Series("sine", ("value",), np.sin(step * np.arange(points))[:, None])


def open_series(
    source: str,
    columns: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    options: TableOptions = NO_OPTIONS,
    time_features: Sequence[str] = (),
    gaps: bool = False,
    step: float | None = None,
    of_model: bool = False,
) -> Series:
    """Read a file, or make the built-in `sine`.

    Parameters
    ----------
    source
        `sine`, or the path of a file; see `read_series` for `options` and `gaps`.
    columns, targets
        Inputs and targets to read; all columns when `columns` is empty.
    time_features
        Added as columns after the others.
    step
        Seconds from row to row to resample to, see `resample`; it makes gaps.
    of_model
        The columns are a model's: a file without a header has them in order.

    Raises
    ------
    BadData
        The file cannot be used; the message names it.
    """
    if source == "sine":
        series = sine()
        series.pick(tuple(columns or ()) + tuple(targets))
        return series.with_time_features(time_features)
    wanted = [*columns, *(name for name in targets if name not in columns)] if columns else None
    chosen = (None, wanted) if of_model else (wanted, None)
    series = read_series(Path(source), chosen[0], options, gaps or step is not None, chosen[1])
    return _finished(series, time_features, step)


def open_fleet(
    sources: Sequence[str],
    columns: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    options: TableOptions = NO_OPTIONS,
    time_features: Sequence[str] = (),
    gaps: bool = False,
    step: float | None = None,
    of_model: bool = False,
    label: str | None = None,
) -> dict[str, Series]:
    """Read many series: files, folders of files, and long tables (`read_long_table`).

    Parameters
    ----------
    sources
        Paths. A file that is no long table is a series with the name of the file, without its ending.
    label
        Column of a long table that says to which series a row belongs.
    columns, targets, options, time_features, gaps, step, of_model
        As in `open_series`.

    Returns
    -------
    dict[str, Series]
        By name.

    Raises
    ------
    BadData
        A file cannot be used, a folder has none, or two series have one name.
    """
    found: dict[str, Series] = {}
    wanted = [*columns, *(name for name in targets if name not in columns)] if columns else None
    chosen = (None, wanted) if of_model else (wanted, None)
    for path in _files(sources):
        read = None
        if label is not None or _may_be_long(path):
            read = read_long_table(path, label, chosen[0], options, gaps or step is not None, chosen[1])
        if read is None:
            name = path.name[: -len("".join(path.suffixes[-2:]))] if _is_packed(path) else path.stem
            read = {name: read_series(path, chosen[0], options, gaps or step is not None, chosen[1])}
        for name, series in read.items():
            if name in found:
                raise BadData(f"{series.source} and {found[name].source} have one name: rename one of them")
            found[name] = _finished(series, time_features, step)
    return found


def is_fleet(sources: Sequence[str], options: TableOptions = NO_OPTIONS) -> bool:
    """Whether these sources are read by `open_fleet`: several, a folder, or a long table by its names."""
    if len(sources) != 1 or Path(sources[0]).is_dir():
        return True
    path = Path(sources[0])
    return sources[0] != "sine" and _may_be_long(path) and is_long_table(path, options)


def _may_be_long(path: Path) -> bool:
    """Whether the names of its columns can be looked at: a pipe is read only once."""
    return path.is_file() and path.suffix.lower() != ".npz"


def _files(sources: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        if not path.is_dir():
            files.append(path)
            continue
        here = sorted(each for each in path.iterdir() if each.is_file() and _is_table(each))
        if not here:
            raise BadData(f"{path} is a folder without files of data ({', '.join(ENDINGS)})")
        files += here
    return files


def _is_table(path: Path) -> bool:
    name = path.with_suffix("") if _is_packed(path) else path
    return name.suffix.lower() in ENDINGS and not path.name.startswith(".")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def _finished(series: Series, time_features: Sequence[str], step: float | None) -> Series:
    if step is not None:
        series = resample(series, step)
    elif (irregular := series.describe_irregular()) is not None:
        series = replace(series, notes=(*series.notes, irregular))
    return series.with_time_features(time_features)


@dataclass(frozen=True)
class Split:
    """The number of rows of each part, in order from row 0; further rows are not used."""

    train: int
    validation: int
    test: int

    @property
    def validation_rows(self) -> range:
        return range(self.train, self.train + self.validation)

    @property
    def test_rows(self) -> range:
        return range(self.train + self.validation, self.train + self.validation + self.test)


def split_rows(rows: int, parts: Sequence[float] = DEFAULT_SPLIT) -> Split:
    """Cut a series in time: numbers of rows, or fractions of all rows when none is above 1.

    Raises
    ------
    BadData
        If the parts do not fit or the training part has fewer than 3 rows.
    """
    if len(parts) != 3 or not all(np.isfinite(part) and part >= 0 for part in parts):
        raise BadData("a split is three numbers, none below 0: train,validation,test")
    if all(part <= 1 for part in parts):
        if sum(parts) > 1 + 1e-9:
            raise BadData(f"the fractions of the split add up to {sum(parts):g}, more than 1")
        ends = [round(rows * sum(parts[: i + 1])) for i in range(3)]
        split = Split(ends[0], ends[1] - ends[0], ends[2] - ends[1])
    else:
        split = Split(*(int(part) for part in parts))
    if split.test_rows.stop > rows:
        raise BadData(f"the split needs {split.test_rows.stop} rows, there are {rows}")
    if split.train < 3:
        raise BadData(f"the training part has {split.train} rows, too few to learn from")
    return split


def fit_scaling(values: Doubles) -> Scaling:
    """Mean and standard deviation of [rows, features], without gaps; a constant column gets the std 1.

    One whose values differ by rounding only, as 0.3 and 0.1 + 0.2 do, is constant.
    """
    high, low = np.nanmax(values, axis=0), np.nanmin(values, axis=0)
    spread = high - low > ROUNDING * np.maximum(np.abs(high), np.abs(low))
    return Scaling(np.nanmean(values, axis=0), np.where(spread, np.nanstd(values, axis=0), 1.0))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A series made ready for one network.

    Attributes
    ----------
    columns, targets
        Inputs and what is predicted.
    scaling, target_scaling
        Fitted on the training part alone, or the artifact's.
    observations, truth
        float32 [rows, inputs] and [rows, outputs], scaled; the prediction at row t is of `truth[t + 1]`. A
        gap is NaN in the truth, and makes no error; in the observations it is filled by the value before.
    gaps
        [rows, inputs], True where nothing was observed; None if nothing is missing.
    future
        Inputs that are known ahead; none is a target.
    time_features, interval_seconds
        Names of `models.data.calendar.PERIODS`, whose columns are the last inputs, and the seconds from row
        to row.
    """

    columns: tuple[Column, ...]
    targets: tuple[str, ...]
    split: Split
    scaling: Scaling
    target_scaling: Scaling
    observations: Tensor
    truth: Tensor
    future: tuple[str, ...] = ()
    time_features: tuple[str, ...] = ()
    interval_seconds: float | None = None
    gaps: Bools | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def feedback(self) -> tuple[int | None, ...]:
        """For each input the output that predicts it, or None."""
        return tuple(self.targets.index(name) if name in self.targets else None for name in self.names)

    @property
    def missing(self) -> tuple[str, ...]:
        """Inputs that are neither predicted nor known ahead: with any, a free run is impossible."""
        known = (*self.future, *calendar.columns(self.time_features))
        return tuple(name for name in self.names if name not in self.targets and name not in known)


def prepare(
    series: Series,
    columns: Sequence[Column],
    targets: Sequence[str],
    split: Split,
    scaling: tuple[Scaling, Scaling] | None = None,
    future: Sequence[str] = (),
) -> Dataset:
    """Select columns of a series, scale them and make tensors.

    Parameters
    ----------
    scaling
        Of inputs and of targets; without it, fitted on the training part alone.
    future
        Inputs that are known ahead.

    Raises
    ------
    BadData
        A column is missing or was never observed in the training part, or what is known ahead is a target or
        not an input.
    """
    names = [column.name for column in columns]
    for name in future:
        if name not in names or name in targets:
            raise BadData(f"{name!r} is known ahead, so it must be an input and not a target")
    inputs, outputs = series.pick(names), series.pick(targets)
    check_observed(series, [*names, *targets], split)
    if scaling is None:
        scaling = fit_scaling(inputs[: split.train]), fit_scaling(outputs[: split.train])
    return Dataset(
        columns=tuple(columns),
        targets=tuple(targets),
        split=split,
        scaling=scaling[0],
        target_scaling=scaling[1],
        observations=_tensor(scaling[0].scale(fill_gaps(series.source, names, inputs)), series.source, names),
        truth=_tensor(scaling[1].scale(outputs), series.source, targets),
        future=tuple(future),
        time_features=series.time_features,
        interval_seconds=series.interval_seconds() if series.time_features else None,
        gaps=np.isnan(inputs) if np.isnan(inputs).any() else None,
    )


def check_observed(series: Series, names: Sequence[str], split: Split) -> None:
    """Refuse a series without any value of one of these columns in the training part.

    Raises
    ------
    BadData
    """
    missing = np.isnan(series.pick(names)[: split.train])
    for column, name in enumerate(names):
        if missing[:, column].all():
            raise BadData(f"{series.source}: column {name!r} has no value in the training part")


def identity_scaling(count: int) -> Scaling:
    """A scaling of this many columns that changes nothing."""
    return Scaling(np.zeros(count), np.ones(count))


def training_streams(dataset: Dataset, streams: int) -> tuple[Tensor, Tensor]:
    """Cut the training part into parallel contiguous streams.

    Returns
    -------
    observations, truth
        [streams, steps, inputs] and [streams, steps, outputs]; truth is one step ahead. If the rows do not
        divide evenly, the oldest are left out.

    Raises
    ------
    BadData
        If a stream would have fewer than 2 steps.
    """
    pairs = dataset.split.train - 1
    steps = pairs // streams
    if steps < 2:
        raise BadData(f"{dataset.split.train} training rows are too few for {streams} streams")
    first = pairs - steps * streams
    observations, truth = dataset.observations[first:pairs], dataset.truth[first + 1 : pairs + 1]
    return observations.reshape(streams, steps, -1), truth.reshape(streams, steps, -1)


def can_be_judged(dataset: Dataset) -> bool:
    """Whether anything was observed in the validation part."""
    rows = dataset.split.validation_rows
    return bool(rows) and not bool(dataset.truth[rows.start : rows.stop].isnan().all())


def _tensor(values: Doubles, source: str, names: Sequence[str]) -> Tensor:
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if np.isinf(single).any():
        row, column = np.argwhere(np.isinf(single))[0]
        raise BadData(
            f"{source}, row {row + 1}, column {names[column]!r}: too large for float32 after scaling"
        )
    return torch.from_numpy(single)
