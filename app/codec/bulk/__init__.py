"""`POST /observations`: many sessions' chunks in one request, in columns, in one of three forms.

| content type                          | form                                   |
|---------------------------------------|----------------------------------------|
| `application/octet-stream`            | `app.bulk.binary`, byte by byte there  |
| `application/vnd.apache.arrow.stream` | `app.bulk.arrow`, where pyarrow is     |
| any other                             | JSON, `app.bulk.columns`               |

The answer has the form of the request, unless `accept` names another. What is wrong with one session's
chunk is told in the answer, by its index; only what concerns the whole request refuses the whole.
"""

from __future__ import annotations

from app.codec.bulk import arrow, binary, json
from app.codec.bulk.request import BulkLimits, BulkRequest
from app.jobs.answers import BulkAnswer

__all__ = ["BulkLimits", "BulkRequest", "decode", "encode"]

FORMATS = {binary.CONTENT_TYPE: binary, arrow.CONTENT_TYPE: arrow, json.CONTENT_TYPE: json}


def decode(body: bytes, content_type: str, accept: str, limits: BulkLimits) -> BulkRequest:
    """What the request asks for.

    Raises
    ------
    Malformed, Unprocessable, TooLarge, UnsupportedType : nothing of it can be done
    """
    asked = _bare(content_type)
    wanted = [one for one in map(_bare, accept.split(",")) if one in FORMATS]
    answered = wanted[0] if wanted else asked if asked in FORMATS else json.CONTENT_TYPE
    if answered == arrow.CONTENT_TYPE:
        arrow.import_pyarrow()
    told: BulkRequest = FORMATS.get(asked, json).decode(body, limits)
    told.answer_type = answered
    return told


def encode(answer: BulkAnswer, request: BulkRequest) -> tuple[bytes, str]:
    """The body of the answer, and its content type."""
    return FORMATS[request.answer_type].encode(answer, request), request.answer_type


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
