"""compose.yaml against the specification, and the limits that it must keep."""

from __future__ import annotations

import copy
import ipaddress
from pathlib import Path
from typing import Any

import pytest

from ffrt.cli.main import main
from ffrt.serve.limits import Limits
from tests.deploy.checks import DEPLOY, documents, run, written

FILE = DEPLOY / "compose.yaml"
(COMPOSE,) = documents(FILE)
SERVERS = ["cpu", "cuda"]


def check(path: Path) -> tuple[int, str]:
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
    return done.returncode, done.stdout + done.stderr


def test_it_is_what_the_specification_says() -> None:
    assert check(FILE)[0] == 0


@pytest.mark.parametrize("fault", [{"port": ["8000"]}, {"restart": 3}, {"stop_grace_period": ["60s"]}])
def test_a_faulty_one_is_refused(tmp_path: Path, fault: dict[str, Any]) -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["cpu"].update(fault)
    status, said = check(written(tmp_path, "compose.json", wrong))
    assert status != 0 and next(iter(fault)) in said


def test_every_port_is_for_this_machine_alone() -> None:
    ports = [port for one in COMPOSE["services"].values() for port in one["ports"]]
    assert len(ports) == 4
    for port in ports:
        assert ipaddress.ip_address(port.split(":")[0]).is_loopback


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_has_time_to_drain_and_a_volume_and_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    assert float(service["stop_grace_period"].removesuffix("s")) > Limits().drain_s + 10
    assert service["volumes"] == ["data:/data"] and "data" in COMPOSE["volumes"]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", SERVERS)
def test_the_files_that_a_service_names_are_there(name: str) -> None:
    build = COMPOSE["services"][name]["build"]
    assert (FILE.parent / build["context"] / build["dockerfile"]).is_file()
    mounted = [volume.split(":")[0] for one in COMPOSE["services"].values() for volume in one["volumes"]]
    assert all((FILE.parent / path).exists() for path in mounted if path.startswith("./"))


def test_its_arguments_are_flags_of_the_server(tmp_path: Path) -> None:
    for name in SERVERS:
        assert main(["serve", "--data", str(tmp_path), *COMPOSE["services"][name]["command"], "keys", "list"]) == 0


def test_only_the_gpu_service_takes_gpus() -> None:
    (device,) = COMPOSE["services"]["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in COMPOSE["services"]["cpu"]
