"""FastAPI routes, a module for each group of paths."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.errors import Unprocessable


def operation_id(route: APIRoute) -> str:
    """The operation's id in the OpenAPI document: the name of its function."""
    return route.name


class StrictRoute(APIRoute):
    """A route that refuses query parameters which it does not declare.

    FastAPI ignores them: a client that puts `at` into the query of a chunk in JSON would believe that a retry
    is recognised.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As the parent's, behind the check."""
        handle, known = super().get_route_handler(), frozenset(_query_names(self.dependant))

        async def checked(request: Request) -> Response:
            for name in request.query_params if request.scope["query_string"] else ():
                if name not in known:
                    raise Unprocessable(f"there is no query parameter {name[:80]!r} here", field=name)
            return await handle(request)

        return checked


def _query_names(dependant: Dependant) -> Iterator[str]:
    for field in dependant.query_params:
        annotation = field.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from annotation.model_fields
        else:
            yield field.alias
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)
