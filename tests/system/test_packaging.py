"""What ships around the code agrees with the code."""

import re
import subprocess
import tomllib

import pytest
import yaml

from app.config import described
from app.worker_processes import BALANCER
from benchmarks.failover.processes import HAPROXY
from tests.helpers.paths import ROOT

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


def test_the_cluster_of_compose_passes_on_only_settings_that_there_are():
    service = yaml.safe_load((ROOT / "compose.cluster.yaml").read_text())["services"]["carryover"]
    assert set(service["environment"]) <= {one.variable for one in described()}


def test_the_balancer_of_workers_routes_as_that_of_the_cluster():
    """By the lines that say which replica a session goes to, and when one is out."""
    both = [BALANCER.replace("{{", "{").replace("}}", "}"), (ROOT / "deploy/cluster/haproxy.cfg").read_text()]
    told = [
        re.findall(
            r"^ *((?:balance|hash-type|http-check|http-request (?:set|wait)|acl|retry-on) .*)$", text, re.M
        )
        for text in both
    ]
    assert told[0] == told[1]
    assert "balance hash var(txn.session)" in told[0]
    assert "http-check disable-on-404" in told[0]


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


def dependency_lines() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    return text[text.index("dependencies = [") : text.index("[project.scripts]")]


def bare(need: str) -> str:
    return re.split(r"[^\w.-]", need)[0].lower().replace("_", "-")
