"""The official `openai` client against a real server: create, poll, list, content, delete, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle, Pipeline
from tests.serve.processes import ServerProcess, serving

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client marks its calls of videos so


@pytest.fixture(scope="module")
def server(tiny: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    """A server with a key, and the key."""
    from ffrt.serve.keys import add_key

    folder = tmp_path_factory.mktemp("openai")
    key = add_key(folder / "keys", "me")
    with serving(tiny.folder, folder / "data", "--keys", str(folder / "keys")) as started:
        yield started, key


@pytest.fixture
def client(server: tuple[ServerProcess, str]) -> Iterator[Any]:
    with openai.OpenAI(api_key=server[1], base_url=f"{server[0].url}/v1", max_retries=0) as opened:
        yield opened


def test_create_poll_and_download(client: Any, pipe: Pipeline, tmp_path: Path) -> None:
    video = client.videos.create_and_poll(
        prompt="a red circle",
        model="tiny",
        seconds="1",
        size="32x32",
        extra_body={"seed": 7, "fps": 8, "output_format": "gif"},
    )
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "32x32", "1")
    assert video.model_extra["state"] == "completed" and video.model_extra["seed"] == 7
    content = client.videos.download_content(video.id)
    pipe("a red circle", seed=7).save(tmp_path / "own.gif")
    assert content.read() == (tmp_path / "own.gif").read_bytes()
    for variant in ("thumbnail", "spritesheet"):
        assert client.videos.download_content(video.id, variant=variant).read().startswith(b"RIFF")


def test_pages_of_a_list_go_to_its_end(client: Any) -> None:
    made = [client.videos.create(prompt="a red circle", extra_body={"seed": i}).id for i in range(5)]
    assert [video.id for video in client.videos.list(limit=2)][:5] == made[::-1]


def test_delete_and_what_is_not_there(client: Any) -> None:
    video = client.videos.create_and_poll(prompt="a red circle")
    assert client.videos.delete(video.id).deleted is True
    with pytest.raises(openai.NotFoundError) as missing:
        client.videos.retrieve(video.id)
    assert missing.value.code == "not_found"


def test_errors_have_their_class_and_name_their_field(server: tuple[ServerProcess, str], client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.videos.create(prompt="a red circle", seconds="12")
    assert (bad.value.code, bad.value.param) == ("invalid_value", "seconds")
    with pytest.raises(openai.NotFoundError) as unknown:
        client.videos.create(prompt="a red circle", model="sora-2")
    assert unknown.value.code == "model_not_found"
    stranger = openai.OpenAI(api_key="ffrt_wrong", base_url=f"{server[0].url}/v1", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.videos.list()
    picture = ("../../evil name.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png")
    with pytest.raises(openai.BadRequestError) as reference:
        client.videos.create(prompt="a red circle", input_reference=picture)
    assert reference.value.code == "unsupported_reference"


def test_an_idempotency_key_makes_a_repeat_harmless(client: Any) -> None:
    header = {"Idempotency-Key": "one"}
    first, again = (client.videos.create(prompt="a red circle", extra_headers=header) for _ in range(2))
    assert first.id == again.id


def test_the_bundle_is_the_model(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").model_extra["fps"] == [2, 8, 30]
