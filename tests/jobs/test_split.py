"""The parts of a bulk request, one for each chunk: their options, and the answer that is put together."""

import numpy as np
import pytest

from app.errors import Unprocessable
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Client
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.split import AnswerCollector, split_job

LENGTHS = [2, 1, 3]
GAPS = [False, True, True]


def bulk(options: ChunkOptions | None = None, names: str = "abc") -> tuple[AdvanceMany, list[BulkAnswer]]:
    """A request of three chunks, and the answers that it gets."""
    rows = np.array([[0.0], [1.0], [np.nan], [3.0], [np.nan], [5.0]], np.float32)
    answers: list[BulkAnswer] = []
    lengths = np.array(LENGTHS)
    job = AdvanceMany(
        SessionList(names), rows, lengths, reply=answers.append, options=options, client=Client()
    )
    return job, answers


@pytest.mark.parametrize("level", [None, 0.9])
def test_only_the_chunks_with_missing_numbers_have_gaps(level):
    job, _ = bulk(ChunkOptions(level, gaps=True))
    parts = split_job(job, 10, 10)
    assert all(type(part) is Advance and part.client is job.client for part in parts)
    assert [part.options is not None and part.options.gaps for part in parts] == GAPS
    assert [None if part.options is None else part.options.level for part in parts] == (
        [None, None, None] if level is None else [level] * 3
    )


def test_a_session_that_is_named_often_has_single_chunks_as_parts():
    job, _ = bulk(names="aaa")
    parts = split_job(job, 10, 10)
    assert [(type(part), len(part.observations)) for part in parts] == [(Advance, n) for n in LENGTHS]


def test_answers_of_single_chunks_that_come_in_another_order_are_put_together():
    job, answers = bulk(ChunkOptions(score=True, gaps=True))
    parts = split_job(job, 10, 10)
    for i in (2, 0, 1):
        outputs = {
            "predictions": np.full((LENGTHS[i], 2), i, np.float64 if i == 1 else np.float32),
            "scores": np.full(LENGTHS[i], i),
        }
        parts[i].reply(ChunkAnswer("abc"[i], "m", 10 + i, 20 + i, i == 2, outputs))
    (answer,) = answers
    assert answer.positions.tolist() == [10, 11, 12]
    assert answer.epochs.tolist() == [20, 21, 22]
    assert (answer.steps.tolist(), answer.outputs, answer.replayed) == (LENGTHS, 2, [2])
    assert answer.predictions.tolist() == [0] * 4 + [1] * 2 + [2] * 6
    assert answer.predictions.dtype == np.float64
    assert {i: scores.tolist() for i, scores in answer.extra_outputs["scores"].items()} == {
        0: [0, 0], 1: [1], 2: [2, 2, 2],
    }  # fmt: skip


def test_the_type_of_the_answer_is_found_once_for_each_kind_of_numbers(monkeypatch):
    """With a type for each of ten thousand chunks, this alone takes 0.2 s."""
    asked, result_type = [], np.result_type
    monkeypatch.setattr(np, "result_type", lambda *kinds: asked.append(len(kinds)) or result_type(*kinds))
    job, answers = bulk(ChunkOptions(gaps=True))
    for i, part in enumerate(split_job(job, 10, 10)):
        outputs = {"predictions": np.zeros((LENGTHS[i], 1), np.float32)}
        part.reply(ChunkAnswer("abc"[i], "m", 1, 1, False, outputs))
    assert len(answers) == 1
    assert asked == [2]


def test_a_request_all_of_whose_chunks_are_refused_has_an_answer():
    answers: list[BulkAnswer] = []
    collector = AnswerCollector(2, answers.append)
    for i in range(2):
        collector.subset_reply(np.array([i]))(Unprocessable("no"))
    assert sorted(answers[0].errors) == [0, 1]
    assert len(answers[0].predictions) == 0
