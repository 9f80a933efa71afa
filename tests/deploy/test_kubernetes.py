"""The manifests for Kubernetes against its schemas, and what they must say for a server to keep its word."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt.cli.main import main
from ffrt.serve.limits import Limits
from tests.deploy.checks import DEPLOY, containers, documents, run, values, written

FOLDER = DEPLOY / "k8s"
FILES = sorted([*FOLDER.glob("*.yaml"), *(DEPLOY / "kuberay").glob("*.yaml")])
(DEPLOYMENT,) = documents(FOLDER / "server.yaml")
POD = DEPLOYMENT["spec"]["template"]


def check(path: Path) -> tuple[int, str]:
    done = run("kubernetes-validate", "--strict", path)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "cluster.yaml"], ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_takes(path: Path) -> None:
    status, said = check(path)
    assert status == 0 and said.count("passed for resource") == len(documents(path)) and "WARN" not in said


def unknown_key(wrong: Any) -> None:
    wrong["spec"]["template"]["spec"]["containers"][0]["probe"] = {}


def wrong_probe(wrong: Any) -> None:
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] = {"name": "http"}


def no_selector(wrong: Any) -> None:
    del wrong["spec"]["selector"]


@pytest.mark.parametrize("fault", [unknown_key, wrong_probe, no_selector])
def test_a_faulty_manifest_is_refused(tmp_path: Path, fault: Callable[[Any], None]) -> None:
    wrong = copy.deepcopy(DEPLOYMENT)
    fault(wrong)
    assert check(written(tmp_path, "wrong.yaml", wrong))[0] != 0


def faults_of(pod: Any) -> list[str]:
    """What lets the processes of a pod do more than they need."""
    found = []
    if (
        pod["spec"]["securityContext"].get("runAsNonRoot") is not True
        or pod["spec"]["securityContext"]["runAsUser"] == 0
    ):
        found.append("root")
    if pod["spec"].get("automountServiceAccountToken") is not False:
        found.append("a token of the cluster")
    for one in containers(pod):
        context = one["securityContext"]
        if context.get("allowPrivilegeEscalation") is not False or context["capabilities"]["drop"] != ["ALL"]:
            found.append(f"rights of {one['name']}")
    return found


def test_a_server_runs_without_rights() -> None:
    assert faults_of(POD) == []
    wrong = copy.deepcopy(POD)
    wrong["spec"]["securityContext"]["runAsUser"] = 0
    assert faults_of(wrong) == ["root"]


def test_one_pod_at_a_time_holds_the_volume() -> None:
    assert DEPLOYMENT["spec"]["replicas"] == 1 and DEPLOYMENT["spec"]["strategy"] == {"type": "Recreate"}
    assert POD["spec"]["terminationGracePeriodSeconds"] > Limits().drain_s + 10


def test_probes_ask_the_two_routes_and_a_full_disk_ends_no_server() -> None:
    (server,) = containers(POD)
    paths = {name: probe["httpGet"]["path"] for name, probe in server.items() if name.endswith("Probe")}
    assert paths == {"startupProbe": "/health", "readinessProbe": "/health/ready", "livenessProbe": "/health"}


def test_names_of_one_manifest_are_those_of_the_others() -> None:
    (service,), (volume,), (network,) = (documents(FOLDER / f"{n}.yaml") for n in ("service", "volume", "network"))
    labels = POD["metadata"]["labels"]
    assert labels == DEPLOYMENT["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert network["spec"]["podSelector"]["matchLabels"] == labels
    (server,) = containers(POD)
    named = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert named == {service["spec"]["ports"][0]["targetPort"]: 8000}
    claims = [
        one["persistentVolumeClaim"]["claimName"] for one in POD["spec"]["volumes"] if "persistentVolumeClaim" in one
    ]
    assert claims == [volume["metadata"]["name"]]
    assert {one["name"] for one in server["volumeMounts"]} == {one["name"] for one in POD["spec"]["volumes"]}
    assert service["metadata"]["name"] in server["args"], "clients call it by the name of the service"


def test_the_keys_come_from_a_secret_that_a_server_can_read() -> None:
    (secret,) = [one["secret"] for one in POD["spec"]["volumes"] if "secret" in one]
    assert secret["secretName"] == "ffrt-keys" and secret["defaultMode"] & 0o037 == 0


def test_the_server_reaches_nothing_and_clients_reach_it() -> None:
    (network,) = documents(FOLDER / "network.yaml")
    assert network["spec"]["egress"] == [] and set(network["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert all(rule["from"] for rule in network["spec"]["ingress"])


def test_its_arguments_are_flags_of_the_server(tmp_path: Path) -> None:
    (server,) = containers(POD)
    args = [str(tmp_path / "keys") if word.startswith("/run/") else word for word in server["args"]]
    assert main(["serve", "--data", str(tmp_path), *args, "keys", "list"]) == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_image_names_a_registry_or_no_version(path: Path) -> None:
    images = [one["image"] for document in documents(path) for one in _containers_in(document)]
    assert all(image.startswith("ffrt:") for image in images)
    assert "latest" not in [str(value).rpartition(":")[2] for document in documents(path) for value in values(document)]


def _containers_in(node: Any) -> list[Any]:
    if isinstance(node, dict):
        own = node.get("containers", [])
        return [*own, *[one for value in node.values() for one in _containers_in(value)]]
    return [one for value in node for one in _containers_in(value)] if isinstance(node, list) else []
