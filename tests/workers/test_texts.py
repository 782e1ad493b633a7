"""A text is the same at whichever worker a request for it arrives."""

from __future__ import annotations

from typing import Any

import pytest

from app import server
from app.engine import texts
from models.artifact.files import save
from tests.helpers.text import text_model
from tests.helpers.two_workers import owned, two_workers
from tests.helpers.ways import HttpRoute

pytestmark = pytest.mark.anyio
ASK = {"prompt": "the sea ", "steps": 60, "temperature": 0.9, "seed": 7}


async def test_a_text_of_another_worker_s_session_is_written_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "freeze_loaded_objects", lambda: None)
    monkeypatch.setattr(texts, "MAX_SLICE", 16)
    save(text_model(), tmp_path / "letters")
    async with two_workers(HttpRoute, tmp_path, tmp_path / "letters", default_model="letters") as both:

        async def ask(worker: int, session: str, headers: dict[str, str] | None = None, **fields: Any) -> Any:
            http = both.ways[worker].http
            answer = await http.post(
                f"/sessions/{session}/generate", json=ASK | fields, headers=headers or {}
            )
            assert answer.status_code == 200, answer.text
            return answer

        here, there = *owned(0, 1), *owned(1, 1)
        found = [(await ask(worker, session)).json() for worker in (0, 1) for session in (here, there)]
        first = found[0]["text"]
        assert [answer["text"] for answer in found[:2]] == [first] * 2
        assert len(first) == 60
        assert [answer["position"] for answer in found] == [68, 68, 136, 136]
        copies = [(await ask(worker, there, keep=False, prompt="")).json()["text"] for worker in (0, 1)]
        assert copies[0] == copies[1]
        epoch = found[1]["epoch"]
        events = {"accept": "text/event-stream", "last-event-id": f"{epoch}.40"}
        rest = [(await ask(worker, there, events, at=0)).text for worker in (0, 1)]
        assert rest[0] == rest[1]
        assert rest[0].count("id: ") == 68 - 40 + 1
