"""What is shipped to run it: the manifests are whole, and speak of metrics and settings that there are."""

import json
import re
from typing import Any

import pytest
import yaml

from app.config import describe_settings
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.anyio

DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"\b(carryover_\w+|process_\w+)")
ENDS = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture
def store():
    return "memory"


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes/carryover.yaml").read_text()))


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for one in manifests() if one["kind"] == kind]
    return found


def alerts() -> list[dict[str, Any]]:
    return yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]


def queries() -> list[str]:
    panels = json.loads((DEPLOY / "grafana/dashboards/carryover.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


async def test_every_metric_that_is_watched_is_one_that_the_server_tells(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        await service.advance("a", [[0.1]], at=5)
        told = set(re.findall(r"^# TYPE (\w+)", (await service.http.get("/metrics")).text, re.M))
    on_disk = {"carryover_store_bytes"}
    learning = {f"carryover_model_{name}" for name in ("mse", "skill", "coverage")}  # of models that learn
    for query in [*queries(), *(one["expr"] for one in alerts())]:
        for name in METRIC.findall(re.sub(r'"[^"]*"', "", query)):
            assert ENDS.sub("", name) in told | on_disk | learning, query


def test_every_alert_says_what_to_do():
    assert len(alerts()) >= 8
    for one in alerts():
        assert one["annotations"]["summary"]
        assert len(one["annotations"]["action"]) > 20
        assert one["labels"]["severity"] in ("page", "ticket")


def test_panels_neither_overlap_nor_share_an_id():
    panels = json.loads((DEPLOY / "grafana/dashboards/carryover.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_pod_has_no_rights_that_it_does_not_need():
    pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]


def test_the_pod_is_probed_bounded_and_given_time_to_finish():
    pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    assert pod["terminationGracePeriodSeconds"] > 30
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] == 0


def test_the_settings_of_the_pod_are_settings():
    assert of_kind("ConfigMap")["data"].keys() <= {one.variable for one in describe_settings()}


def test_the_manifests_are_of_kubernetes_own_schemas():
    validate = pytest.importorskip(
        "kubernetes_validate", reason="Kubernetes' schemas come with the extra dev: pip install -e '.[dev]'"
    )
    for one in manifests():
        validate.validate(one, validate.latest_version(), strict=True)


def test_the_containers_run_with_nothing_they_do_not_need():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["carryover"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r"^USER (?!root)", (ROOT / "Dockerfile").read_text(), re.M)


def test_every_package_of_the_image_is_locked_by_hash_at_the_version_that_was_tested():
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([\w.\-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    entries = re.findall(
        r"^([\w.\-]+)==([\w.+]+)(?: ;[^\\\n]*)? \\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", lock, re.M
    )
    assert len(entries) > 30
    assert len(entries) == len(re.findall(r"^[a-z]", lock, re.M))
    for name, version, _ in entries:
        assert pins[name.lower().replace("_", "-")] == version


def test_every_package_of_the_image_has_its_licence_listed():
    lock = (ROOT / "requirements.lock").read_text()
    listed = (ROOT / "docs/reference/licences.md").read_text()
    for name, version in re.findall(r"^([\w.\-]+)==([\w.+]+)", lock, re.M):
        assert re.search(rf"^\| {re.escape(name)} \| {re.escape(version)} \| [^|]*\w", listed, re.M | re.I), (
            name
        )
