"""The address, the gallery, scrubbing, and what can be done with a video that is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.fakes import Running
from tests.serve.page.scripts import FRAMES, makes, pauses
from tests.serve.page.steps import PROMPT, ask, shown, until_done

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]


def made(server: Running, *prompts: str, **fields: Any) -> list[str]:
    """Videos that are completed, in order; their ids."""
    with server.client() as client:
        ids = [client.post("/v1/videos", json={"prompt": one, **fields}).json()["id"] for one in prompts]
    server.until(lambda: {server.state(id) for id in ids} == {"completed"})
    return ids


def newest(server: Running) -> dict[str, Any]:
    with server.client() as client:
        return client.get("/v1/videos", params={"limit": 1}).json()["data"][0]


def test_the_form_offers_what_the_bundle_has_and_shows_its_defaults(running: Start, opened: Open) -> None:
    server = running(makes)
    with server.client() as client:
        card = client.get("/v1/models").json()["data"][0]
    page = opened(server.url)
    page.get_by_text("More options").click()
    rates = page.get_by_role("group", name="Frames per second").get_by_role("radio")
    assert rates.evaluate_all("all => all.map(one => one.value)") == [str(fps) for fps in card["fps"]]
    expect(page.locator("input[name=fps]:checked")).to_have_value(str(card["default_fps"]))
    own = card["defaults"]["quality"]
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("placeholder", str(own["num_inference_steps"]))
    expect(page.get_by_label("Steps", exact=True)).to_have_attribute("max", str(card["max_steps"]))
    expect(page.get_by_label("Sampler").locator("option")).to_have_count(1 + len(card["samplers"]))
    expect(page.get_by_label("Width in pixels")).to_have_attribute("placeholder", card["size"].split("x")[0])
    expect(page.get_by_text("Picture to begin with")).to_have_count(0)
    assert not card["takes_picture"]


def test_the_address_restores_the_form_and_the_video(running: Start, opened: Open) -> None:
    server = running(makes)
    first, _ = made(server, "circle 0", "circle 1")
    page = opened(server.url)
    page.get_by_text("More options").click()
    values = {
        "What should the video show?": "a “red” & <b>round</b> circle\nthat moves",
        "What should it not show?": "squares",
        "Seed": "9223372036854775807",
        "Steps": "3",
        "Guidance": "2.5",
        "Width in pixels": "64",
    }
    for label, value in values.items():
        page.get_by_label(label, exact=True).fill(value)
    page.locator("label", has=page.locator("input[name=preset][value=fast]")).click()
    page.locator("#gallery-list li", has_text="circle 0").get_by_role("link").click()
    expect(shown(page)).to_contain_text("circle 0")
    other = opened(page.url)
    expect(shown(other)).to_contain_text("circle 0")
    for label, value in values.items():
        expect(other.get_by_label(label, exact=True)).to_have_value(value)
    expect(other.locator("input[name=preset]:checked")).to_have_value("fast")
    page.locator("#gallery-list li", has_text="circle 1").get_by_role("link").click()
    expect(shown(page)).to_contain_text("circle 1")
    page.get_by_label("Seed").fill("8")
    page.go_back()
    expect(shown(page)).to_contain_text("circle 0")
    expect(page.get_by_label("Seed")).to_have_value("8")  # going back takes no words away
    assert first in page.url


@pytest.mark.parametrize("tail", ["#v=video_0", "#v=../../x&fps=7&preset=%00&seed=x&size=0&nothing=1", "#%%%", "#=&&="])
def test_an_address_that_says_nonsense_opens_the_page(running: Start, opened: Open, tail: str) -> None:
    page = opened(running(makes).url + "/" + tail)
    ask(page)
    if "seed=x" in tail:
        expect(page.get_by_label("Seed")).to_be_focused()
        expect(page.locator("#seed-error")).to_have_text("Expected digits only.")
    else:
        until_done(page)


def test_the_address_of_a_video_that_is_gone_says_so(running: Start, opened: Open) -> None:
    page = opened(running(makes).url + "/#v=video_" + "0" * 32, may_be_refused=True)
    expect(shown(page)).to_contain_text("There is no video at this address")


def test_more_shows_the_next_page(running: Start, opened: Open) -> None:
    server = running(makes, queue=64, queue_per_key=64, per_minute=1000)
    made(server, *[f"circle {i}" for i in range(30)])
    page = opened(server.url)
    expect(page.locator("#gallery-list li")).to_have_count(24)
    page.get_by_role("button", name="More", exact=True).click()
    expect(page.locator("#gallery-list li")).to_have_count(30)
    expect(page.get_by_role("button", name="More", exact=True)).to_be_hidden()
    expect(page.locator("#gallery-list .prompt").last).to_have_text("circle 0")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    ask(page, "circle 30")
    expect(page.locator("#gallery-list li")).to_have_count(31)


def test_scrubbing_by_keys_and_by_mouse_shows_the_moment(running: Start, opened: Open) -> None:
    server = running(makes)
    made(server, PROMPT)
    page = opened(server.url)
    link = page.locator("#gallery-list a.thumb")
    canvas = link.locator("canvas")
    grey = "canvas => canvas.getContext('2d').getImageData(9, 9, 1, 1).data[0]"
    link.focus()
    seen = []
    for key, moment in [("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", FRAMES - 1)]:
        page.keyboard.press(key)
        expect(canvas).to_have_attribute("data-moment", str(moment))
        seen.append(canvas.evaluate(grey))
    assert seen[0] < seen[1] < seen[2] < seen[4] and seen[1] == seen[3]
    page.keyboard.press("ArrowRight")
    expect(canvas).to_have_attribute("data-moment", str(FRAMES - 1))
    box = link.bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 20)
    expect(canvas).to_have_attribute("data-moment", "0")
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 20)
    expect(canvas).to_have_attribute("data-moment", str(FRAMES - 1))
    page.mouse.move(5, 5)
    expect(canvas).to_be_hidden()


def test_a_tap_opens_and_a_finger_that_moves_shows_moments(running: Start, opened: Open) -> None:
    server = running(makes)
    made(server, "circle 0", "circle 1")
    page = opened(server.url, has_touch=True, viewport={"width": 390, "height": 844})
    page.locator("#gallery-list li", has_text="circle 0").locator("a").tap()
    expect(shown(page)).to_contain_text("circle 0")
    link = page.locator("#gallery-list li", has_text="circle 1").locator("a")
    link.scroll_into_view_if_needed()
    box = link.bounding_box()
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *to: float) -> None:
        points = [{"x": box["x"] + x, "y": box["y"] + 20} for x in to]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 10)
    for x in (30, 60, box["width"] - 4):
        touch("touchMove", x)
    expect(link.locator("canvas")).to_have_attribute("data-moment", str(FRAMES - 1))
    touch("touchEnd")
    expect(link.locator("canvas")).to_be_hidden()
    expect(shown(page)).to_contain_text("circle 0")


def test_a_download_has_a_name_that_says_what_it_is(running: Start, opened: Open) -> None:
    server = running(makes)
    made(server, "A red circle: ../../left/right?", seed=7)
    page = opened(server.url)
    with page.expect_download() as waited:
        page.get_by_role("link", name="Download").click()
    assert waited.value.suggested_filename == "a-red-circle-left-right-seed-7.mp4"


def test_the_link_of_a_video_is_copied(running: Start, opened: Open) -> None:
    server = running(makes)
    (id,) = made(server, PROMPT)
    page = opened(server.url, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(shown(page)).to_contain_text("The link was copied.")
    assert page.evaluate("navigator.clipboard.readText()") == f"{server.url}/#v={id}"


def test_again_asks_for_the_same_and_another_seed_for_another(running: Start, opened: Open) -> None:
    server = running(makes)
    asked = {"seed": 2**63 - 1, "num_inference_steps": 3, "guidance_scale": 2.5, "negative_prompt": "squares", "fps": 2}
    made(server, PROMPT, **asked, preset="fast", output_format="gif", size="64x32")
    first = newest(server)
    page = opened(server.url)
    expect(shown(page)).to_contain_text(f"seed {2**63 - 1}")
    page.get_by_role("button", name="Again", exact=True).click()
    expect(page.locator("#gallery-list li")).to_have_count(2)
    same = newest(server)
    differs = {name for name in first if first[name] != same[name]} - {"sha256", "bytes"}
    assert differs <= {"id", "created_at", "started_at", "completed_at", "expires_at"}
    page.get_by_role("button", name="Again with another seed").click()
    expect(page.locator("#gallery-list li")).to_have_count(3)
    other = newest(server)
    assert other["seed"] != first["seed"] and other["asked"] == first["asked"]
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("What should the video show?")).to_be_focused()
    expect(page.get_by_label("Seed")).to_have_value(str(other["seed"]))
    expect(page.get_by_label("Steps", exact=True)).to_have_value("3")


def test_again_names_nothing_that_the_first_request_did_not(running: Start, opened: Open) -> None:
    server = running(makes)
    made(server, PROMPT)
    page = opened(server.url)
    page.get_by_role("button", name="Again", exact=True).click()
    expect(page.locator("#gallery-list li")).to_have_count(2)
    assert {value for name, value in newest(server)["asked"].items() if name != "picture"} == {None}


def test_delete_asks_first_and_a_running_video_can_be_left_alone(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    ask(page)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    server.executor.go_on.set()
    until_done(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog", name="Delete this video?")).to_contain_text(PROMPT)
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator("#gallery-list li")).to_have_count(1)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator("#gallery-list li")).to_have_count(0)
    expect(shown(page)).to_contain_text("Your video appears here.")
    assert re.search("video_", page.url) is None
    with server.client() as client:
        assert client.get("/v1/videos").json()["data"] == []
