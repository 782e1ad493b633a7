"""`docs/reference/cli.md`: every command and option, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from tools.docs.markdown import table

INTRODUCTION = """# Command line

This page is written by `make reference` from the command line itself; `carryover COMMAND --help` shows
the same.

Exit status: 0 done; 1 it failed; 2 it did not begin because the usage, the settings or the input were wrong;
130 interrupted. `carryover --version` prints the version, and `carryover --install-completion` installs
completion for your shell. In a clone, [`make shell`](../how-to/install.md) has the command at hand.
"""
SETTINGS = "Every [setting](settings.md) is an environment variable; an option above wins over it."


def page() -> str:
    """Return the page."""
    from app.cli import app

    found = list(commands(typer.main.get_command(app), "carryover"))
    overview = [(f"[`{name}`](#{anchor(name)})", command.short_help or "") for name, command in found]
    lines = [INTRODUCTION, *table(("command", ""), overview)]
    for name, command in found:
        lines += section(name, command)
    return "\n".join(lines).rstrip() + "\n"


def commands(group: Any, above: str) -> Iterator[tuple[str, TyperCommand]]:
    """Yield the full name and the command of each leaf of the tree, in the order of `--help`."""
    for command in group.commands.values():
        name = f"{above} {command.name}"
        if isinstance(command, TyperGroup):
            yield from commands(command, name)
        else:
            yield name, command


def section(name: str, command: TyperCommand) -> Iterator[str]:
    """Yield one command: its usage, its help, its arguments and options."""
    context = typer.Context(command, info_name=name)
    yield f"## `{name}`\n"
    yield f"```text\n{name} {' '.join(command.collect_usage_pieces(context))}\n```\n"
    yield f"{command.help}\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [(f"`{shown}`", about) for shown, about in filter(None, records) if "--help" not in shown]
    yield from table(("argument or option", "meaning"), rows)
    if name == "carryover serve":
        yield f"{SETTINGS}\n"


def anchor(name: str) -> str:
    """Return the anchor of a command's heading."""
    return name.replace(" ", "-")
