"""The README is complete: no setting, command or route goes untold, and no default is told wrongly."""

import re
from collections.abc import Iterator

import pytest
import typer
from fastapi.routing import iter_route_contexts

from app.config import Settings, described
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
UNTOLD = {"/docs/oauth2-redirect"}  # FastAPI's own, of no use to a reader


@pytest.fixture
def lines() -> list[str]:
    return README.read_text().splitlines()


def test_every_setting_is_told_with_its_default(lines):
    untold = [
        f"{one.variable} (default {one.default})"
        for one in described()
        if not any(re.search(rf"\b{one.variable}\b", line) and one.default in line for line in lines)
    ]
    assert untold == []


def test_no_setting_is_told_that_does_not_exist(lines):
    told = set(re.findall(r"\bCARRYOVER_[A-Z_]+\b", "\n".join(lines)))
    assert told - {one.variable for one in described()} == set()


def test_every_command_is_told(lines):
    from app.cli import app

    text = "\n".join(lines)
    commands = list(commands_of(typer.main.get_command(app)))
    assert "serve" in commands
    assert [name for name in commands if not re.search(rf"carryover {name}\b", text)] == []


def test_every_route_is_told_with_its_method(lines):
    from app.main import create_app

    routes = set(routes_of(create_app(Settings())))
    assert ("POST", "/sessions/{}/observations") in routes
    assert sorted(route for route in routes if not is_told(route, lines)) == []


@pytest.mark.parametrize(
    ("route", "line", "told"),
    [
        (("GET", "/sessions/{}"), "| `GET /sessions/{id}` | tells |", True),
        (("PUT", "/sessions/{}/state"), "| `GET`, `PUT /sessions/{name}/state` | moves |", True),
        (("GET", "/"), "| `GET /` | the dashboard |", True),
        (("GET", "/sessions"), "| `GET /sessions/{id}` | tells |", False),
        (("GET", "/sessions/{}"), "| `DELETE /sessions/{id}` | forgets |", False),
        (("GET", "/"), "| `GET /sessions` | lists |", False),
    ],
)
def test_a_route_is_told_by_a_line_with_its_path_and_method_only(route, line, told):
    assert is_told(route, [line]) is told


def commands_of(group: object, above: str = "") -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def routes_of(app) -> Iterator[tuple[str, str]]:
    """(method, path), parameters as `{}` whatever they are called; a socket's method is WS."""
    for route in iter_route_contexts(app.routes):
        if route.path is None or route.path in UNTOLD:
            continue
        path = nameless(route.path)
        socket = "WebSocket" in type(route.original_route).__name__
        methods = {"WS"} if socket else set(route.methods or {"GET"}) - {"HEAD", "OPTIONS"}
        yield from ((method, path) for method in methods)


def is_told(route: tuple[str, str], lines: list[str]) -> bool:
    method, path = route
    exact = re.compile(rf"(?<![\w}}/.]){re.escape(path)}(?![\w{{}}.-]|/\S)")
    return any(exact.search(nameless(line)) and re.search(rf"\b{method}\b", line) for line in lines)


def nameless(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)
