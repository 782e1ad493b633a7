"""Ready jobs may share a batch, and every session sees its jobs in order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.queue import JobQueue
from app.jobs.jobs import Advance, AdvanceMany, Client, Expire
from app.jobs.options import ChunkOptions
from app.jobs.session_list import SessionList
from app.jobs.split import split_job


def job(*sessions: str) -> Expire:
    return Expire(sessions)


def finish(queue: JobQueue, done: Expire) -> None:
    queue.finish(set(done.sessions))


def test_jobs_of_different_sessions_are_taken_together_and_of_the_same_session_one_by_one():
    queue = JobQueue()
    first, second, other = job("a"), job("a"), job("b")
    for waiting in (first, second, other):
        queue.add(waiting)
    assert queue.take(10) == [first, other]
    assert queue.take(10) == []
    finish(queue, first)
    assert queue.take(10) == [second]


def test_a_job_of_several_sessions_waits_until_it_is_first_in_all_their_lines():
    queue = JobQueue()
    a, b, both, behind = job("a"), job("b"), job("a", "b"), job("b")
    for waiting in (a, b, both, behind):
        queue.add(waiting)
    taken = queue.take(10)
    assert taken == [a, b]
    finish(queue, a)
    assert queue.take(10) == []
    finish(queue, b)
    assert queue.take(10) == [both]
    finish(queue, both)
    assert queue.take(10) == [behind]


def test_a_batch_is_bounded_by_sessions_but_never_empty():
    queue = JobQueue()
    large, small = job("a", "b", "c"), job("d")
    queue.add(large)
    queue.add(small)
    assert queue.take(2) == [large]
    assert queue.take(2) == [small]


def test_a_requeued_job_comes_before_those_behind_it():
    queue = JobQueue()
    first, second, other = job("a"), job("a"), job("b")
    for waiting in (first, second, other):
        queue.add(waiting)
    queue.take(1)
    queue.requeue(first)
    assert queue.take(10) == [first, other]


def test_a_job_that_names_a_session_twice_does_not_wait_for_itself():
    queue = JobQueue()
    before, twice = job("a"), job("a", "a")
    queue.add(before)
    queue.add(twice)
    finish(queue, queue.take(9)[0])
    assert queue.take(9) == [twice]
    finish(queue, twice)
    queue.add(job("a"))
    assert len(queue.take(9)) == 1


def test_a_job_of_no_session_is_ready_and_taken():
    queue = JobQueue()
    queue.add(job())
    assert queue
    assert len(queue.take(1)) == 1
    assert not queue


NAMES = "abcdefg"
SESSION_LISTS = [SessionList(names) for names in ("ab", "bc", "cde", "fg", "abcd", "a", "aab")]
any_job = st.one_of(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: job(*names)),
    st.sampled_from(NAMES).map(lambda name: Advance(name, np.zeros((1, 1), np.float32))),
    st.sampled_from(SESSION_LISTS).map(
        lambda session_list: AdvanceMany(
            session_list, np.zeros((len(session_list), 1), np.float32), np.ones(len(session_list))
        )
    ),
)
taken = st.tuples(st.integers(1, 5), st.booleans())  # the bound; whether they finish together


@settings(max_examples=500)
@given(st.lists(st.one_of(any_job, taken), max_size=40))
def test_every_job_is_taken_once_in_the_order_of_each_of_its_sessions_and_batches_are_disjoint(moves):
    queue = JobQueue()
    jobs, done = [], []

    def batch(max_sessions, together):
        batch_jobs = queue.take(max_sessions)
        touched = [session for job in batch_jobs for session in set(job.sessions)]
        assert len(touched) == len(set(touched))
        if together:
            queue.finish(set(touched))
        else:
            for job in batch_jobs:
                queue.finish(job.sessions.unique if isinstance(job, AdvanceMany) else set(job.sessions))
        done.extend(batch_jobs)
        return batch_jobs

    for move in moves:
        if isinstance(move, tuple):
            batch(*move)
        else:
            jobs.append(move)
            queue.add(move)
    while batch(5, together=False):
        pass
    assert sorted(map(id, done)) == sorted(map(id, jobs))
    for session in NAMES:
        order = [id(job) for job in done if session in job.sessions]
        assert order == [id(job) for job in jobs if session in job.sessions]
    assert (len(queue), queue._lines, queue._blocked, list(queue.waiting_jobs())) == (0, {}, {}, [])
    assert (queue._busy, queue.nbytes) == (set(), 0)


def chunks(tenant: str, count: int) -> list[Advance]:
    return [Advance(f"{tenant}/{i}", np.zeros((1, 1), np.float32)) for i in range(count)]


def test_tenants_alternate_however_many_jobs_of_one_of_them_wait():
    queue = JobQueue()
    flood, quiet = chunks("flood", 1000), chunks("quiet", 3)
    for job in [*flood, *quiet]:
        queue.add(job)
    batch = queue.take(10)
    assert batch == [flood[0], quiet[0], flood[1], quiet[1], flood[2], quiet[2], *flood[3:7]]
    assert len(queue) == 993


def test_a_job_too_large_for_the_rest_of_a_batch_is_first_in_the_next():
    queue = JobQueue()
    small, rows = chunks("small", 30), np.zeros((8, 1), np.float32)
    large = AdvanceMany(SessionList(f"large/{i}" for i in range(8)), rows, np.ones(8, np.int64))
    queue.add(small[0])
    queue.add(large)
    for job in small[1:]:
        queue.add(job)
    assert queue.take(8) == small[:8]
    assert queue.take(8) == [large]


def test_the_jobs_of_a_tenant_are_taken_in_the_order_in_which_they_came():
    queue = JobQueue()
    jobs = chunks("a", 50)
    for job in jobs:
        queue.add(job)
    assert [job for _ in range(10) for job in queue.take(5)] == jobs


def test_a_tenant_has_no_more_of_a_batch_than_its_share_and_is_last_in_the_next():
    queue = JobQueue()
    flood, quiet = chunks("flood", 10), chunks("quiet", 1)
    for job in flood:
        queue.add(job)
    assert queue.take(100, share=4) == flood[:4]
    queue.add(quiet[0])
    assert queue.take(100, share=4) == [flood[4], quiet[0], *flood[5:8]]
    assert queue.take(100, share=4) == flood[8:]
    assert (len(queue), bool(queue)) == (0, False)


def parts_of_a_large_request(count: int, observations: float = np.nan, name: str = "part") -> list[Advance]:
    """The jobs of a bulk request in which every number is missing, unless `observations` are given."""
    gaps = bool(np.isnan(observations))
    names = SessionList(f"{name}-{i}" for i in range(count))
    job = AdvanceMany(names, np.full((count, 1), observations, np.float32), np.ones(count, np.int64))
    job.options, job.client = (ChunkOptions(gaps=True) if gaps else None), Client()
    return list(split_job(job, 4, 1000))


def test_a_chunk_on_another_connection_is_in_the_next_batch_however_large_a_request_came_first():
    queue = JobQueue()
    large, chunk = parts_of_a_large_request(1000), Advance("small", np.zeros((1, 1), np.float32))
    for job in [*large, chunk]:
        queue.add(job)
    assert queue.take(10) == [chunk, *large[:9]]


def test_requests_of_several_connections_alternate_and_a_chunk_passes_those_that_are_not_in_columns():
    queue = JobQueue()
    first, second = parts_of_a_large_request(3, name="a"), parts_of_a_large_request(3, name="b")
    behind = Advance("c", np.zeros((1, 1), np.float32), client=first[0].client)
    for job in [*first, behind, *second]:
        queue.add(job)
    assert queue.take(3) == [behind, first[0], second[0]]
    assert queue.take(9) == [first[1], second[1], first[2], second[2]]


def test_a_job_that_is_requeued_is_ahead_of_the_other_connections():
    queue = JobQueue()
    large, chunk = parts_of_a_large_request(3), Advance("small", np.zeros((1, 1), np.float32))
    for job in [*large, chunk]:
        queue.add(job)
    taken = queue.take(3)
    assert taken == [chunk, large[0], large[1]]
    queue.requeue(large[1])
    queue.add(Advance("other", np.zeros((1, 1), np.float32)))
    assert queue.take(2)[0] is large[1]


def test_a_batch_has_few_of_the_jobs_that_are_not_processed_in_columns():
    queue = JobQueue()
    commands = [job(str(i)) for i in range(9)]
    for waiting in [*chunks("a", 5), *commands]:
        queue.add(waiting)
    assert [len(queue.take(100, max_single=4)) for _ in range(4)] == [9, 4, 1, 0]


def test_chunks_go_on_when_a_batch_has_enough_of_the_other_jobs_of_many_connections():
    queue = JobQueue()
    commands = [part for i in range(100) for part in parts_of_a_large_request(2, name=f"client-{i}")]
    small = [Advance(f"small-{i}", np.zeros((1, 1), np.float32)) for i in range(3)]
    for waiting in [*commands, *small]:
        queue.add(waiting)
    taken = queue.take(50, max_single=4)
    assert [waiting for waiting in taken if waiting in small] == small
    assert len(taken) == 4 + 3
