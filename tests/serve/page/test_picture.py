"""The picture that a video begins with, where the card of the bundle says that it follows one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.serve.fakes import Running
from tests.serve.page.scripts import makes
from tests.serve.page.steps import PROMPT, ask, until_done

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 20, 20)).save(file, "PNG")
    return file.getvalue()


def with_picture(page: Any) -> None:
    """Let the server say that its bundle follows a picture, and that its videos began with one."""

    def changed(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for one in body["data"]:
            one.update({"takes_picture": True} if "presets" in one else {"asked": {**one["asked"], "picture": True}})
        route.fulfill(response=answer, json=body)

    page.route("**/v1/models", changed)
    page.route("**/v1/videos?*", changed)
    page.reload()


def test_a_picture_is_shown_sent_and_taken_away(running: Start, opened: Open) -> None:
    page = opened(running(makes).url, may_be_refused=True)
    with_picture(page)
    field = page.get_by_label("Picture to begin with (optional)")
    field.set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    expect(page.locator("#input_reference-error")).to_have_text("Expected a PNG, JPEG or WebP.")
    field.set_input_files({"name": "../../a.png", "mimeType": "image/png", "buffer": png()})
    expect(page.get_by_alt_text("The picture to begin with")).to_have_js_property("naturalWidth", 16)
    with page.expect_request("**/v1/videos") as sent:
        ask(page)
    assert b'name="input_reference"; filename="' in sent.value.post_data_buffer
    # the real bundle of this server follows none, and says so at the right place
    expect(page.locator("#input_reference-error")).to_contain_text("this bundle makes keyframes of text alone")
    expect(field).to_be_focused()
    page.get_by_role("button", name="Remove picture").click()
    expect(page.get_by_alt_text("The picture to begin with")).to_be_hidden()
    ask(page)
    until_done(page)


def test_again_of_a_video_with_a_picture_asks_for_the_picture(running: Start, opened: Open) -> None:
    server = running(makes)
    with server.client() as client:
        id = client.post("/v1/videos", json={"prompt": PROMPT, "cache_interval": 1}).json()["id"]
    server.until(lambda: server.state(id) == "completed")
    page = opened(server.url)
    with_picture(page)
    page.get_by_role("button", name="Again with another seed").click()
    expect(page.get_by_label("What should the video show?")).to_have_value(PROMPT)
    expect(page.locator("#input_reference-error")).to_contain_text("Choose it again.")
    expect(page.get_by_role("alert")).to_contain_text("cache_interval 1")
    assert len(server.executor.ran) == 1
