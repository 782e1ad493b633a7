"""Request bodies: none grows beyond its limit, and the small ones become shapes.

A body is JSON whatever its declared type says, because `curl -d` declares a form.
"""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from app.api.schemas import RequestBody
from app.errors import Malformed, Unprocessable

Shape = TypeVar("Shape", bound=RequestBody)


async def parse_body(request: Request, shape: type[Shape]) -> Shape:
    """The request's body as this shape; an empty body is an empty object.

    Raises
    ------
    Malformed : not JSON
    Unprocessable : naming the field
    """
    try:
        return shape.model_validate_json(await request.body() or b"{}")
    except ValidationError as error:
        raise _complaint(error) from None


def openapi_body(shape: type[RequestBody], required: bool = False) -> dict[str, Any]:
    """What a route's `openapi_extra` says of the body that it reads as this shape."""
    schema = shape.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _complaint(error: ValidationError) -> Malformed | Unprocessable:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return Malformed(f"the body is not JSON: {first['ctx']['error']}")
    field = ".".join(str(part) for part in first["loc"])
    return Unprocessable(f"{field}: {first['msg']}" if field else first["msg"], field=field)
