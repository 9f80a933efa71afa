"""What is refused before a job runs: no cluster, no token, a wrong one, one that asks for none; and other versions."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ffrt import Bundle, RequestError
from ffrt.errors import PackageError
from ffrt.serve.engine import ray_connect
from ffrt.serve.engine.ray_actors import Facts
from tests.serve.processes import needs_ray, until
from tests.serve.ray.cluster import LoopbackCluster, free_port


def told(tiny: Bundle, data: Path, environment: Mapping[str, str], *flags: str) -> str:
    """What a server says that does not start."""
    line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(tiny.folder), "--data", str(data), "--port", "0"]
    done = subprocess.run(
        [*line, "--engine", "ray", *flags], env={**environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("address", [None, "", "here", "here:", ":6379", "here:0", "here:65536", "ray://here:10001"])
def test_an_address_is_a_host_and_a_port(address: str | None) -> None:
    with pytest.raises(RequestError, match=r"ray_address: expected HOST:PORT .* got .*; 'ray start --head"):
        ray_connect.checked_address(address)


@pytest.mark.parametrize(("address", "host"), [("10.0.0.1:6379", "10.0.0.1"), ("[::1]:6379", "[::1]")])
def test_addresses_of_both_kinds_are_taken(address: str, host: str) -> None:
    assert ray_connect.checked_address(address) == (host, 6379)


def test_without_ray_it_is_said_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(ray_connect, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(PackageError, match=r"pip install 'ffrt\[ray\]'"), ray_connect.connected("127.0.0.1:1"):
        pass


def test_differences_are_told_with_both_values() -> None:
    ours = Facts("0.1.0", "3.11", "2.60.0", "a" * 64)
    assert ours.differences(ours) == ""
    assert Facts("0.2.0", "3.11", "2.60.0", "b" * 64).differences(ours) == (
        f"expected ffrt 0.1.0, got 0.2.0, expected bundle {'a' * 12}, got {'b' * 12}"
    )


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("RuntimeError: Version mismatch: The cluster was started with: Ray: 2.59.0", "runs other versions"),
        ("ERROR ConnectionError Failed to connect", "must be one of it"),
        ("", "it said nothing"),
    ],
)
def test_other_ways_to_fail_say_what_came(said: str, word: str) -> None:
    with pytest.raises(ray_connect.ServeError, match=word):
        ray_connect.check_ours("here:6379", said)


@pytest.mark.slow
@needs_ray
def test_a_server_without_a_cluster_says_how_to_start_one(tiny: Bundle, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    text = told(tiny, tmp_path / "data", environment)
    assert "--ray-address: expected HOST:PORT" in text
    port = free_port()
    text = told(tiny, tmp_path / "data", environment, "--ray-address", f"127.0.0.1:{port}")
    assert f"no Ray cluster at 127.0.0.1:{port}" in text and "ray start --head" in text


@pytest.mark.slow
@needs_ray
def test_a_cluster_with_a_token_lets_in_who_has_it(tiny: Bundle, loopback: LoopbackCluster, tmp_path: Path) -> None:
    given = {name: value for name, value in loopback.environment.items() if not name.startswith("RAY_AUTH_")}
    flags = ("--ray-address", loopback.address)
    assert "the cluster's token is not here" in told(tiny, tmp_path / "data", given, *flags)
    text = told(tiny, tmp_path / "data", {**given, "RAY_AUTH_TOKEN": "0" * 64}, *flags)
    assert "refuses the token that is here" in text
    text = told(tiny, tmp_path / "data", {**given, "RAY_AUTH_MODE": "disabled"}, *flags, "--insecure-ray")
    assert "refuses the token that is here" in text, "a flag opens nothing"
    text = told(tiny, tmp_path / "data", loopback.environment, *flags, "--provider", "cuda")
    assert "--ray-places: the cluster has no GPU" in text and "--num-gpus" in text


@pytest.mark.slow
@needs_ray
def test_a_cluster_without_a_token_is_refused_unless_it_is_typed(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    open_to_all = LoopbackCluster(tmp_path / "open", token=False)
    try:
        flags = ("--ray-address", open_to_all.address)
        text = told(tiny, tmp_path / "data", open_to_all.environment, *flags)
        assert "--insecure-ray: the cluster at" in text and "RAY_AUTH_MODE=token" in text
        text = told(tiny, tmp_path / "data", open_to_all.environment, *flags, "--insecure-ray")
        assert "--ray-places: the cluster has no machine" in text, "it was let in"
    finally:
        open_to_all.close()


@pytest.mark.slow
@needs_ray
def test_a_place_with_another_bundle_is_refused(loopback: LoopbackCluster, own_bundle: Bundle) -> None:
    with loopback.executor(own_bundle, count=1, digest="0" * 64) as executor:
        until(lambda: "expected bundle" in str(executor.places()[0].why))
        why = str(executor.places()[0].why)
        assert f"expected bundle {'0' * 12}, got {own_bundle.digest[:12]}" in why and "127.0.0." in why
        assert not executor.places()[0].ready


@pytest.mark.slow
@needs_ray
def test_a_bundle_that_a_machine_does_not_have_is_told(loopback: LoopbackCluster, own_bundle: Bundle) -> None:
    manifest = own_bundle.folder / "manifest.json"
    manifest.rename(own_bundle.folder / "elsewhere.json")
    with loopback.executor(own_bundle, count=1) as executor:
        until(lambda: "got none" in str(executor.places()[0].why))


@pytest.mark.slow
@needs_ray
def test_a_machine_with_another_version_is_refused_and_the_others_work(
    loopback: LoopbackCluster, tiny: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import ffrt\nffrt.__version__ = '9.9.9'\n")
    paths = os.pathsep.join([str(tmp_path), loopback.environment["PYTHONPATH"]])
    loopback.add("127.0.0.5", environment={"PYTHONPATH": paths})
    try:
        with loopback.executor(tiny) as executor:
            until(lambda: any("got 9.9.9" in str(place.why) for place in executor.places()))
            until(lambda: sum(place.ready for place in executor.places()) == 2)
            (refused,) = [place for place in executor.places() if not place.ready]
            assert "127.0.0.5: expected ffrt" in str(refused.why)
    finally:
        loopback.kill("127.0.0.5")
