"""Bodies of requests: decompressed, and those of the control routes validated.

A body is read as JSON whatever its content type says, because `curl -d` declares a form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from app.api.middleware.guard import get_caller
from app.api.schemas import RequestBody, schema_of
from app.codec.compression import decompress
from app.codec.limits import BYTE_ORDER_MARK, check_values
from app.errors import Malformed, Unprocessable

Body = TypeVar("Body", bound=RequestBody)

MAX_VALUES = 64  # in the JSON of a control route
MAX_FIELD = 100  # characters of a field's name in an error


async def read_body(request: Request) -> bytes:
    """The request's body, decompressed.

    Raises
    ------
    UnsupportedType, Malformed, TooLarge : as `decompress`
    """
    encoding = request.headers.get("content-encoding", "")
    return decompress(await request.body(), encoding, get_caller(request).max_bytes)


async def parse_body(request: Request, body_type: type[Body], max_values: int = MAX_VALUES) -> Body:
    """The request's body, validated; an empty body is an empty object.

    Raises
    ------
    Malformed : not JSON
    Unprocessable : names the field
    TooLarge : more than `max_values` values
    """
    body = (await read_body(request)).removeprefix(BYTE_ORDER_MARK)
    check_values(body, max_values)
    try:
        return body_type.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise _first_error(error) from None


def openapi_body(body_type: type[RequestBody], required: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads this body."""
    content = {"application/json": {"schema": schema_of(body_type)}}
    return {"requestBody": {"required": required, "content": content}}


def _first_error(error: ValidationError) -> Malformed | Unprocessable:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['ctx']['error']}")
    field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD]
    return Unprocessable(f"{field}: {first['msg']}" if field else first["msg"], field=field)
