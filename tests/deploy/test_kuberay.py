"""The Ray cluster: its own fields by a schema of ours, its pods by that of Kubernetes, and who may reach it.

kubernetes-validate knows no RayCluster: it warns and exits with 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt.cli.main import main
from tests.deploy.checks import DEPLOY, containers, documents, run, written
from tests.deploy.test_kubernetes import faults_of

FOLDER = DEPLOY / "kuberay"
SCHEMA = Path(__file__).with_name("raycluster.schema.json")
(CLUSTER,) = documents(FOLDER / "cluster.yaml")
HEAD = CLUSTER["spec"]["headGroupSpec"]
(GROUP,) = CLUSTER["spec"]["workerGroupSpecs"]
PODS = [HEAD["template"], GROUP["template"]]
KINDS = ["head", "worker"]


def check_cluster(path: Path) -> tuple[int, str]:
    done = run("check-jsonschema", "--schemafile", SCHEMA, path)
    return done.returncode, done.stdout + done.stderr


def check_pod(folder: Path, template: Any) -> tuple[int, str]:
    """A template as the pod that is made of it."""
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "one"}}
    done = run("kubernetes-validate", "--strict", written(folder, "pod.yaml", pod))
    return done.returncode, done.stdout + done.stderr


def test_the_cluster_has_the_fields_that_kuberay_knows() -> None:
    assert check_cluster(FOLDER / "cluster.yaml")[0] == 0


def number_as_parameter(wrong: Any) -> None:
    wrong["spec"]["headGroupSpec"]["rayStartParams"]["num-gpus"] = 0


def misspelt(wrong: Any) -> None:
    wrong["spec"]["workerGroupSpec"] = wrong["spec"].pop("workerGroupSpecs")


def no_template(wrong: Any) -> None:
    del wrong["spec"]["workerGroupSpecs"][0]["template"]


@pytest.mark.parametrize("fault", [number_as_parameter, misspelt, no_template])
def test_a_faulty_cluster_is_refused(tmp_path: Path, fault: Callable[[Any], None]) -> None:
    wrong = copy.deepcopy(CLUSTER)
    fault(wrong)
    assert check_cluster(written(tmp_path, "cluster.yaml", wrong))[0] != 0


@pytest.mark.parametrize("pod", PODS, ids=KINDS)
def test_its_pods_are_what_kubernetes_takes(tmp_path: Path, pod: Any) -> None:
    status, said = check_pod(tmp_path, pod)
    assert status == 0 and "passed for resource pod/one" in said
    wrong = copy.deepcopy(pod)
    wrong["spec"]["containers"][0]["volumeMount"] = []
    assert check_pod(tmp_path, wrong)[0] != 0


@pytest.mark.parametrize("pod", PODS, ids=KINDS)
def test_its_pods_run_without_rights(pod: Any) -> None:
    assert faults_of(pod) == []


@pytest.mark.parametrize("pod", PODS, ids=KINDS)
def test_every_container_takes_part_with_the_token_of_one_secret(pod: Any) -> None:
    for one in containers(pod):
        environment = {variable["name"]: variable for variable in one["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert environment["RAY_AUTH_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "ffrt-ray", "key": "auth_token"}}
        assert environment["RAY_USAGE_STATS_ENABLED"]["value"] == "0"


def test_the_head_has_no_place_and_each_worker_one_gpu() -> None:
    assert (HEAD["rayStartParams"]["num-gpus"], HEAD["rayStartParams"]["num-cpus"]) == ("0", "0")
    assert all("nvidia.com/gpu" not in one["resources"]["limits"] for one in containers(HEAD["template"]))
    (worker,) = containers(GROUP["template"])
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1 and GROUP["rayStartParams"]["num-gpus"] == "1"


def test_the_server_sits_beside_the_head_and_asks_for_as_many_places_as_there_are_workers() -> None:
    ray, server = containers(HEAD["template"])
    assert (ray["name"], server["name"]) == ("ray-head", "ffrt")
    assert {"name": "ray", "mountPath": "/tmp/ray"} in [*ray["volumeMounts"]]
    assert {"name": "ray", "mountPath": "/tmp/ray"} in [*server["volumeMounts"]], "the sockets of Ray"
    assert f"--ray-places={GROUP['replicas']}" in server["args"] and "--engine=ray" in server["args"]
    assert "--provider=cuda" in server["args"], "auto would take processors while no worker is there"
    assert "--insecure-ray" not in server["args"]
    assert GROUP["minReplicas"] == GROUP["replicas"] == GROUP["maxReplicas"], "nobody scales it"


def test_nobody_but_its_own_pods_reaches_the_ports_of_ray() -> None:
    own, clients = documents(FOLDER / "network.yaml")
    every = {"matchLabels": {"ray.io/cluster": CLUSTER["metadata"]["name"]}}
    assert own["spec"]["podSelector"] == every and set(own["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert own["spec"]["ingress"] == [{"from": [{"podSelector": every}]}]
    assert [rule["ports"] for rule in clients["spec"]["ingress"]] == [[{"port": 8000}]]


def test_the_service_is_that_of_the_head() -> None:
    (service,) = documents(FOLDER / "service.yaml")
    assert service["spec"]["selector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"], "ray.io/node-type": "head"}


def test_workers_find_the_head_before_it_is_ready() -> None:
    """Its server is ready when they are; so the service of the operator stays as it is, and its labels too."""
    assert not {"serviceType", "headService"} & set(HEAD) and "metadata" not in HEAD["template"]


def test_the_arguments_of_the_server_are_flags_of_it(tmp_path: Path) -> None:
    _, server = containers(HEAD["template"])
    line = [*server["command"][1:], *server["args"]]
    assert line[0] == "serve"
    placed = [str(tmp_path) if word == "/data" else word.replace("/run/keys", str(tmp_path)) for word in line]
    assert main([*placed, "keys", "list"]) == 0
