"""Texts as bytes: JSON and server-sent events of `/generate`, and those of OpenAI's completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.codec.problems import problem
from app.errors import CarryoverError, Unprocessable
from app.jobs.answers import epoch_token, parse_epoch
from app.jobs.text import STOP, TextAnswer
from app.session.names import id_of

DONE = b"data: [DONE]\n\n"


def encode_text(answer: TextAnswer, *, replayed: bool) -> dict[str, Any]:
    """The answer of `/generate`.

    Parameters
    ----------
    replayed : whether the session had consumed all of it before
    """
    return {
        "session": id_of(answer.session),
        "model": answer.model,
        "position": answer.position,
        "epoch": epoch_token(answer.epoch),
        "replayed": replayed,
        "tokens": answer.tokens,
        "text": "".join(answer.pieces),
        "finish": answer.finish,
    }


def encode_events(answer: TextAnswer, behind: int) -> bytes:
    """An event for each token behind this position, and one more for the end of the text."""
    epoch, first = epoch_token(answer.epoch), answer.position - len(answer.tokens)
    events = []
    for position, (token, piece) in enumerate(zip(answer.tokens, answer.pieces, strict=True), first + 1):
        if position > behind:
            data = {"position": position, "token": token, "text": piece}
            events.append(b"id: %b\ndata: %b\n\n" % (f"{epoch}.{position}".encode(), orjson.dumps(data)))
    if answer.finish is not None:
        data = {"position": answer.position, "finish": answer.finish}
        identity = f"{epoch}.{answer.position}".encode()
        events.append(b"event: done\nid: %b\ndata: %b\n\n" % (identity, orjson.dumps(data)))
    return b"".join(events)


def encode_error_event(error: CarryoverError) -> bytes:
    """The event of a text that cannot go on now. It has no id, so that a client resumes behind the last."""
    return b"event: error\ndata: %b\n\n" % orjson.dumps(problem(error)[1])


def parse_event_id(text: str) -> tuple[int, int]:
    """The epoch and the position of an id of an event.

    Raises
    ------
    Unprocessable
    """
    epoch, _, position = text.partition(".")
    if not (position.isascii() and position.isdigit() and len(position) < 20) or int(position) >= 2**63:
        raise Unprocessable("Last-Event-ID is not the id of an event of a text", field="last-event-id")
    return parse_epoch(epoch), int(position)


# --- for OpenAI's clients


@dataclass(slots=True)
class Completion:
    """One completion, as far as it is written.

    identity, created : as the client sees them; seconds since 1970
    stops : texts that end it and are not answered
    sent : characters of it that were sent
    """

    identity: str
    created: int
    stops: Sequence[str]
    sent: int = 0

    def encode(self, answer: TextAnswer) -> dict[str, Any]:
        """The whole answer."""
        return self._object(answer, self._rest(answer)) | {"usage": _usage(answer)}

    def encode_chunk(self, answer: TextAnswer, *, with_usage: bool) -> bytes:
        """The events of what is new since the last call."""
        rest = self._rest(answer)
        if not rest and answer.finish is None:
            return b""
        events = _data(self._object(answer, rest))
        if answer.finish is None:
            return events
        if with_usage:
            events += _data(self._object(answer, None) | {"usage": _usage(answer)})
        return events + DONE

    def _rest(self, answer: TextAnswer) -> str:
        """The text that was not sent yet, without what may be the beginning of a stop."""
        text = "".join(answer.pieces)
        end = len(text)
        if answer.finish == STOP:
            end = min((found for stop in self.stops if (found := text.find(stop)) >= 0), default=end)
        elif answer.finish is None:
            end -= max((_overlap(text, stop) for stop in self.stops), default=0)
        rest = text[self.sent : end]
        self.sent = end
        return rest

    def _object(self, answer: TextAnswer, text: str | None) -> dict[str, Any]:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": answer.finish}
        return {
            "id": self.identity,
            "object": "text_completion",
            "created": self.created,
            "model": answer.model,
            "choices": [] if text is None else [choice],
        }


def encode_text_model(name: str, created: int) -> dict[str, Any]:
    """A model that writes text, as OpenAI's clients read it.

    Parameters
    ----------
    created : seconds since 1970
    """
    return {"id": name, "object": "model", "created": created, "owned_by": "carryover"}


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of the text with which this stop begins."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def _usage(answer: TextAnswer) -> dict[str, int]:
    prompt, completion = answer.prompt, len(answer.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def _data(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


def openai_error(error: CarryoverError) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of an error as OpenAI's clients read it."""
    status, body, headers = problem(error)
    return status, openai_body(body), headers


def openai_body(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a problem as OpenAI's clients read it; the whole problem is beside it."""
    described = {
        "message": body["detail"],
        "type": "invalid_request_error" if body["status"] < 500 else "server_error",
        "param": body.get("field"),
        "code": body["type"].rpartition(":")[2],
    }
    return {"error": described, "problem": body}


def encode_openai_error(error: CarryoverError) -> bytes:
    """The event of a completion that cannot go on."""
    return _data(openai_error(error)[1])
