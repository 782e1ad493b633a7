"""Imports run in one direction, read from the source with ast: nothing is imported to find out."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module may import its own tier and the tiers above it in this table, never one below.
# "x.*" stands for the package x and all under it. A module that no line names fails, by name.
DIRECTION: tuple[tuple[str, ...], ...] = (
    ("models.*",),
    (
        "app",
        "app.errors",
        "app.config",
        "app.process_tuning",
        "app.session.names",
        "app.observability.metrics",
        "app.access.quotas",
        "app.access.keys",
        "app.engine.fair_share",
        "app.observability.logs",
    ),
    (
        "app.session.rows",
        "app.jobs.session_list",
        "app.jobs.answers",
        "app.api.schemas",
        "app.session.remembered",
        "app.session.digest",
        "app.jobs.options",
    ),
    (
        "app.session.slab",
        "app.stores.*",
        "app.codec.chunks",
        "app.codec.frames",
        "app.session.state_file",
        "app.model_library",
    ),
    (
        "app.jobs.jobs",
        "app.observability.tracing",
        "app.engine.queue",
        "app.jobs.split",
        "app.engine.batch",
        "app.engine.time_budget",
    ),
    ("app.engine.inputs", "app.engine.extra_outputs", "app.engine.watchers"),
    (
        "app.engine.exactly_once",
        "app.engine.wave",
        "app.engine.withdraw",
        "app.engine.sliced",
        "app.engine.step",
        "app.engine.residents",
        "app.engine.warm_start",
        "app.engine.placement",
    ),
    ("app.engine.engine",),
    ("app.access.callers", "app.api.prometheus"),
    (
        "app.protocols.http",
        "app.protocols.stream_socket",
        "app.protocols.watch_socket",
        "app.dashboard.*",
        "app.api.*",
        "app.codec.bulk.*",
    ),
    ("app.open_inference.*",),
    ("app.main", "app.cli.session_backup", "app.worker_processes"),
    ("app.cli", "app.cli.*"),
)


def test_every_import_runs_in_the_direction_of_the_table():
    assert complaints(ROOT) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    ("module", "line", "told"),
    [
        ("app/slab.py", "from app.engine import Engine", "app.session.slab imports app.engine"),
        ("app/slab.py", "import app.engine as owner", "app.session.slab imports app.engine"),
        ("app/slab.py", "from app import engine", "app.session.slab imports app.engine"),
        ("app/slab.py", "from . import engine", "app.session.slab imports app.engine"),
        ("app/slab.py", "def late():\n    from .engine import Engine", "app.session.slab imports app.engine"),
        ("app/api/sessions.py", "from ..main import create_app", "app.api.routes.sessions imports app.main"),
        ("app/api/__init__.py", "from ..main import create_app", "app.api imports app.main"),
        ("models/network.py", "from app.errors import CarryoverError", "models.nets.lstm imports app.errors"),
        ("app/gadget.py", "import json", "app.gadget is in no tier"),
    ],
)
def test_a_planted_arrow_that_runs_back_is_told(tmp_path, module, line, told):
    plant(tmp_path, {module: line})
    assert [complaint for complaint in complaints(tmp_path) if complaint.startswith(told)]


def test_a_planted_circle_is_told(tmp_path):
    plant(tmp_path, {"app/slab.py": "import app.wire", "app/wire.py": "import app.slab"})
    assert {"app.session.slab", "app.codec.chunks"} <= set(circle(tmp_path))


def test_arrows_that_run_forward_are_let_pass(tmp_path):
    plant(
        tmp_path,
        {"app/engine.py": "from app.slab import Slab\nfrom models.network import Carry\nimport json"},
    )
    assert complaints(tmp_path) == []
    assert circle(tmp_path) == []


def complaints(root: Path) -> list[str]:
    found = [f"{name} is in no tier of DIRECTION: add it" for name in sources(root) if tier(name) is None]
    for name, imported in sorted(set(arrows(root))):
        here, there = tier(name), tier(imported)
        if here is not None and there is not None and there > here:
            found.append(f"{name} imports {imported}, which comes after it")
    return found


def circle(root: Path) -> list[str]:
    graph: dict[str, set[str]] = {}
    for name, imported in arrows(root):
        # A package's own __init__ gathering what lies beneath it is no circle.
        if not imported.startswith(name + ".") and not name.startswith(imported + "."):
            graph.setdefault(name, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def tier(name: str) -> int | None:
    for number, entries in enumerate(DIRECTION):
        for entry in entries:
            package = entry.removesuffix(".*")
            if name == package or (entry != package and name.startswith(package + ".")):
                return number
    return None


def arrows(root: Path) -> Iterator[tuple[str, str]]:
    """(importer, imported), both among our own modules; imports inside functions count too."""
    known = sources(root)
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for target in targets(ast.parse(path.read_text()), package):
            while target and target not in known:
                target = target.rpartition(".")[0]
            if target and target != name:
                yield name, target


def targets(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parents = package.split(".")
    above = parents[: len(parents) - node.level + 1]
    return ".".join([*above, node.module] if node.module else above)


def sources(root: Path) -> dict[str, Path]:
    paths = [path for top in ("models", "app") for path in sorted((root / top).rglob("*.py"))]
    return {dotted(path.relative_to(root)): path for path in paths}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def plant(root: Path, files: dict[str, str]) -> None:
    modules = [
        "models/network.py",
        "app/errors.py",
        "app/slab.py",
        "app/wire.py",
        "app/engine.py",
        "app/main.py",
    ]
    packages = ["models/__init__.py", "app/__init__.py", "app/api/__init__.py"]
    for name in [*modules, *packages, *files]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files.get(name, ""))
