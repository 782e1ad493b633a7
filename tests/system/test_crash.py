"""A server killed at random moments: what it acknowledged is there, once; benchmarks/crash.py is longer."""

import asyncio

from benchmarks.crash import COMMIT_AFTER_REPLY, crash


def test_what_was_acknowledged_survives_kills_and_is_applied_once(zoo_folder, tmp_path, capsys):
    report = asyncio.run(crash(zoo_folder / "sine", tmp_path, kills=4, clients=32, seed=3))
    with capsys.disabled():
        print(f"\n{report}")
    assert report.broken == 0, report
    assert report.kills == 4
    assert report.acknowledged > 32
    assert report.sent_again > 0


def test_a_commit_behind_the_reply_is_found_out(zoo_folder, tmp_path):
    """The bug is planted, so that a pass of the test above means something."""
    report = asyncio.run(
        crash(zoo_folder / "sine", tmp_path, kills=2, clients=32, seed=4, planted=COMMIT_AFTER_REPLY)
    )
    assert report.missing > 0, report
