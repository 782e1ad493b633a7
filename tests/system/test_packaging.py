"""What ships around the code agrees with the code."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import describe_settings
from benchmarks.failover.processes import HAPROXY
from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalpha()]


def test_torch_is_pinned_before_anything_else():
    assert PINS[0] == "torch==2.13.0"


def test_every_dependency_is_pinned_to_one_version():
    pinned = {bare(pin) for pin in PINS if re.fullmatch(r"[\w.-]+==[\w.]+", pin)}
    extras = PROJECT["optional-dependencies"].values()
    ours = {"carryover-server", "carryover-client"}
    needs = [need for group in [PROJECT["dependencies"], *extras] for need in group]
    wanted = {bare(need) for need in needs} - ours
    assert wanted - pinned == set()
    assert len(pinned) == len(PINS)


def test_every_dependency_gives_its_reason():
    needs = re.findall(r'^    "([^"]+)", *(#?)', dependency_lines(), flags=re.MULTILINE)
    assert len(needs) > len(PROJECT["dependencies"])
    assert [need for need, reason in needs if not reason] == []


def test_the_compose_file_passes_every_setting_on():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["carryover"]
    assert set(service["environment"]) == {setting.variable for setting in describe_settings()}


def test_the_cluster_of_compose_passes_on_only_settings_that_there_are():
    service = yaml.safe_load((ROOT / "compose.cluster.yaml").read_text())["services"]["carryover"]
    assert set(service["environment"]) <= {setting.variable for setting in describe_settings()}
    # Without keys it refuses to be published beyond its machine.
    assert service["environment"].keys() >= {"CARRYOVER_PUBLISHED_HOST", "CARRYOVER_API_KEYS_FILE"}
    assert "${KEYS:-keys}:/keys" in service["volumes"]


@pytest.mark.skipif(HAPROXY is None, reason="no haproxy here: apt-get install haproxy")
def test_the_balancers_configuration_is_well_formed(tmp_path):
    text = (ROOT / "deploy/cluster/haproxy.cfg").read_text()
    version = subprocess.run([str(HAPROXY), "-v"], capture_output=True, text=True, check=True).stdout
    if int(re.findall(r"version (\d+)", version)[0]) < 3:
        text = text.replace(" hash-key addr-port", "")  # of 3.0
    config = tmp_path / "haproxy.cfg"
    config.write_text(text)
    checked = subprocess.run(
        [str(HAPROXY), "-c", "-f", str(config)],
        env={"CARRYOVER_REPLICAS": "carryover:8000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("is_editable", [True, False], ids=["editable", "copy"])
def test_make_installs_the_clone_again_where_something_else_would_be_served(is_editable, tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    for stamp in (".made", ".runtime"):
        (venv / stamp).touch()
    # Only an interpreter without this clone's packages finds none of them.
    interpreter = sys.executable if is_editable else sys._base_executable  # type: ignore[attr-defined]
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -I ] && exec {interpreter} "$@"\necho "$@"\n')
    python.chmod(0o755)
    make = ["make", "--silent", "--no-print-directory", f"VENV={venv}", "editable"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    installs = [] if is_editable else ["--editable ./client --editable ."]
    assert [line[line.index("--editable") :] for line in done.stdout.splitlines()] == installs


def test_a_second_make_waits_until_the_first_has_installed(tmp_path):
    """The first is held within its first `pip install`, by a pipe that nobody has written to."""
    venv, log, gate, busy = (tmp_path / name for name in ("venv", "log", "gate", "busy"))
    (venv / "bin").mkdir(parents=True)
    (venv / ".made").touch()
    os.mkfifo(gate)
    python = venv / "bin" / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exit 0\nmkdir {busy} || exit 1\necho "$*" >> {log}\n'
        f'case "$*" in *hatchling*) echo installing; cat {gate} ;; esac\nrmdir {busy}\n'
    )
    python.chmod(0o755)

    @contextmanager
    def started(target: str) -> Iterator[tuple[subprocess.Popen[str], Any, Any]]:
        make = ["make", "--silent", f"VENV={venv}", f"PYTHON={sys.executable}", "TORCH_INDEX=", target]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(make, cwd=ROOT, start_new_session=True, **pipes) as process:
            try:
                yield process, process.stdout, process.stderr
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    with ExitStack() as both:
        first, output, _ = both.enter_context(started("installed"))
        assert output.readline() == "installing\n"
        second, _, problems = both.enter_context(started("installed-test"))
        assert "another make installs into .venv" in problems.readline()
        gate.write_text("")
        assert second.communicate(timeout=30)[1] == first.communicate(timeout=30)[1] == ""
        assert first.returncode == second.returncode == 0
    assert log.read_text().count("hatchling") == 1, "the second found the packages of the first"


def test_a_plain_installation_needs_no_torch_and_an_installation_from_a_clone_has_it():
    assert {"torch", "matplotlib"} == {bare(need) for need in PROJECT["optional-dependencies"]["train"]}
    assert not {"torch", "matplotlib"} & {bare(need) for need in PROJECT["dependencies"]}
    assert "'.[train]'" in (ROOT / "Makefile").read_text()


def dependency_lines() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("dependencies = [") : text.index("[project.scripts]")]


def bare(need: str) -> str:
    return re.split(r"[^\w.-]", need)[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """The wheels of the server and of the client, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"  # building leaves files beside the sources
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in ("app", "models", "carryover_server", "client"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(folder), ".", "./client"], cwd=source, check=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> dict[str, str]:
    """An environment for an interpreter that has the wheels and what they need, and nothing of this clone.

    Folders of PYTHONPATH have no .pth files read: the editable install beside the dependencies is not seen.
    """
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, *map(str, wheels.values())], check=True)
    path = os.pathsep.join([".", str(site), sysconfig.get_path("purelib")])
    return {"PATH": os.environ["PATH"], "HOME": str(site), "PYTHONPATH": path}


