"""Texts go on behind the last event after kills, here and on another replica; benchmarks/text_crash.py is the
long run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.failover.processes import RedisServer
from benchmarks.text_crash import Report, Writer, write_through_kills, written_alone
from models.artifact.files import save
from models.forecaster import Forecaster
from tests.helpers.redis_server import needs_redis
from tests.helpers.text import text_model

SHORT = {"tokens": 1500, "sessions": 4, "seed": 3, "steps": 400}


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "letters"
    save(text_model(), folder)
    return folder


def test_no_token_differs_after_a_kill(letters, tmp_path):
    store = f"sqlite:{tmp_path / 'sessions.sqlite'}"
    report = asyncio.run(write_through_kills(letters, tmp_path, store, replicas=1, kills=1, **SHORT))
    assert report.broken == 0, report
    assert report.kills == 1
    assert report.resumed + report.repeated >= 1


@needs_redis
def test_no_token_differs_when_a_killed_replica_s_texts_go_on_at_another(letters, tmp_path):
    with RedisServer(tmp_path / "redis") as redis:
        report = asyncio.run(write_through_kills(letters, tmp_path, redis.url, replicas=2, kills=1, **SHORT))
    assert report.broken == 0, report
    assert report.moved > 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [(lambda tokens: [*tokens[:40], (tokens[40] + 1) % 29, *tokens[41:]], 1), (lambda tokens: tokens, 0)],
    ids=["changed", "right"],
)
def test_a_token_that_differs_is_counted(change, expected):
    forecaster, report = Forecaster(text_model()), Report()
    writer = Writer("poet", [1], 5, 60, report)
    writer.tokens = change(written_alone(forecaster, 5, 60))
    writer.judge(forecaster)
    assert report.different == expected
    for position, token in ((63, 1), (63, 1)):  # the second is doubled
        writer._take(position, token)
    assert report.out_of_order == 1
