"""FastAPI routes, a module for each group of paths."""

from __future__ import annotations

from fastapi.routing import APIRoute


def operation_id(route: APIRoute) -> str:
    """The operation's id in the OpenAPI document: the name of its function."""
    return route.name
