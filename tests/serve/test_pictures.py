"""A picture to begin with, for a bundle that follows one: sent as a file or inside of JSON, decoded by the worker."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from ffrt import Bundle, Pipeline
from tests.serve.processes import ServerProcess, serving, until

pytestmark = pytest.mark.slow
ASK = {"prompt": "a red circle", "seed": 7, "fps": 2, "num_inference_steps": 2, "output_format": "gif"}


def png(height: int, width: int) -> bytes:
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    return file.getvalue()


def ended(client: httpx.Client, answer: httpx.Response) -> dict[str, object]:
    assert answer.status_code == 200, answer.text
    path = f"/v1/videos/{answer.json()['id']}"
    until(lambda: client.get(path).json()["status"] in ("completed", "failed"), 300)
    return client.get(path).json()


def kept(server: ServerProcess) -> list[str]:
    data = Path(server.process.args[server.process.args.index("--data") + 1])  # type: ignore[union-attr,index]
    return [path.name for path in (data / "references").iterdir()]


def test_a_video_follows_the_picture_that_was_sent(kv11: Bundle, tmp_path: Path) -> None:
    side = 2 * kv11.video.size_multiple
    picture, asked = png(side, side), {**ASK, "size": f"{side}x{side}"}
    with Pipeline(kv11, provider="cpu", threads=1) as pipe:
        own = {key: value for key, value in ASK.items() if key != "output_format"}
        pipe.generate(image=io.BytesIO(picture), height=side, width=side, **own).save(tmp_path / "own.gif")  # type: ignore[arg-type]
    url = "data:image/png;base64," + base64.b64encode(picture).decode()
    with serving(kv11.folder, tmp_path / "data") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["takes_picture"] is True
        form = {name: (None, str(value)) for name, value in asked.items()}
        as_file = client.post("/v1/videos", files={**form, "input_reference": ("../../etc/passwd", picture)})
        as_json = client.post("/v1/videos", json={**asked, "input_reference": {"image_url": url}})
        as_field = client.post("/v1/videos", files={**form, "input_reference[image_url]": (None, url)})
        for answer in (as_file, as_json, as_field):
            video = ended(client, answer)
            assert video["error"] is None
            content = client.get(f"/v1/videos/{video['id']}/content").content
            assert content == (tmp_path / "own.gif").read_bytes()
        broken = ended(client, client.post("/v1/videos", files={**form, "input_reference": ("a.png", picture[:60])}))
        assert broken["error"]["code"] == "invalid_reference"  # type: ignore[index]
        small = ended(client, client.post("/v1/videos", files={**form, "input_reference": ("a.png", png(8, 8))}))
        assert len(small["warnings"]) == 1 and "smaller" in small["warnings"][0]  # type: ignore[arg-type,index]
        assert kept(server) == [], "pictures go with their work"
        headers = {"idempotency-key": "one"}
        first, again = (
            client.post("/v1/videos", files={**form, "input_reference": ("a.png", picture)}, headers=headers)
            for _ in range(2)
        )
        other = client.post("/v1/videos", files={**form, "input_reference": ("a.png", png(8, 8))}, headers=headers)
        assert (again.json()["id"], other.status_code) == (first.json()["id"], 422)
        ended(client, first)
        assert kept(server) == []
