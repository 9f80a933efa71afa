"""A real server process with a real worker: what it makes is what the pipeline makes, and it ends as it should."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from ffrt import Bundle, Pipeline
from ffrt.media.metadata import read_metadata
from tests.serve.processes import ServerProcess, alive, environment, serving, until

ASK = {"prompt": "a red circle moving right", "seed": 7}


@pytest.fixture(scope="module")
def server(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tiny.folder, tmp_path_factory.mktemp("server") / "data") as started:
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def completed(client: httpx.Client, **fields: object) -> dict[str, object]:
    id = client.post("/v1/videos", json={**ASK, **fields}).json()["id"]
    until(lambda: client.get(f"/v1/videos/{id}").json()["status"] in ("completed", "failed"))
    return client.get(f"/v1/videos/{id}").json()


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("output", ["mp4", "webm", "gif"])
def test_a_video_is_the_one_that_the_pipeline_makes(
    client: httpx.Client, pipe: Pipeline, tmp_path: Path, output: str
) -> None:
    video = completed(client, output_format=output)
    served, own = tmp_path / f"served.{output}", tmp_path / f"own.{output}"
    served.write_bytes(client.get(f"/v1/videos/{video['id']}/content").content)
    pipe(str(ASK["prompt"]), seed=7).save(own)
    # x264 now and then chooses otherwise for frames this small, and a gif of the same frames is the same file
    far = np.abs(decoded(served).astype(int) - decoded(own)).mean()
    assert served.read_bytes() == own.read_bytes() if output == "gif" else far < 4
    assert read_metadata(served) == read_metadata(own)
    assert video["warnings"] == [] and video["attempt"] == 1


def test_pictures_of_a_video_can_be_seen(client: httpx.Client) -> None:
    from io import BytesIO

    from PIL import Image

    video = completed(client, fps=30)
    for variant, size in (("thumbnail", (32, 32)), ("spritesheet", (6 * 32, 6 * 32))):
        answer = client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
        assert Image.open(BytesIO(answer.content)).size == size


def test_a_prompt_that_was_cut_is_told(client: httpx.Client) -> None:
    video = completed(client, prompt="red " * 30)
    assert len(video["warnings"]) == 1 and "tokens" in video["warnings"][0]


def test_a_worker_that_is_killed_is_replaced_and_its_job_done(server: ServerProcess, client: httpx.Client) -> None:
    slow = {"num_inference_steps": 100, "fps": 30}
    id = client.post("/v1/videos", json={**ASK, **slow}).json()["id"]
    until(lambda: client.get(f"/v1/videos/{id}").json()["status"] == "in_progress")
    (before,) = server.workers()
    os.kill(before, signal.SIGKILL)
    until(lambda: client.get(f"/v1/videos/{id}").json()["status"] == "completed")
    assert client.get(f"/v1/videos/{id}").json()["attempt"] == 2
    (after,) = server.workers()
    assert after != before
    text = client.get("/metrics").text
    assert 'ffrt_jobs_requeued_total{reason="worker_lost"} 1.0' in text


def test_a_running_job_is_cancelled_and_the_next_one_is_unharmed(client: httpx.Client) -> None:
    slow = {"num_inference_steps": 100, "fps": 30}
    first = client.post("/v1/videos", json={**ASK, **slow}).json()["id"]
    second = client.post("/v1/videos", json=ASK).json()["id"]
    until(lambda: client.get(f"/v1/videos/{first}").json()["status"] == "in_progress")
    assert client.post(f"/v1/videos/{first}/cancel").json()["state"] == "cancelled"
    until(lambda: client.get(f"/v1/videos/{second}").json()["status"] == "completed")
    assert client.get(f"/v1/videos/{first}").json()["state"] == "cancelled"


def test_files_are_for_their_owner_alone(server: ServerProcess, client: httpx.Client) -> None:
    completed(client)
    data = Path(server.process.args[server.process.args.index("--data") + 1])  # type: ignore[union-attr,index]
    assert data.stat().st_mode & 0o077 == 0
    assert [path for path in data.rglob("*") if path.stat().st_mode & 0o077] == []


def test_it_drains_with_a_stream_open_and_exits_with_0(tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data", "--drain", "60") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            slow = {"num_inference_steps": 100, "fps": 30}
            id, later = (client.post("/v1/videos", json={**ASK, **slow}).json()["id"] for _ in range(2))
            workers = server.workers()
            until(lambda: client.get(f"/v1/videos/{id}").json()["status"] == "in_progress")
            with client.stream("GET", f"/v1/videos/{later}/events") as stream:
                lines = stream.iter_lines()
                assert next(lines) == "event: queued"
                os.kill(server.pid, signal.SIGTERM)
                assert "event: shutdown" in list(lines)
        assert server.process.wait(120) == 0
        assert not any(alive(pid) for pid in workers)
    with serving(tiny.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get(f"/v1/videos/{id}").json()["status"] == "completed", "a running job had its time"
        until(lambda: client.get(f"/v1/videos/{later}").json()["status"] == "completed")
        assert client.get(f"/v1/videos/{later}").json()["attempt"] == 1


def test_more_connections_at_once_than_files_may_be_open_stop_nothing(
    server: ServerProcess, client: httpx.Client
) -> None:
    log = Path(server.process.args[server.process.args.index("--data") + 1]).with_name("server.log")  # type: ignore[union-attr,index]
    ours, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("this process may open too few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(ours, 2000), hard))
    theirs = resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (1024, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (ours, hard))
        stack.callback(resource.prlimit, server.pid, resource.RLIMIT_NOFILE, theirs)
        os.kill(server.pid, signal.SIGSTOP)  # so that all of them wait
        for _ in range(1300):
            connecting = stack.enter_context(socket.socket())
            connecting.setblocking(False)
            connecting.connect_ex(("127.0.0.1", httpx.URL(server.url).port))
        os.kill(server.pid, signal.SIGCONT)
        assert client.get("/health").status_code == 200
    assert "out of system resource" not in log.read_text()


def test_a_second_server_on_a_folder_says_who_holds_it(server: ServerProcess, tiny: Bundle) -> None:
    data = server.process.args[server.process.args.index("--data") + 1]  # type: ignore[union-attr,index]
    line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(tiny.folder), "--data", data, "--port", "0"]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"held by another server (process {server.pid})" in done.stderr


def test_a_port_that_is_taken_and_a_missing_bundle_are_errors(server: ServerProcess, tmp_path: Path) -> None:
    port = server.url.rsplit(":", 1)[1]
    line = [sys.executable, "-m", "ffrt", "serve", "--data", str(tmp_path / "d"), "--port", port]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False) and "choose another --port" in done.stderr
    line = [sys.executable, "-m", "ffrt", "serve", "--bundle", str(tmp_path / "none"), "--data", str(tmp_path / "d")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
