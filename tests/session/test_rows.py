"""A session at rest is the session: packed and unpacked, nothing is lost and nothing damaged is believed."""

import numpy as np
import pytest

from app.errors import CarryoverError
from app.session.rows import Rows, header_type, pack, unpack
from models.forecaster import Forecaster


@pytest.fixture(scope="module")
def forecaster(artifacts) -> Forecaster:
    return Forecaster(artifacts["pair"])


def sample_rows(forecaster, chunks: int = 4, count: int = 3) -> Rows:
    rng = np.random.default_rng(0)
    rows = Rows(
        np.zeros(count, header_type(chunks, forecaster.output_size)),
        rng.normal(size=(count, forecaster.carry_size)).astype(np.float32),
    )
    rows.headers["position"] = rng.integers(0, 2**62, count)
    rows.headers["epoch"] = 2**64 - 1
    rows.headers["deadline"] = np.inf
    rows.headers["chunk_lengths"] = rng.integers(1, 9, (count, chunks))
    rows.headers["digest"] = rng.integers(0, 2**63, (count, chunks))
    rows.headers["answer"] = rng.normal(size=rows.headers["answer"].shape)
    rows.headers["long_answer_count"][1] = 2
    answer = {"predictions": np.ones((5, 3), np.float32), "forecast": np.zeros((2, 3), np.float32)}
    rows.long_answers[1] = (None, answer)
    return rows


def test_packed_rows_are_unpacked_unchanged(forecaster):
    rows = sample_rows(forecaster)
    again = unpack(pack(rows), 4, forecaster)
    np.testing.assert_array_equal(again.headers, rows.headers)
    np.testing.assert_array_equal(again.carries, rows.carries)
    assert list(again.long_answers) == [1]
    assert again.long_answers[1][0] is None
    for name, array in rows.long_answers[1][1].items():
        np.testing.assert_array_equal(again.long_answers[1][1][name], array)


def test_a_record_does_not_depend_on_the_sessions_packed_with_it(forecaster):
    """Those without long answers are copies of one form, the others are written one by one."""
    rows = sample_rows(forecaster)
    alone = [pack(rows.select(np.array([i])))[0] for i in range(3)]
    assert pack(rows) == alone
    emptied = Rows(rows.headers, rows.carries, dict.fromkeys(range(3), ()))  # all one by one
    assert pack(emptied) == pack(Rows(rows.headers, rows.carries))


@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_another_number_of_remembered_answers_keeps_the_newest_that_fit(forecaster, chunks):
    rows = sample_rows(forecaster)
    again = unpack(pack(rows), chunks, forecaster)
    fits = min(4, chunks)
    np.testing.assert_array_equal(
        again.headers["chunk_lengths"][:, :fits], rows.headers["chunk_lengths"][:, :fits]
    )
    assert not again.headers["chunk_lengths"][:, fits:].any()
    np.testing.assert_array_equal(again.headers["position"], rows.headers["position"])


def test_the_record_of_another_model_or_a_damaged_one_is_refused(forecaster, artifacts):
    record = pack(sample_rows(forecaster))[1]
    with pytest.raises(CarryoverError):
        unpack([record], 4, Forecaster(artifacts["sine"]))
    for damaged in (b"", record[:-1], record[: len(record) // 2], b"\xc1" + record[1:]):
        with pytest.raises(CarryoverError):
            unpack([damaged], 4, forecaster)


def test_a_choice_of_rows_keeps_their_long_answers(forecaster):
    rows = sample_rows(forecaster)
    chosen = rows.select(np.array([2, 1]))
    assert chosen.headers["position"].tolist() == rows.headers["position"][[2, 1]].tolist()
    assert list(chosen.long_answers) == [1]
    assert rows.select(np.array([0])).long_answers == {}
