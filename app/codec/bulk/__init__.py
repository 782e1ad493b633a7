"""`POST /observations`: the chunks of many sessions in one request, in columns, in one of three forms.

| content type                          | form                                      |
|---------------------------------------|-------------------------------------------|
| `application/octet-stream`            | `app.codec.bulk.binary`, documented there |
| `application/vnd.apache.arrow.stream` | `app.codec.bulk.arrow`                    |
| any other                             | `app.codec.bulk.json`                     |

The answer has the form of the request, unless `accept` names another. An error of one session's chunk is in
the answer, by its index. Only an error of the request itself refuses the whole request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from app.codec.bulk import arrow, binary, json
from app.codec.bulk.json import LARGE_BODY_BYTES
from app.codec.bulk.request import BulkLimits, BulkRequest
from app.errors import Unprocessable
from app.jobs.answers import BulkAnswer

__all__ = ["BulkDecoder", "BulkLimits", "BulkRequest", "encode", "encode_with_pauses", "is_slow", "preload"]

FORMS = {binary.CONTENT_TYPE: binary, arrow.CONTENT_TYPE: arrow, json.CONTENT_TYPE: json}


@dataclass(frozen=True, slots=True)
class BulkDecoder:
    """Decodes requests of every form."""

    limits: BulkLimits

    def decode(self, body: bytes, content_type: str, accept: str) -> BulkRequest:
        """Decode a request.

        Parameters
        ----------
        content_type, accept : the headers, empty where the request has none

        Raises
        ------
        Malformed, Unprocessable, TooLarge : the whole request is refused
        """
        form, answer_type = _forms(content_type, accept)
        request: BulkRequest = FORMS[form].decode(body, self.limits)
        request.answer_type = answer_type
        _check_answer_type(request)
        return request

    async def decode_with_pauses(self, body: bytes, content_type: str, accept: str) -> BulkRequest:
        """Decode a request, and let the event loop go on after every few milliseconds.

        Raises
        ------
        Malformed, Unprocessable, TooLarge : the whole request is refused
        """
        form, answer_type = _forms(content_type, accept)
        if form == binary.CONTENT_TYPE:
            return self.decode(body, content_type, accept)
        slices = (json if form == json.CONTENT_TYPE else arrow).decode_in_slices(body, self.limits)
        while True:
            try:
                next(slices)
            except StopIteration as stop:
                request: BulkRequest = stop.value
                request.answer_type = answer_type
                _check_answer_type(request)
                return request
            await asyncio.sleep(0)


def is_slow(size: int | None) -> bool:
    """Whether a request should be decoded with pauses, and queued in parts.

    Parameters
    ----------
    size : of the body in bytes; None if unknown
    """
    return size is None or size > LARGE_BODY_BYTES


def encode(answer: BulkAnswer, request: BulkRequest) -> tuple[bytes, str]:
    """The body of the answer, and its content type."""
    return FORMS[request.answer_type].encode(answer, request), request.answer_type


async def encode_with_pauses(answer: BulkAnswer, request: BulkRequest) -> tuple[bytes, str]:
    """The same, and the event loop goes on after each column of a JSON answer."""
    if request.answer_type != json.CONTENT_TYPE:
        return encode(answer, request)
    slices = json.encode_in_slices(answer, request)
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            body: bytes = stop.value
            return body, request.answer_type
        await asyncio.sleep(0)


def preload() -> None:
    """Import pyarrow, or the first request of its form would block the event loop."""
    arrow.warm_up()


def _check_answer_type(request: BulkRequest) -> None:
    """Refuse what the form of the answer cannot have.

    Raises
    ------
    Unprocessable
    """
    if request.answer_type == json.CONTENT_TYPE:
        return
    options = [job.options for _, job in request.jobs if job.options is not None]
    if any(option.level is not None for option in options):
        raise Unprocessable("an answer in this form has no intervals: take JSON, or `levels`", field="level")
    if any(option.score for option in options):
        raise Unprocessable("an answer in this form has no surprise: take JSON", field="score")
    if request.answer_type == binary.CONTENT_TYPE and any(option.levels for option in options):
        raise Unprocessable("the binary form has no quantiles: take JSON or Arrow", field="levels")


def _forms(content_type: str, accept: str) -> tuple[str, str]:
    """The content types of the request and of its answer."""
    form = _media_type(content_type)
    form = form if form in FORMS else json.CONTENT_TYPE
    accepted = [kind for kind in map(_media_type, accept.split(",")) if kind in FORMS]
    return form, accepted[0] if accepted else form


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
