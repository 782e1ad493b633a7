"""The site has every setting, command and route, and its generated pages say what the code does."""

import re
from collections.abc import Iterator

import pytest
import typer
from fastapi.routing import iter_route_contexts

from app.config import CLIENT_VARIABLES, SERVICE_LINK, Settings, describe_settings
from app.protocols.upgrade import PATH
from tests.helpers.paths import ROOT
from tools.docs.pages import PAGES

SITE = ROOT / "docs"
REFERENCE = SITE / "reference"
LEFT_OUT = {"/docs/oauth2-redirect"}  # FastAPI's own, of no use to a reader


@pytest.fixture(scope="module")
def site() -> list[str]:
    """Every line of every page."""
    return [line for page in sorted(SITE.rglob("*.md")) for line in page.read_text().splitlines()]


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says(name):
    assert (REFERENCE / name).read_text() == PAGES[name](), "run: make reference"


def test_every_setting_is_on_its_page_with_its_default_and_meaning():
    page = (REFERENCE / "settings.md").read_text()
    rows = {
        f"| `{setting.variable}` | {setting.default} | {setting.description} |"
        for setting in describe_settings()
    }
    assert len(rows) > 40
    assert [row for row in sorted(rows) if row not in page] == []


def test_no_page_names_a_setting_that_does_not_exist(site):
    text = "\n".join([*site, (ROOT / "README.md").read_text()])
    named = set(re.findall(r"\bCARRYOVER_[A-Z_]+[A-Z]\b", text))
    assert "CARRYOVER_STORE" in named
    settings = {setting.variable for setting in describe_settings()}
    of_compose = set(re.findall(r"\$\{(CARRYOVER_[A-Z_]+)", (ROOT / "compose.tls.yaml").read_text()))
    links = {name for name in named if SERVICE_LINK.fullmatch(name.removeprefix("CARRYOVER_"))}
    assert named - settings - of_compose - links == CLIENT_VARIABLES


def test_every_command_has_a_section():
    from app.cli import app

    page = (REFERENCE / "cli.md").read_text()
    commands = list(commands_of(typer.main.get_command(app)))
    assert "sessions list" in commands
    assert [name for name in commands if f"\n## `carryover {name}`\n" not in page] == []


def test_every_option_of_a_command_is_in_its_section():
    from app.cli import app

    page = (REFERENCE / "cli.md").read_text()
    train = page.partition("\n## `carryover train`\n")[2].partition("\n## ")[0]
    options = {
        name for option in typer.main.get_command(app).commands["train"].params for name in option.opts
    }
    assert "--closed-loop" in options
    assert [name for name in sorted(options) if name.startswith("--") and name not in train] == []


def test_every_route_is_on_a_page_with_its_method(site):
    from app.main import create_app

    routes = set(routes_of(create_app(Settings())))
    assert ("POST", "/sessions/{}/observations") in routes
    assert sorted(route for route in routes if not is_on(route, site)) == []


@pytest.mark.parametrize("path", ["/sessions/{}/stream", "/sessions/{}/watch", "/stream"])
def test_every_socket_is_on_the_page_of_sockets(path):
    assert PATH.fullmatch(path), "a socket that the server does not have"
    assert is_on(("WS", path), (REFERENCE / "sockets.md").read_text().splitlines())


@pytest.mark.parametrize(
    ("route", "line", "found"),
    [
        (("GET", "/sessions/{}"), "| `GET /sessions/{id}` | shows |", True),
        (("PUT", "/sessions/{}/state"), "| `GET`, `PUT /sessions/{name}/state` | moves |", True),
        (("GET", "/"), "| `GET /` | the dashboard |", True),
        (("GET", "/sessions"), "| `GET /sessions/{id}` | shows |", False),
        (("GET", "/sessions/{}"), "| `DELETE /sessions/{id}` | deletes |", False),
        (("GET", "/"), "| `GET /sessions` | lists |", False),
    ],
)
def test_a_route_is_found_on_a_line_with_its_path_and_method_only(route, line, found):
    assert is_on(route, [line]) is found


def commands_of(group: object, above: str = "") -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{above}{name} ")
        else:
            yield f"{above}{name}"


def routes_of(app) -> Iterator[tuple[str, str]]:
    """(method, path), parameters as `{}` whatever they are called; a socket's method is WS."""
    for route in iter_route_contexts(app.routes):
        if route.path is None or route.path in LEFT_OUT:
            continue
        path = nameless(route.path)
        socket = "WebSocket" in type(route.original_route).__name__
        methods = {"WS"} if socket else set(route.methods or {"GET"}) - {"HEAD", "OPTIONS"}
        yield from ((method, path) for method in methods)


def is_on(route: tuple[str, str], lines: list[str]) -> bool:
    method, path = route
    exact = re.compile(rf"(?<![\w}}/.]){re.escape(path)}(?![\w{{}}.-]|/\S)")
    return any(exact.search(nameless(line)) and re.search(rf"\b{method}\b", line) for line in lines)


def nameless(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)
