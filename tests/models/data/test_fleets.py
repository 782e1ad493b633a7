"""Many series for one network: from files, folders and long tables, and streams drawn from them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from models.data.dataset import Split, is_fleet, open_fleet, open_series, prepare
from models.data.fleets import check_alike, draw_streams, fleet_scaling, spread_growth, stream_sizes
from models.data.scaling import Column, Scaling
from models.data.series import Series
from models.data.tables.options import TableOptions
from models.errors import BadData

LONG = """unique_id,ds,y
b,2024-01-02,20
a,2024-01-01,1
a,2024-01-02,2
b,2024-01-03,30
"""


def written(folder: Path, text: str, name: str = "long.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize("names", ["unique_id,ds,y", "item_id,timestamp,target"])
def test_a_long_table_is_known_by_its_names(tmp_path, names):
    path = written(tmp_path, LONG.replace("unique_id,ds,y", names))
    assert is_fleet([path])
    fleet = open_fleet([path])
    assert list(fleet) == ["b", "a"]
    assert fleet["a"].columns == (names.split(",")[2],)
    np.testing.assert_array_equal(fleet["b"].values, [[20], [30]])
    np.testing.assert_array_equal(fleet["b"].times, np.array(["2024-01-02", "2024-01-03"], "M8[us]"))


def test_the_column_of_the_series_can_be_named(tmp_path):
    path = written(tmp_path, "pump,flow,level\n7,1,2\n8,3,4\n7,5,6\n")
    assert not is_fleet([path])
    fleet = open_fleet([path], label="pump")
    assert {name: series.values.tolist() for name, series in fleet.items()} == {
        "7": [[1, 2], [5, 6]],
        "8": [[3, 4]],
    }
    assert open_fleet([path], ["level"], label="pump")["8"].values.tolist() == [[4]]
    with pytest.raises(BadData, match="no column 'tank'"):
        open_fleet([path], label="tank")


def test_times_that_go_back_within_a_series_are_refused_with_its_name(tmp_path):
    path = written(tmp_path, LONG + "a,2024-01-01,9\n")
    with pytest.raises(BadData, match=r"series 'a', row 3: time .* is before"):
        open_fleet([path])


def test_a_row_of_no_series_is_refused(tmp_path):
    with pytest.raises(BadData, match="row 2, column 'unique_id': the row belongs to no series"):
        open_fleet([written(tmp_path, "unique_id,ds,y\na,2024-01-01,1\n,2024-01-02,2\n")])


def test_local_times_of_many_series_are_refused(tmp_path):
    path = written(tmp_path, LONG)
    with pytest.raises(BadData, match="in place of --timezone"):
        open_fleet([path], options=TableOptions(zone="Europe/Berlin"))


def test_files_and_folders_are_series_with_the_names_of_the_files(tmp_path):
    text = "date,flow\n2024-01-01,1\n2024-01-02,2\n"
    for name in ("pump-2.csv", "pump-1.csv", "notes.md", ".hidden.csv"):
        written(tmp_path, text, name)
    (tmp_path / "pump-3.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert is_fleet([str(tmp_path)])
    assert list(open_fleet([str(tmp_path)])) == ["pump-1", "pump-2", "pump-3"]
    with pytest.raises(BadData, match="have one name"):
        open_fleet([str(tmp_path), str(tmp_path / "pump-1.csv")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="folder without files of data"):
        open_fleet([str(tmp_path / "empty")])


def test_ignored_columns_are_not_read_also_not_as_times(tmp_path):
    path = written(tmp_path, "date,flow,remark\n2024-01-02,1,fine\n2024-01-01,2,leaking\n", "pump.csv")
    with pytest.raises(BadData, match="'remark': 'fine' is not a number"):
        open_series(path, options=TableOptions(no_times=True))
    series = open_series(path, options=TableOptions(ignored=("date", "remark")))
    assert (series.columns, series.times) == (("flow",), None)
    np.testing.assert_array_equal(series.values, [[1], [2]])
    with pytest.raises(BadData, match="no column 'dat'"):
        open_series(path, options=TableOptions(ignored=("dat",)))
    with pytest.raises(BadData, match="both the column of times and ignored"):
        TableOptions(time_column="date", ignored=("date",))


def dataset(values, train: int):
    numbers = np.asarray(values, np.float64)[:, None]
    series = Series("x", ("y",), numbers)
    return prepare(series, [Column("y")], ["y"], Split(train, len(numbers) - train, 0))


def test_streams_are_training_rows_of_one_series_and_go_on_as_gaps():
    short, long = dataset(np.arange(9.0), 6), dataset(np.arange(100.0, 160), 50)
    passes, steps = stream_sizes([short, long], 2)
    assert (passes, steps) == (1, 27)
    seen, truth = draw_streams([short, long], 200, steps)
    assert seen.shape == truth.shape == (200, 27, 1)
    lengths = (~truth[..., 0].isnan()).sum(1).tolist()
    assert set(lengths) == {5, 27}
    for row, length in enumerate(lengths):
        source = short if length == 5 else long
        start = int((source.observations[:, 0] == seen[row, 0, 0]).nonzero()[0, 0])
        assert start + length < source.split.train
        torch.testing.assert_close(seen[row, :length], source.observations[start : start + length])
        torch.testing.assert_close(truth[row, :length], source.truth[start + 1 : start + length + 1])
        assert (seen[row, length:] == seen[row, length - 1]).all()


def test_series_of_other_columns_are_refused():
    other = prepare(Series("z", ("z",), np.arange(9.0)[:, None]), [Column("z")], ["z"], Split(6, 3, 0))
    with pytest.raises(BadData, match="'a' has the columns y, 'b' has z"):
        check_alike({"a": dataset(np.arange(9.0), 6), "b": other})


def test_the_scale_of_an_unknown_series_covers_all_series():
    scalings = [Scaling(np.array([mean]), np.array([1.0])) for mean in (0.0, 10.0, 50.0)]
    scaling = fleet_scaling(scalings)
    assert scaling.mean.tolist() == [10]
    np.testing.assert_allclose(scaling.std, np.sqrt(1 + np.var([0, 10, 50])))


def test_a_few_rows_of_a_slow_series_spread_less_than_all_of_them():
    wave = dataset(np.sin(np.arange(400) * 2 * np.pi / 200), 400)
    noise = dataset(np.random.default_rng(0).normal(size=400), 400)
    assert spread_growth([wave], 8) > 8
    assert 1 <= spread_growth([noise], 32) < 1.1
    assert spread_growth([noise], 500) == 1
