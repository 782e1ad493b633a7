"""Whatever is ready may share a wave, and every session sees its jobs in order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.queue import Turns
from app.jobs.jobs import Advance, AdvanceMany, Expire
from app.jobs.session_list import Roster


def job(*sessions: str) -> Expire:
    return Expire(sessions)


def finish(turns: Turns, done: Expire) -> None:
    turns.finish(set(done.sessions))


def test_jobs_of_different_sessions_are_taken_together_and_of_one_session_one_by_one():
    turns = Turns()
    first, second, other = job("a"), job("a"), job("b")
    for one in (first, second, other):
        turns.add(one)
    assert turns.take(10) == [first, other]
    assert turns.take(10) == []
    finish(turns, first)
    assert turns.take(10) == [second]


def test_a_job_of_several_sessions_waits_until_it_leads_all_their_lines():
    turns = Turns()
    a, b, both, behind = job("a"), job("b"), job("a", "b"), job("b")
    for one in (a, b, both, behind):
        turns.add(one)
    taken = turns.take(10)
    assert taken == [a, b]
    finish(turns, a)
    assert turns.take(10) == []
    finish(turns, b)
    assert turns.take(10) == [both]
    finish(turns, both)
    assert turns.take(10) == [behind]


def test_a_wave_is_bounded_by_sessions_but_never_empty():
    turns = Turns()
    large, small = job("a", "b", "c"), job("d")
    turns.add(large)
    turns.add(small)
    assert turns.take(2) == [large]
    assert turns.take(2) == [small]


def test_a_job_that_could_not_be_done_yet_comes_again_before_those_behind_it():
    turns = Turns()
    first, second, other = job("a"), job("a"), job("b")
    for one in (first, second, other):
        turns.add(one)
    turns.take(1)
    turns.again(first)
    assert turns.take(10) == [first, other]


def test_a_job_that_names_a_session_twice_does_not_wait_for_itself():
    turns = Turns()
    before, twice = job("a"), job("a", "a")
    turns.add(before)
    turns.add(twice)
    finish(turns, turns.take(9)[0])
    assert turns.take(9) == [twice]
    finish(turns, twice)
    turns.add(job("a"))
    assert len(turns.take(9)) == 1


def test_a_job_of_no_session_is_ready_and_taken():
    turns = Turns()
    turns.add(job())
    assert turns
    assert len(turns.take(1)) == 1
    assert not turns


NAMES = "abcdefg"
ROSTERS = [Roster(names) for names in ("ab", "bc", "cde", "fg", "abcd", "a", "aab")]
one_job = st.one_of(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda names: job(*names)),
    st.sampled_from(NAMES).map(lambda name: Advance(name, np.zeros((1, 1), np.float32))),
    st.sampled_from(ROSTERS).map(
        lambda roster: AdvanceMany(roster, np.zeros((len(roster), 1), np.float32), np.ones(len(roster)))
    ),
)
taken = st.tuples(st.integers(1, 5), st.booleans())  # at most so many; finished together, or each alone


@settings(max_examples=500)
@given(st.lists(st.one_of(one_job, taken), max_size=40))
def test_every_job_is_taken_once_in_the_order_of_each_of_its_sessions_and_waves_are_disjoint(moves):
    turns = Turns()
    jobs, done = [], []

    def wave(most, together):
        jobs_of_it = turns.take(most)
        touched = [session for one in jobs_of_it for session in set(one.sessions)]
        assert len(touched) == len(set(touched))
        if together:
            turns.finish(set(touched))
        else:
            for one in jobs_of_it:
                turns.finish(one.sessions.once if isinstance(one, AdvanceMany) else set(one.sessions))
        done.extend(jobs_of_it)
        return jobs_of_it

    for move in moves:
        if isinstance(move, tuple):
            wave(*move)
        else:
            jobs.append(move)
            turns.add(move)
    while wave(5, together=False):
        pass
    assert sorted(map(id, done)) == sorted(map(id, jobs))
    for session in NAMES:
        order = [id(one) for one in done if session in one.sessions]
        assert order == [id(one) for one in jobs if session in one.sessions]
    assert (len(turns), turns._lines, turns._blocked, list(turns.waiting())) == (0, {}, {}, [])
    assert (turns._busy, turns._rosters) == (set(), [])


def chunks(tenant: str, count: int) -> list[Advance]:
    return [Advance(f"{tenant}/{i}", np.zeros((1, 1), np.float32)) for i in range(count)]


def test_tenants_are_served_by_turns_however_much_one_of_them_has_waiting():
    turns = Turns()
    flood, quiet = chunks("flood", 1000), chunks("quiet", 3)
    for job in [*flood, *quiet]:
        turns.add(job)
    wave = turns.take(10)
    assert wave == [flood[0], quiet[0], flood[1], quiet[1], flood[2], quiet[2], *flood[3:7]]
    assert len(turns) == 993


def test_a_job_too_large_for_what_others_left_of_a_wave_leads_the_next():
    turns = Turns()
    small, rows = chunks("small", 30), np.zeros((8, 1), np.float32)
    large = AdvanceMany(Roster(f"large/{i}" for i in range(8)), rows, np.ones(8, np.int64))
    turns.add(small[0])
    turns.add(large)
    for job in small[1:]:
        turns.add(job)
    assert turns.take(8) == small[:8]
    assert turns.take(8) == [large]


def test_one_tenants_order_is_the_order_of_its_coming():
    turns = Turns()
    jobs = chunks("a", 50)
    for job in jobs:
        turns.add(job)
    assert [job for _ in range(10) for job in turns.take(5)] == jobs


def test_a_tenant_has_no_more_of_a_wave_than_its_share_and_leads_none_after_it():
    turns = Turns()
    flood, quiet = chunks("flood", 10), chunks("quiet", 1)
    for job in flood:
        turns.add(job)
    assert turns.take(100, share=4) == flood[:4]
    turns.add(quiet[0])
    assert turns.take(100, share=4) == [flood[4], quiet[0], *flood[5:8]]
    assert turns.take(100, share=4) == flood[8:]
    assert (len(turns), bool(turns)) == (0, False)
