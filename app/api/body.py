"""Bodies of requests: decompressed, and those of the control routes validated.

A body is read as JSON whatever its content type says, because `curl -d` declares a form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

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
    body = (await read_body(request)).removeprefix(BYTE_ORDER_MARK) or b"{}"
    check_values(body, max_values)
    try:
        return body_type.model_validate_json(body)
    except ValidationError as error:
        raise _first_error(error, body) from None


def openapi_body(body_type: type[RequestBody], required: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads this body."""
    content = {"application/json": {"schema": schema_of(body_type)}}
    return {"requestBody": {"required": required, "content": content}}


def _first_error(error: ValidationError, body: bytes) -> Malformed | Unprocessable:
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {errors[0]['ctx']['error']}")
    document = from_json(body)
    path, choice = _path(errors[0], document)
    messages = [errors[0]["msg"]]
    if choice is not None:  # the value is of none of the types that it may have: the deepest error says most
        found = [(_path(each, document)[0], each["msg"]) for each in errors]
        found = [each for each in found if each[0][:choice] == path[:choice]]
        path = max((one for one, _ in found), key=len)
        messages = [message for one, message in found if one == path]
    field = ".".join(path)[:MAX_FIELD]
    text = ", or: ".join(dict.fromkeys(messages))
    return Unprocessable(f"{field}: {text}" if field else text, field=field)


def _path(error: ErrorDetails, document: Any) -> tuple[list[str], int | None]:
    """The path of a value in a document, and at which part of it a choice of types comes, if any.

    pydantic puts the name of each type that was tried into the place, as if it were a key.
    """
    path, choice = list[str](), None
    for part in error["loc"]:
        is_object = isinstance(document, dict)
        if part in document if is_object else isinstance(document, list) and isinstance(part, int):
            document = document[part]
        elif is_object and error["type"] == "missing":
            document = None
        else:
            choice = len(path) if choice is None else choice
            continue
        path.append(str(part))
    return path, choice
