"""What is shipped to run it: the manifests are whole, and speak of metrics and settings that there are."""

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from app.access.origins import check_host
from app.config import Settings
from app.errors import Misdirected
from tests.helpers.locked import Keys
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.anyio

DEPLOY = ROOT / "deploy"
KUBECTL, PROMTOOL = shutil.which("kubectl"), shutil.which("promtool")
METRIC = re.compile(r"\b(carryover_\w+|process_\w+)")
ENDS = re.compile(r"_(bucket|sum|count)$")


@pytest.fixture
def store():
    return "memory"


@pytest.fixture(scope="module", params=["durable", "cluster"])
def manifests(request) -> list[dict[str, Any]]:
    """What an overlay of deploy/kubernetes renders to."""
    if KUBECTL is None:
        pytest.skip("no kubectl here, which renders the manifests; .ci/containers brings one")
    rendered = subprocess.run(
        [KUBECTL, "kustomize", str(DEPLOY / "kubernetes" / request.param)],
        capture_output=True,
        text=True,
        check=True,
    )
    return list(yaml.safe_load_all(rendered.stdout))


def of_kind(manifests: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [one for one in manifests if one["kind"] in kinds]


def templates(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each workload's pod template."""
    workloads = of_kind(manifests, "Deployment", "StatefulSet")
    return {one["metadata"]["name"]: one["spec"]["template"] for one in workloads}


def script(path: str) -> ModuleType:
    """A file of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DEPLOY / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def alerts() -> list[dict[str, Any]]:
    return yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]


def queries() -> list[str]:
    panels = json.loads((DEPLOY / "grafana/dashboards/carryover.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


async def test_every_metric_that_is_watched_is_one_that_the_server_tells(start_http):
    async with start_http() as service:
        await service.advance("a", [[0.1]])
        await service.advance("a", [[0.1]], at=5)
        exported = set(re.findall(r"^# TYPE (\w+)", (await service.http.get("/metrics")).text, re.M))
    on_disk = {"carryover_store_bytes"}
    learning = {f"carryover_model_{name}" for name in ("mse", "skill", "coverage")}  # of models that learn
    for query in [*queries(), *(one["expr"] for one in alerts())]:
        for name in METRIC.findall(re.sub(r'"[^"]*"', "", query)):
            assert ENDS.sub("", name) in exported | on_disk | learning, query


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


def test_no_pod_of_kubernetes_has_rights_that_it_does_not_need(manifests):
    for template in templates(manifests).values():
        pod = template["spec"]
        assert not pod["automountServiceAccountToken"]
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_every_container_of_kubernetes_is_bounded_and_probed(manifests):
    for template in templates(manifests).values():
        for container in template["spec"]["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            assert {"livenessProbe", "readinessProbe"} <= container.keys()


def test_a_server_of_kubernetes_is_given_time_to_start_and_to_finish(manifests):
    pod = templates(manifests)["carryover"]["spec"]
    (container,) = pod["containers"]
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 60
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert pod["terminationGracePeriodSeconds"] > 3 + 30  # CARRYOVER_DRAIN_SECONDS, and what was accepted


def test_network_policies_of_kubernetes_hold_every_pod(manifests):
    policies = [one["spec"] for one in of_kind(manifests, "NetworkPolicy")]
    for template in templates(manifests).values():
        labels = template["metadata"]["labels"].items()
        held = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels]
        assert held
        assert all(one["policyTypes"] == ["Ingress", "Egress"] for one in held)


def test_services_of_kubernetes_find_pods_with_the_port_that_they_name(manifests):
    for service in of_kind(manifests, "Service"):
        selector = service["spec"]["selector"].items()
        (pod,) = [
            one["spec"]
            for one in templates(manifests).values()
            if selector <= one["metadata"]["labels"].items()
        ]
        ports = {port["name"] for container in pod["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_the_settings_in_kubernetes_are_settings(manifests):
    config = templates(manifests)["carryover"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    (settings,) = [
        one["data"] for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"] == config
    ]
    assert Settings.from_env(settings).host == "0.0.0.0"


def test_the_manifests_are_of_kubernetes_own_schemas(manifests):
    validate = pytest.importorskip(
        "kubernetes_validate", reason="Kubernetes' schemas come with the extra dev: pip install -e '.[dev]'"
    )
    for one in manifests:
        validate.validate(one, validate.latest_version(), strict=True)


def base_images() -> list[tuple[Path, str]]:
    """Every image that is not built here, and the file that names it."""
    pin = script("pin.py")
    return [
        (path, found["name"])
        for path in pin.files()
        for found in pin.IMAGE.finditer(path.read_text())
        if not found["name"].startswith("carryover:")
    ]


def test_base_images_are_named_by_a_whole_version_and_everywhere_by_the_same():
    versions: dict[str, set[str]] = {}
    for path, name in base_images():
        image, _, version = name.partition(":")
        assert re.match(r"v?\d+\.\d+\.\d+", version), (path, name)
        versions.setdefault(image, set()).add(version)
    assert {"python", "valkey/valkey", "haproxy", "caddy", "prom/prometheus", "grafana/grafana"} == set(
        versions
    )
    assert all(len(pins) == 1 for pins in versions.values()), versions


def test_no_image_is_overlooked_when_digests_are_pinned():
    named = [
        line
        for path in script("pin.py").files()
        for line in path.read_text().splitlines()
        if re.match(r"[ -]*image: |ARG PYTHON=|FROM \w+:", line) and "carryover" not in line
    ]
    assert len(named) == len(base_images())


def test_a_digest_is_put_behind_the_version_and_replaced_by_a_newer_one():
    pin = script("pin.py")
    first, second = (f"sha256:{digit * 64}" for digit in "ab")
    text = "ARG PYTHON=python:3.11.14-slim\n    image: carryover:latest\n  - image: prom/prometheus:v3.5.0\n"
    once = pin.pinned(text, lambda _: first)
    assert once == (
        f"ARG PYTHON=python:3.11.14-slim@{first}\n    image: carryover:latest\n"
        f"  - image: prom/prometheus:v3.5.0@{first}\n"
    )
    assert pin.pinned(once, lambda _: second) == once.replace(first, second)


def test_all_that_the_dockerfile_copies_is_let_through_by_dockerignore():
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(), re.M)
        for source in [word for word in line.split() if not word.startswith("--")][:-1]
    ]
    assert {"requirements.lock", "constraints.txt", "pyproject.toml", "app", "models", "client"} <= {*copied}
    for source in copied:
        assert any(
            source == pattern or pattern.startswith(f"{source}/") or fnmatch(source, pattern)
            for pattern in let_through
        ), source


def test_the_image_has_every_compiled_function():
    """What is missing there would be compiled at each start of a container, which cannot write it down."""
    (program,) = re.findall(
        r"python -c \\\n\s+'(import carryover_server;[^']+)'", (ROOT / "Dockerfile").read_text()
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; import sys; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    compiled = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("app", "models")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^@jit\(", path.read_text(), re.MULTILINE)
    }
    assert len(compiled) > 10
    assert compiled <= set(done.stdout.split())


def test_every_file_of_the_packages_is_let_through_by_dockerignore():
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    patterns = [
        re.compile(re.escape(one).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")) for one in let_through
    ]
    shipped = [*ROOT.glob("app/**/*.py"), *ROOT.glob("models/**/*.py"), *ROOT.glob("client/carryover/*")]
    shipped += [
        *ROOT.glob("app/dashboard/static/**/*"),
        *ROOT.glob("models/zoo/*/*"),
        *ROOT.glob("*/py.typed"),
    ]
    for path in shipped:
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            assert any(pattern.fullmatch(name) for pattern in patterns), name


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, "http://127.0.0.1:8000/health/ready"),
        ({"CARRYOVER_PORT": "9000"}, "http://127.0.0.1:9000/health/ready"),
        ({"CARRYOVER_PORT": "tcp://10.0.0.1:80"}, "http://127.0.0.1:8000/health/ready"),
        ({"CARRYOVER_TLS_CERTIFICATE": "/keys/tls.crt"}, "https://127.0.0.1:8000/health/ready"),
    ],
)
def test_the_containers_health_is_asked_where_the_server_listens(environment, address):
    assert script("image/healthcheck.py").address(environment) == address


async def test_the_containers_health_is_that_of_the_server():
    healthcheck = script("image/healthcheck.py")
    async with listening(503) as port:
        assert not await asyncio.to_thread(healthcheck.ready, f"http://127.0.0.1:{port}/")
    async with listening(200) as port:
        assert await asyncio.to_thread(healthcheck.ready, f"http://127.0.0.1:{port}/")
    assert not await asyncio.to_thread(healthcheck.ready, f"http://127.0.0.1:{port}/")


@asynccontextmanager
async def listening(status: int) -> AsyncIterator[int]:
    """A server that answers every request with this status; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} said\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def compose(name: str) -> dict[str, Any]:
    """A compose file; what it resets is None."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!reset", lambda *_: None)
    return yaml.load((ROOT / name).read_text(), loader)["services"]  # noqa: S506  (a SafeLoader)


def test_with_tls_in_front_no_other_port_is_published():
    services = compose("compose.tls.yaml")
    assert services["carryover"]["ports"] is None
    assert [port.rpartition(":")[2] for port in services["caddy"]["ports"]] == ["443"]


def test_keys_are_mounted_as_a_folder():
    mounts = compose("compose.yaml")["carryover"]["volumes"]
    assert [one.rpartition(":")[2] for one in mounts] == ["/artifacts", "/sessions", "/keys"]


def test_prometheus_finds_the_token_that_compose_mounts():
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    file = configuration["scrape_configs"][0]["authorization"]["credentials_file"]
    mounts = compose("compose.yaml")["prometheus"]["volumes"]
    assert f"${{METRICS_TOKEN:-/dev/null}}:{file}:ro" in mounts


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
@pytest.mark.parametrize(
    "arguments", [("config", "--syntax-only", "prometheus.yml"), ("rules", "alerts.yml")]
)
def test_prometheus_reads_its_configuration(arguments):
    checked = subprocess.run(
        [str(PROMTOOL), "check", *arguments],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_containers_run_with_nothing_they_do_not_need():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["carryover"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    # By number: runAsNonRoot cannot tell who a name is.
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", (ROOT / "Dockerfile").read_text(), re.M)


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


def test_the_load_of_the_container_checks_starts():
    command = [sys.executable, str(ROOT / ".ci/traffic.py"), "--help"]
    assert "SIGTERM" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


HOST_VARIABLES = ("CARRYOVER_HOST", "CARRYOVER_PUBLISHED_HOST", "CARRYOVER_ALLOWED_HOSTS")
SERVICE_SUFFIXES = ("", ".default", ".default.svc", ".default.svc.cluster.local")


def kubernetes_environment(overlay: str) -> dict[str, str]:
    """The settings of the server's container in an overlay of deploy/kubernetes."""
    file = DEPLOY / "kubernetes" / overlay / "kustomization.yaml"
    (config,) = yaml.safe_load(file.read_text())["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in config["literals"])


def compose_environment(file: str) -> dict[str, str]:
    """The settings of the server's container where the shell sets no variable."""
    environment = yaml.safe_load((ROOT / file).read_text())["services"]["carryover"]["environment"]
    found = {name: str(text) for name, text in environment.items() if text is not None}
    default = re.compile(r"\$\{\w+:-([^${}]*)\}")
    for name, text in found.items():
        while default.search(text):
            text = default.sub(r"\1", text)
        found[name] = text
    return found


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        (
            lambda: kubernetes_environment("cluster"),
            [f"carryover{suffix}:8000" for suffix in SERVICE_SUFFIXES] + ["10.1.2.3:8000"],
        ),
        (
            lambda: kubernetes_environment("durable"),
            [f"carryover{suffix}:8000" for suffix in SERVICE_SUFFIXES] + ["10.1.2.3:8000"],
        ),
        (lambda: compose_environment("compose.yaml"), ["carryover:8000", "localhost:8000", "127.0.0.1"]),
        (
            lambda: compose_environment("compose.cluster.yaml"),
            ["balancer:8000", "carryover:8000", "localhost:8000", "127.0.0.1:8000"],
        ),
    ],
    ids=["kubernetes/cluster", "kubernetes/durable", "compose", "compose.cluster"],
)
def test_a_server_of_each_manifest_answers_to_the_names_that_its_clients_use(environment, hosts, tmp_path):
    settings = environment()
    kept = {name: settings[name] for name in HOST_VARIABLES if name in settings}
    if "CARRYOVER_API_KEYS_FILE" in settings:
        kept["CARRYOVER_API_KEYS_FILE"] = str(Keys(tmp_path).path)
    names = Settings.from_env(kept).accepted_host_names
    for host in hosts:
        check_host(host, names)
    if names is not None:
        with pytest.raises(Misdirected):
            check_host("evil.example", names)
