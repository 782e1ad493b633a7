"""What ships around the code agrees with the code."""

import re
import tomllib
from pathlib import Path

import yaml

from app.config import described

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalpha()]


def test_torch_is_pinned_before_anything_else():
    assert PINS[0] == "torch==2.13.0"


def test_every_dependency_is_pinned_to_one_version():
    pinned = {bare(pin) for pin in PINS if re.fullmatch(r"[\w.-]+==[\w.]+", pin)}
    extras = PROJECT["optional-dependencies"].values()
    wanted = {bare(need) for group in [PROJECT["dependencies"], *extras] for need in group} - {"carryover"}
    assert wanted - pinned == set()
    assert len(pinned) == len(PINS)


def test_every_dependency_gives_its_reason():
    needs = re.findall(r'^    "([^"]+)", *(#?)', dependency_lines(), flags=re.MULTILINE)
    assert len(needs) > len(PROJECT["dependencies"])
    assert [need for need, reason in needs if not reason] == []


def test_the_compose_file_passes_every_setting_on():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["carryover"]
    assert set(service["environment"]) == {one.variable for one in described()}


def dependency_lines() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("dependencies = [") : text.index("[project.scripts]")]


def bare(need: str) -> str:
    return re.split(r"[^\w.-]", need)[0].lower().replace("_", "-")
