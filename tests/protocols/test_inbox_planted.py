"""Bugs planted in what answers plain requests, to see that its tests would notice them."""

from __future__ import annotations

import pytest

from app.access.usage import Usage
from app.codec.plain_answers import write_plain_answers
from app.protocols.http import HotProtocol
from app.protocols.plain_reading import Plain
from tests.helpers.locked import Keys
from tests.protocols import test_inbox_states

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("store", ["memory"], indirect=True)]
noticed = pytest.raises(AssertionError)  # by what a test says; another error would only mean a broken plant


async def test_answers_of_a_batch_that_go_to_other_connections(start_hot, monkeypatch):
    swapped = lambda *arguments: write_plain_answers(*arguments)[::-1]  # noqa: E731
    monkeypatch.setattr("app.protocols.inbox.write_plain_answers", swapped)
    with noticed:
        await test_inbox_states.test_answers_go_to_the_connections_that_asked(start_hot, direct=True)


async def test_a_chunk_that_is_applied_at_once_wherever_its_client_believes_the_session_to_be(
    start_hot, monkeypatch
):
    monkeypatch.setattr("app.engine.direct._are_ready", lambda *_: True)
    with noticed:
        await test_inbox_states.test_every_plain_request_is_counted_once(start_hot)


async def test_plain_requests_beyond_the_share_of_their_tenant(start_hot, tmp_path, monkeypatch):
    keys = Keys(tmp_path)
    for name in ("flood", "quiet"):
        keys.add(name)
    monkeypatch.setattr(Usage, "room", 10**6)
    with noticed:
        await test_inbox_states.test_a_flood_of_plain_requests_has_no_more_in_flight_than_its_share(
            start_hot, keys, direct=True
        )


async def test_an_answer_that_overtakes_the_plain_request_before_it(start_hot, monkeypatch):
    end = HotProtocol._end_plain

    def forgetting(self):
        awaited = self._plain is Plain.AWAITED
        data = end(self)
        if awaited:
            self._exchanges.pop()
        return data

    monkeypatch.setattr(HotProtocol, "_end_plain", forgetting)
    with noticed:
        await test_inbox_states.test_what_comes_in_behind_a_plain_request_is_answered_behind_it(
            start_hot, "awaited", "a refused chunk"
        )
