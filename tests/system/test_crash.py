"""A server killed at random moments keeps every acknowledged chunk; benchmarks/crash.py is the long run."""

import asyncio

from benchmarks.crash import COMMIT_AFTER_REPLY, crash


def test_every_acknowledged_chunk_survives_kills_and_is_applied_once(zoo_folder, tmp_path, capsys):
    report = asyncio.run(crash(zoo_folder / "sine", tmp_path, kills=2, clients=32, seed=3))
    with capsys.disabled():
        print(f"\n{report}")
    assert report.broken == 0, report
    assert report.kills == 2
    assert report.acknowledged > 32
    assert report.sent_again > 0


def test_a_commit_after_the_reply_is_found(zoo_folder, tmp_path):
    """A planted bug: the test above must be able to fail."""
    report = asyncio.run(
        crash(zoo_folder / "sine", tmp_path, kills=2, clients=32, seed=4, planted=COMMIT_AFTER_REPLY)
    )
    assert report.missing > 0, report
