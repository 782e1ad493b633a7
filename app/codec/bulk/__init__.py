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
from app.codec.bulk.request import BulkLimits, Request
from app.jobs.answers import AdvancedMany

__all__ = ["BulkLimits", "Request", "encode", "read"]

FORMS = {binary.CONTENT_TYPE: binary, arrow.CONTENT_TYPE: arrow, json.CONTENT_TYPE: json}


def read(body: bytes, content_type: str, accept: str, limits: BulkLimits) -> Request:
    """What the request asks for.

    Raises
    ------
    Malformed, Unprocessable, TooLarge, UnsupportedType : nothing of it can be done
    """
    asked = _bare(content_type)
    wanted = [one for one in map(_bare, accept.split(",")) if one in FORMS]
    answered = wanted[0] if wanted else asked if asked in FORMS else json.CONTENT_TYPE
    if answered == arrow.CONTENT_TYPE:
        arrow.needed()
    told: Request = FORMS.get(asked, json).decode(body, limits)
    told.answered = answered
    return told


def encode(answer: AdvancedMany, request: Request) -> tuple[bytes, str]:
    """The body of the answer, and its content type."""
    return FORMS[request.answered].encode(answer, request), request.answered


def _bare(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
