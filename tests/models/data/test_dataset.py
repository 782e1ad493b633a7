"""Data: files become finite numbers or a clear refusal, and the training part alone decides the scaling."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.artifact.files import Column
from models.data.dataset import Split, fit_scaling, open_series, prepare, sine, split_rows, training_streams
from models.data.series import Series
from models.data.tables.options import TableOptions
from models.errors import BadData
from models.training.simulation import unscaled_observations

CSV = """date,flow,pressure
2024-01-01 00:00:00,1.5,10
2024-01-01 01:00:00,2.5,20
2024-01-01 02:00:00,-3e2,30
"""


def written(folder: Path, text: str, name: str = "pump.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_the_built_in_sine_is_that_of_the_textbook():
    np.testing.assert_array_equal(sine().values[:, 0], np.sin(np.linspace(0, 100, 1000)))


def test_a_csv_is_read_without_its_time_column(tmp_path):
    series = open_series(written(tmp_path, CSV))
    assert series.columns == ("flow", "pressure")
    np.testing.assert_array_equal(series.values, [[1.5, 10], [2.5, 20], [-300, 30]])
    assert series.times is not None
    assert series.times[1] == np.datetime64("2024-01-01T01:00:00")


def test_columns_are_read_in_the_given_order_followed_by_the_targets(tmp_path):
    series = open_series(written(tmp_path, CSV), ["pressure"], ["flow"])
    assert series.columns == ("pressure", "flow")


@pytest.mark.parametrize(
    "text",
    ["a;b\n1;2\n3;4\n", "a\tb\n1\t2\n3\t4\n", "\ufeffa,b\n1,2\n\n3,4\n\n", '"a","b"\r\n"1","2"\r\n3,4\r\n'],
)
def test_separators_quotes_marks_and_blank_lines_do_not_matter(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text.encode())
    series = open_series(str(tmp_path / "x.csv"))
    assert series.columns == ("a", "b")
    np.testing.assert_array_equal(series.values, [[1, 2], [3, 4]])


def test_a_csv_without_a_header_keeps_its_first_row(tmp_path):
    assert open_series(written(tmp_path, "1\n2\n")).columns == ("value",)
    series = open_series(written(tmp_path, "1,2\n3,4\n"))
    assert (series.columns, len(series)) == (("x0", "x1"), 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,oops\n", "row 2, column 'b': 'oops' is not a number"),
        ("a,b\n1,2\n,4\n", "row 2, column 'a': an empty cell is not a number"),
        ("a,b\n1,2\n3,nan\n", "row 2, column 'b': 'nan' is not a number; with --gaps"),
        ("a,b\n1,-inf\n3,4\n", "row 1, column 'b': -inf is not finite"),
        ("a,b\n1,1e400\n", "row 1, column 'b': inf is not finite"),
        ("a,b\n1,2\n3\n", "row 2: 1 cells, expected 2"),
        ("a,a\n1,2\n", "names a column twice"),
        ("a,b\n", "no rows"),
        ("", "is empty"),
        ('a,b\n"1,2\n', "is not CSV"),
        ("t,a\n2024-01-02,1\n2024-01-01,2\n", "row 2: time 2024-01-01"),
        ("t,a\n2024-01-02,1\nlater,2\n", "row 2, column 't': 'later' is not a time"),
        ("t\n2024-01-02\n", "no columns of numbers"),
    ],
)
def test_a_bad_cell_is_named_with_file_row_and_column(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(BadData) as refused:
        open_series(path)
    assert path in str(refused.value)
    assert message in str(refused.value)


def test_unknown_columns_files_and_formats_are_named(tmp_path):
    path = written(tmp_path, CSV)
    for call, message in [
        (lambda: open_series(path, ["flux"]), "no column 'flux'; it has date, flow, pressure"),
        (lambda: open_series(path, ["date"]), "--time-column date"),
        (lambda: open_series(path, options=TableOptions(time_column="when")), "no column 'when'"),
        (lambda: open_series(str(tmp_path / "none.csv")), "does not exist"),
        (lambda: open_series(str(tmp_path)), "is a folder"),
        (lambda: open_series("sine", ["flow"]), "sine has no column 'flow'"),
        (lambda: open_series("sine", time_features=["hour_of_day"]), "no time column"),
        (lambda: open_series(path, time_features=["hour"]), "unknown time feature 'hour'"),
    ]:
        with pytest.raises(BadData) as refused:
            call()
        assert message in str(refused.value)


def test_text_in_an_unused_column_does_not_matter(tmp_path):
    assert open_series(written(tmp_path, "a,note\n1,fine\n2,worse\n"), ["a"]).columns == ("a",)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(BadData, match="UTF-8"):
        open_series(str(tmp_path / "x.csv"))


def test_npz_is_read_column_by_column_or_as_a_matrix_with_names(tmp_path):
    path = str(tmp_path / "x.npz")
    times = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[s]")
    np.savez(path, a=np.array([1, 2]), b=np.array([3.0, 4.0], dtype=np.float32), when=times)
    series = open_series(path)
    assert series.columns == ("a", "b")
    assert series.times is not None
    np.savez(path, values=np.array([[1.0, 3.0], [2.0, 4.0]]), columns=np.array(["a", "b"]))
    assert open_series(path).columns == ("a", "b")
    np.testing.assert_array_equal(open_series(path).values, series.values)
    np.savez(path, values=np.array([[1.0, 3.0], [2.0, 4.0]]))
    assert open_series(path).columns == ("values0", "values1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 2, 2))}, "3 dimensions"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "different lengths"),
        ({"a": np.zeros((2, 2)), "columns": np.array(["x"])}, "1 names"),
        ({"a": np.zeros((2, 1)), "b": np.ones((2, 1)), "columns": np.array(["x"])}, "two columns 'x'"),
        ({"a": np.zeros((2, 1)), "a0": np.ones(2)}, "two columns 'a0'"),
        ({"a": np.array([1, None], dtype=object)}, "not NPZ"),
        ({"a": np.array(["1", "x"])}, "row 2, column 'a': 'x'"),
    ],
)
def test_npz_that_is_not_a_table_of_numbers_is_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(BadData, match=message):
        open_series(str(tmp_path / "x.npz"))


def test_npz_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path / "ran").mkdir, ()

    np.savez(tmp_path / "x.npz", a=np.array([Bomb()], dtype=object))
    with pytest.raises(BadData):
        open_series(str(tmp_path / "x.npz"))
    assert not (tmp_path / "ran").exists()


def test_parquet_is_read_without_its_time_column(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = str(tmp_path / "x.parquet")
    times = [datetime(2024, 1, 1, hour) for hour in range(3)]  # noqa: DTZ001 -- as most files have them
    parquet.write_table(arrow.table({"when": times, "a": [1, 2, 3], "b": [1.5, 2.5, 3.5]}), path)
    series = open_series(path)
    assert (series.columns, series.values.shape) == (("a", "b"), (3, 2))
    assert series.times is not None
    assert series.times[2] == np.datetime64("2024-01-01T02:00:00")
    parquet.write_table(arrow.table({"a": [1, None, 3]}), path)
    with pytest.raises(BadData, match="row 2, column 'a'"):
        open_series(path)
    parquet.write_table(arrow.table({"a": ["1", "two"]}), path)
    with pytest.raises(BadData, match="row 2, column 'a': 'two'"):
        open_series(path)


@pytest.mark.parametrize("name", ["x.parquet", "x.npz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name):
    with pytest.raises(BadData, match="damaged or not"):
        open_series(written(tmp_path, CSV, name))


def hourly(rows: int, start: str = "2024-01-01") -> Series:
    times = np.datetime64(start, "us") + np.arange(rows) * np.timedelta64(1, "h")
    return Series("x.csv", ("a",), np.zeros((rows, 1)), times)


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)))  # noqa: DTZ001
def test_time_features_agree_with_the_calendar(moment):
    series = hourly(2, moment.isoformat()).with_time_features(["hour_of_day", "day_of_week"])
    day = (moment - moment.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds() / 86_400
    phases = np.array([day, day, (moment.weekday() + day) / 7, (moment.weekday() + day) / 7])
    expected = np.where([True, False, True, False], np.sin(2 * np.pi * phases), np.cos(2 * np.pi * phases))
    np.testing.assert_allclose(series.values[0, 1:], expected, atol=1e-4)


def test_the_end_of_a_year_is_next_to_its_beginning():
    series = hourly(366 * 24, "2024-01-01").with_time_features(["day_of_year"])
    assert np.abs(series.values[0, 1:] - series.values[-1, 1:]).max() < 0.02
    assert np.abs(np.diff(series.values[:, 1:], axis=0)).max() < 0.01


def test_times_with_an_offset_are_converted_to_utc(tmp_path):
    series = open_series(written(tmp_path, "t,a\n2024-01-01T02:00:00+02:00,1\n2024-01-01T01:00:00Z,2\n"))
    assert series.times is not None
    assert series.times[0] == np.datetime64("2024-01-01T00:00:00")


def test_numbers_may_be_times_when_named_so(tmp_path):
    series = open_series(written(tmp_path, "t,a\n0,1\n3600.5,2\n"), options=TableOptions(time_column="t"))
    assert series.times is not None
    assert series.times[1] == np.datetime64("1970-01-01T01:00:00.5")


def test_time_features_come_after_the_columns(tmp_path):
    series = open_series(written(tmp_path, CSV), ["flow"], time_features=["hour_of_day"])
    assert series.columns == ("flow", "hour_of_day_sin", "hour_of_day_cos")
    assert series.time_features == ("hour_of_day",)


def test_time_features_need_one_step_from_row_to_row():
    series = hourly(9)
    assert series.interval_seconds() == 3600
    times = series.times.copy()  # type: ignore[union-attr]
    times[5:] += np.timedelta64(1, "h")
    with pytest.raises(
        BadData, match=r"row 6: 2024-01-01T06:00:00.000000 is 7200 s after the row before it, .* 3600 s"
    ):
        Series("x.csv", ("a",), series.values, times).with_time_features(["hour_of_day"])
    with pytest.raises(BadData, match="no step"):
        Series("x.csv", ("a",), series.values, times[:1].repeat(9)).with_time_features(["hour_of_day"])


def test_a_dataset_says_which_inputs_are_known_ahead():
    series = hourly(9).with_time_features(["hour_of_day"])
    columns = [Column(name) for name in series.columns]
    dataset = prepare(series, columns, ["a"], Split(5, 2, 2))
    assert (dataset.time_features, dataset.interval_seconds, dataset.missing) == (("hour_of_day",), 3600, ())
    plan = Series("x", ("a", "plan", "seen"), np.zeros((9, 3)))
    columns = [Column(name) for name in plan.columns]
    assert prepare(plan, columns, ["a"], Split(5, 2, 2), future=["plan"]).missing == ("seen",)
    for name in ("a", "elsewhere"):
        with pytest.raises(BadData, match=name):
            prepare(plan, columns, ["a"], Split(5, 2, 2), future=[name])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0.7, 0.15, 0.15), Split(70, 15, 15)),
        ((1, 0, 0), Split(100, 0, 0)),
        ((50, 20, 10), Split(50, 20, 10)),
        ((0.5, 0.2, 0), Split(50, 20, 0)),
    ],
)
def test_a_split_is_contiguous_in_time(parts, expected):
    split = split_rows(100, parts)
    assert split == expected
    assert split.validation_rows.start == split.train
    assert split.test_rows.start == split.validation_rows.stop


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((0.7, 0.3), "three numbers"),
        ((0.7, 0.2, -0.1), "three numbers"),
        ((float("nan"), 0.2, 0.1), "three numbers"),
        ((0.7, 0.3, 0.3), "more than 1"),
        ((90, 20, 10), "needs 120 rows, there are 100"),
        ((0.02, 0.5, 0.2), "too few"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(parts, message):
    with pytest.raises(BadData, match=message):
        split_rows(100, parts)


def test_nothing_after_the_training_part_leaks_into_the_scaling():
    values = np.random.default_rng(0).normal(5, 3, size=(100, 2))
    other = values.copy()
    other[60:] = 1e6
    one, two = (prepared(Series("x", ("a", "b"), data), Split(60, 20, 20)) for data in (values, other))
    np.testing.assert_array_equal(one.scaling.mean, two.scaling.mean)
    np.testing.assert_array_equal(one.scaling.std, two.scaling.std)
    np.testing.assert_allclose(one.observations[:60].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(one.observations[:60].std(0, correction=0), 1, atol=1e-6)


def test_a_target_that_is_an_input_shares_its_scaling_and_another_has_its_own():
    series = Series("x", ("a", "b"), np.random.default_rng(0).normal([1, 9], [2, 3], size=(50, 2)))
    dataset = prepare(series, [Column("a")], ["b", "a"], Split(40, 5, 5))
    assert dataset.target_scaling.mean[1] == dataset.scaling.mean[0]
    assert dataset.target_scaling.mean[0] == pytest.approx(series.values[:40, 1].mean())
    assert dataset.feedback == (1,)
    assert dataset.missing == ()


def test_a_column_that_differs_by_rounding_only_is_constant():
    scaling = fit_scaling(np.array([[0.3, 1e-30], [0.1 + 0.2, 2e-30], [0.3, 3e-30]]))
    assert scaling.std.tolist() == [1.0, pytest.approx(8.165e-31, rel=1e-3)]


def test_a_constant_column_is_kept_and_not_divided_by_zero():
    scaling = fit_scaling(np.full((10, 1), 7.0))
    assert (scaling.mean[0], scaling.std[0]) == (7, 1)


def test_a_value_too_large_for_float32_is_named_with_its_row():
    values = np.concatenate([np.random.default_rng(0).normal(size=(50, 1)), [[1e60]]])
    with pytest.raises(BadData, match="row 51, column 'a'"):
        prepared(Series("x", ("a",), values), Split(40, 5, 5))


@given(rows=st.integers(3, 200), streams=st.integers(1, 20))
def test_streams_are_contiguous_and_their_truth_is_one_step_ahead(rows, streams):
    dataset = prepared(Series("x", ("a",), np.arange(300.0)[:, None]), Split(rows, 0, 0), scaled=False)
    if (rows - 1) // streams < 2:
        with pytest.raises(BadData, match="too few for"):
            training_streams(dataset, streams)
        return
    observations, truth = training_streams(dataset, streams)
    assert observations.shape == truth.shape == (streams, (rows - 1) // streams, 1)
    assert torch.equal(truth, observations + 1)
    assert torch.equal(observations.flatten().diff(), torch.ones(observations.numel() - 1))
    assert truth.max() == rows - 1  # the newest row of the part is used, and none after it


def prepared(series: Series, split: Split, *, scaled: bool = True):
    from models.data.dataset import identity_scaling

    columns = [Column(name) for name in series.columns]
    own = identity_scaling(len(columns)), identity_scaling(len(columns))
    return prepare(series, columns, series.columns, split, None if scaled else own)


GAPPY = "date,flow,pressure\n2024-01-01,,10\n2024-01-02,1,NaN\n2024-01-03,null,\n2024-01-04,3,30\n"


def test_empty_cells_are_gaps_where_gaps_are_allowed(tmp_path):
    path = written(tmp_path, GAPPY)
    with pytest.raises(BadData, match=r"row 1, column 'flow': an empty cell is not a number; with --gaps"):
        open_series(path)
    series = open_series(path, gaps=True)
    np.testing.assert_array_equal(series.values, [[np.nan, 10], [1, np.nan], [np.nan, np.nan], [3, 30]])
    np.testing.assert_array_equal(series.fill_gaps().values, [[1, 10], [1, 10], [1, 10], [3, 30]])
    with pytest.raises(BadData, match="inf is not finite"):
        open_series(written(tmp_path, "a\n1\ninf\n"), gaps=True)
    with pytest.raises(BadData, match="'soon' is not a number"):
        open_series(written(tmp_path, "a,b\n1,2\nsoon,3\n"), gaps=True)


def test_a_dataset_fills_gaps_in_observations_and_not_in_truth(tmp_path):
    series = open_series(written(tmp_path, GAPPY), gaps=True)
    columns = [Column(name) for name in series.columns]
    dataset = prepare(series, columns, ["pressure"], Split(4, 0, 0))
    np.testing.assert_allclose(dataset.scaling.mean, [2, 20])
    np.testing.assert_allclose(dataset.scaling.std, [1, 10])
    np.testing.assert_allclose(dataset.observations, [[-1, -1], [-1, -1], [-1, -1], [1, 1]])
    np.testing.assert_allclose(dataset.truth[:, 0], [-1, np.nan, np.nan, 1])
    np.testing.assert_array_equal(dataset.gaps, np.isnan(series.values))
    # What is sent to a session: null where its own prediction can stand in.
    np.testing.assert_allclose(unscaled_observations(dataset), [[1, 10], [1, np.nan], [1, np.nan], [3, 30]])


def test_a_column_without_any_value_is_refused(tmp_path):
    series = open_series(written(tmp_path, "a,b\n1,\n2,\n3,\n4,4\n"), gaps=True)
    with pytest.raises(BadData, match="column 'b' has no value in the training part"):
        prepare(series, [Column("a"), Column("b")], ["a"], Split(3, 1, 0))
    nothing = Series("x.csv", ("a",), np.full((3, 1), np.nan), gaps=True)
    with pytest.raises(BadData, match="column 'a' has no value"):
        nothing.fill_gaps()


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_an_index_that_pandas_wrote_becomes_no_input(tmp_path, name):
    path = written(tmp_path, f"{name},a\n0,5\n1,6\n")
    with pytest.raises(BadData, match="as pandas writes its index: name the columns to read with --columns"):
        open_series(path)
    assert open_series(path, ["a"]).values.tolist() == [[5], [6]]


def local_times(rows: int, minutes: int = 15) -> tuple[str, np.ndarray]:
    """A CSV of local times in Berlin across the clock change of 2022-10-30, and the times in UTC."""
    start = datetime(2022, 10, 29, 23, tzinfo=UTC)
    moments = [start + timedelta(minutes=minutes * row) for row in range(rows)]
    local = [moment.astimezone(ZoneInfo("Europe/Berlin")).replace(tzinfo=None) for moment in moments]
    text = "".join(f"{time.isoformat()},{row}\n" for row, time in enumerate(local))
    return "t,a\n" + text, np.array([moment.replace(tzinfo=None) for moment in moments], "datetime64[us]")


@pytest.mark.parametrize("minutes", [15, 60])
def test_local_times_across_a_clock_change_are_read_in_their_zone(tmp_path, minutes):
    text, moments = local_times(16, minutes)
    if minutes < 60:  # an hourly file has the same time twice, which is allowed
        with pytest.raises(BadData, match="local times across a clock change, name their --timezone"):
            open_series(written(tmp_path, text))
    series = open_series(written(tmp_path, text), options=TableOptions(zone="Europe/Berlin"))
    np.testing.assert_array_equal(series.times, moments)
    assert series.values[:, 0].tolist() == list(range(16))


def test_times_may_be_left_out(tmp_path):
    series = open_series(written(tmp_path, local_times(16)[0]), options=TableOptions(no_times=True))
    assert (series.times, series.columns, len(series)) == (None, ("a",), 16)


def test_a_time_zone_that_does_not_fit_is_refused(tmp_path):
    text = local_times(4)[0]
    for zone in ("Europe/Bielefeld", "../../etc/passwd", ""):
        with pytest.raises(BadData, match="unknown time zone"):
            open_series(written(tmp_path, text), options=TableOptions(zone=zone))
    with pytest.raises(BadData, match="a time zone is for times written as text"):
        open_series(
            written(tmp_path, "t,a\n0,1\n1,2\n"), options=TableOptions(time_column="t", zone="Europe/Berlin")
        )
    aware = "t,a\n2022-10-30T02:00:00+02:00,1\n2022-10-30T02:00:00+01:00,2\n"
    series = open_series(written(tmp_path, aware), options=TableOptions(zone="Asia/Tokyo"))
    assert np.diff(series.times)[0] == np.timedelta64(1, "h")