def test_wheels_do_not_share_a_file_and_install_no_name_of_other_peoples(wheels):
    server, client = (names_in(wheels[name]) for name in ("carryover_server", "carryover_client"))
    assert server & client == set()
    assert {name.partition("/")[0] for name in server if ".dist-info/" not in name} == {"carryover_server"}
    assert {"carryover_server/models/zoo/sine/model.json", "carryover_server/app/py.typed"} <= server
    assert "carryover/py.typed" in client


def test_the_server_needs_the_client_of_its_own_version_and_shows_the_readme(wheels):
    with zipfile.ZipFile(wheels["carryover_server"]) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = wheel.read(name).decode()
    version = wheels["carryover_server"].name.split("-")[1]
    assert wheels["carryover_client"].name.split("-")[1] == version
    assert f"Requires-Dist: carryover-client=={version}" in metadata
    assert "# Carryover\n" in metadata


def test_a_project_with_an_app_and_models_of_its_own_and_the_command_both_work(installed, tmp_path):
    (tmp_path / "app.py").write_text("OWNER = 'the project'\n")
    for name in ("models", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the project'\n")
    python = sys._base_executable  # type: ignore[attr-defined]
    theirs = "import app, models, tests; print(app.OWNER, models.OWNER, tests.OWNER)"
    done = subprocess.run(
        [python, "-c", theirs], cwd=tmp_path, env=installed, capture_output=True, text=True, check=True
    )
    assert done.stdout == "the project the project the project\n"
    zoo = "import carryover_server as c; c.activate(); from app import config; print(config.SHIPPED_MODELS)"
    shipped = subprocess.run(
        [python, "-c", zoo], cwd=tmp_path, env=installed, capture_output=True, text=True, check=True
    )
    listed = subprocess.run(
        [python, "-m", "carryover_server", "models", shipped.stdout.strip(), "--json"],
        cwd=tmp_path, env=installed, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "sine" in listed.stdout


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())
