"""deploy/: valid by the published schemas, and true of this server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from deployed import DEPLOY
from fakes import FakeEngine, call
from live import ROOT, LiveServer

from server.api.app import create_app
from server.api.options import ApiOptions
from server.settings.command_line import variable_of
from server.settings.settings import Settings

DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
BASE = DEPLOY / "kubernetes"
MANIFESTS = sorted(BASE.rglob("*.yaml"))
UNIT = DEPLOY / "systemd" / "llava-server.service"
# Kustomize's own file, and a kind of the Prometheus operator; Kubernetes' schemas have neither.
FOREIGN = {"Kustomization", "Component", "PodMonitor"}
VARIABLES = {variable_of(name) for name in Settings.model_fields}


def documents() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in MANIFESTS]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents() if document["kind"] == kind)
    return found


def kustomized(*components: str, folder: Path) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send, with these components; skipped without kubectl."""
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl here")
    copy = shutil.copytree(BASE, folder / "kubernetes")
    own = yaml.safe_load((copy / "kustomization.yaml").read_text())
    own["components"] = [f"components/{name}" for name in components]
    own["images"] = [{"name": "llava-server", "newName": "registry.example/l", "newTag": "7"}]
    (copy / "kustomization.yaml").write_text(yaml.safe_dump(own))
    done = subprocess.run(
        [program, "kustomize", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_every_variable_is_a_setting() -> None:
    for path in [*DOCKERFILES, *MANIFESTS, UNIT, DEPLOY / "compose.yaml"]:
        used = set(re.findall(r"\bLLAVA_[A-Z_]+(?=[:=\s,])", path.read_text()))
        assert used - {"LLAVA_TAG"} <= VARIABLES, path


@pytest.mark.parametrize("version", ["1.30", "1.34", "1.37"])
def test_manifests_are_kubernetes_s(version: str) -> None:
    checked = 0
    for document in documents():
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked >= 7


def test_a_wrong_manifest_is_refused() -> None:
    deployment = of_kind("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.34", strict=True)


def test_every_kustomization_has_every_manifest_beside_it() -> None:
    for path in BASE.rglob("kustomization.yaml"):
        listed = yaml.safe_load(path.read_text())["resources"]
        beside = [p.name for p in path.parent.glob("*.yaml") if p.name != "kustomization.yaml"]
        assert sorted(listed) == sorted(beside), path


def test_a_bare_cluster_takes_the_base(tmp_path: Path) -> None:
    """It knows nothing of the Prometheus operator, and its volumes are for one node."""
    made = kustomized(folder=tmp_path)
    assert {each["apiVersion"].split("/")[0] for each in made} <= {
        *("v1", "apps", "policy", "networking.k8s.io"),
    }
    (claim,) = (each for each in made if each["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    (deployment,) = (each for each in made if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/l:7"


def test_components_add_what_they_are_for(tmp_path: Path) -> None:
    made = kustomized("prometheus-operator", "autoscaler", folder=tmp_path)
    assert {"PodMonitor", "HorizontalPodAutoscaler"} <= {each["kind"] for each in made}


def test_manifests_find_each_other() -> None:
    deployment = of_kind("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    (container,) = deployment["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert of_kind("Service")["spec"]["selector"] == labels
    assert {port["targetPort"] for port in of_kind("Service")["spec"]["ports"]} <= ports
    monitor = of_kind("PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == labels
    assert {each["port"] for each in monitor["podMetricsEndpoints"]} <= ports
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        spec = of_kind(kind)["spec"]
        assert (spec.get("podSelector") or spec["selector"])["matchLabels"] == labels
    scaler = of_kind("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == of_kind("Deployment")["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in deployment["template"]["spec"]["volumes"]
    }


def test_probes_and_scrapes_ask_for_paths_that_there_are() -> None:
    (container,) = of_kind("Deployment")["spec"]["template"]["spec"]["containers"]
    asked = {container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    asked |= {each["path"] for each in of_kind("PodMonitor")["spec"]["podMetricsEndpoints"]}
    app = create_app(FakeEngine(), ApiOptions())
    for path in asked:
        assert call(app, "GET", path).status_code == 200, path


def test_the_pod_may_do_next_to_nothing() -> None:
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context["allowPrivilegeEscalation"]
    assert not pod["automountServiceAccountToken"]
    user = pod["securityContext"]["runAsUser"]
    for path in DOCKERFILES:
        assert f"USER {user}:{user}" in path.read_text(), "the same user in image and pod"


def test_compose_is_of_the_compose_specification() -> None:
    # As compose does before it reads: ${NAME:-default}, and ${NAME:?what is missing}.
    raw = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", raw)
    compose = PyCompose.from_yaml(text)
    compose.validate()
    assert sorted(compose.service_names()) == ["grafana", "prometheus", "server"]
    cuda = re.sub(r"\$\{\w+:[-?]([^}]*)\}", r"\1", (DEPLOY / "compose.cuda.yaml").read_text())
    PyCompose.from_yaml(cuda).validate()
    with pytest.raises(Exception, match="readonly"):
        PyCompose.from_yaml(text.replace("read_only:", "readonly:"))


def test_compose_mounts_and_builds_what_is_there() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    build = services["server"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        for volume in service["volumes"]:
            if volume.startswith("."):
                assert (DEPLOY / volume.split(":")[0]).is_dir(), volume
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (config,) = scrape["scrape_configs"]
    assert config["static_configs"] == [{"targets": ["server:8000"]}]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_pass_hadolint(path: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint's package has no build for this machine")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_copy_what_is_there_and_not_ignored(path: Path) -> None:
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert sources == kept
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_the_health_check_that_they_copy(path: Path) -> None:
    text = path.read_text()
    assert "COPY deploy/docker/health.py /opt/llava-server/" in text
    assert 'CMD ["python", "/opt/llava-server/health.py"]' in text


def _check_health(port: str) -> int:
    command = [sys.executable, DEPLOY / "docker" / "health.py"]
    environ = {**os.environ, "LLAVA_PORT": port}
    return subprocess.run(command, env=environ, capture_output=True, check=False).returncode


def test_the_image_s_health_check_asks_the_port_of_the_settings(demo: LiveServer) -> None:
    assert _check_health(demo.url.rpartition(":")[2]) == 0
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert _check_health(str(silent.getsockname()[1])) != 0


def test_the_unit_is_systemd_s(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze here")
    unit = tmp_path / UNIT.name
    # Nothing is installed in /opt where this runs.
    unit.write_text(
        UNIT.read_text().replace("/opt/llava-server/.venv/bin/llava-server", "/bin/true")
    )
    drop_in = tmp_path / f"{UNIT.name}.d" / "gpu.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((UNIT.parent / "llava-server-gpu.conf").read_text())
    activation = tmp_path / "llava-server.socket"
    activation.write_text((UNIT.parent / activation.name).read_text())
    done = subprocess.run(
        [program, "verify", "--man=no", unit, activation],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_unit_runs_a_command_of_ours() -> None:
    command = re.search(r"(?m)^ExecStart=\S+/llava-server (.*)$", UNIT.read_text())
    assert command is not None
    done = subprocess.run(
        [sys.executable, "-m", "server", *command[1].split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
