"""Bodies of the control routes: JSON, validated.

A body is read as JSON whatever its content type says, because `curl -d` declares a form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from app.api.schemas import RequestBody
from app.errors import Malformed, Unprocessable

Body = TypeVar("Body", bound=RequestBody)


async def parse_body(request: Request, body_type: type[Body]) -> Body:
    """The request's body, validated; an empty body is an empty object.

    Raises
    ------
    Malformed : not JSON
    Unprocessable : names the field
    """
    try:
        return body_type.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        raise _first_error(error) from None


def openapi_body(body_type: type[RequestBody], required: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads this body."""
    schema = body_type.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _first_error(error: ValidationError) -> Malformed | Unprocessable:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['ctx']['error']}")
    field = ".".join(str(part) for part in first["loc"])
    return Unprocessable(f"{field}: {first['msg']}" if field else first["msg"], field=field)
