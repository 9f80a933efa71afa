"""From a sentence to a video that plays, in a browser: what is seen on the way, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt import Bundle
from tests.serve.fakes import Running
from tests.serve.page.scripts import SIDE, makes, pauses
from tests.serve.page.steps import PROMPT, ask, shown, until_done, video_width
from tests.serve.processes import serving

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]


def test_a_sentence_becomes_a_video_that_plays_on_a_real_server(opened: Open, tiny: Bundle, tmp_path: Path) -> None:
    with serving(tiny.folder, tmp_path / "data") as server:
        page = opened(server.url)
        ask(page)
        until_done(page)
        assert video_width(page) == tiny.video.width
        expect(page.locator("#gallery-list li")).to_have_count(1)
        page.close()


def test_progress_preview_and_time_are_seen_until_it_plays(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    ask(page)
    stage = shown(page).locator(".stage")
    expect(stage).to_have_text("Making keyframes, step 2 of 4")
    expect(shown(page).get_by_alt_text("What the video looks like so far")).to_be_visible()
    bar = shown(page).get_by_role("progressbar")
    before = bar.evaluate("bar => bar.value")
    assert 0 < before < 100
    assert "1 in progress" in page.title()
    expect(page.locator("#status")).to_contain_text("Making keyframes")
    server.executor.go_on.set()
    until_done(page)
    assert video_width(page) == SIDE
    expect(page.locator("#shown video")).to_have_js_property("paused", False)
    expect(page.locator("#jobs")).to_be_hidden()
    assert page.title() == "ffrt"


def test_several_videos_wait_in_their_order_and_each_can_be_cancelled(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    for number in range(3):
        ask(page, f"circle {number}")
        expect(page.locator("#job-list li")).to_have_count(number + 1)
    rows = page.locator("#job-list li")
    expect(rows.nth(0)).to_contain_text("Making keyframes")
    expect(rows.nth(1)).to_contain_text("Next in the queue")
    expect(rows.nth(2)).to_contain_text("Number 2 in the queue")
    page.get_by_role("button", name="Cancel: circle 1").click()
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("Next in the queue")
    page.get_by_role("button", name="Cancel: circle 0").click()
    expect(rows).to_have_count(1)
    expect(page.locator("#gallery-list")).to_contain_text("Cancelled")
    expect(rows.nth(0)).to_contain_text("Making keyframes")
    shown(page).get_by_role("button", name="Cancel").click()
    expect(shown(page)).to_contain_text("Cancelled before it was done.")
    with server.client() as client:
        assert {video["state"] for video in client.get("/v1/videos").json()["data"]} == {"cancelled"}


def test_a_page_that_is_loaded_again_finds_what_runs(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    ask(page)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    page.reload()
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    expect(shown(page).get_by_alt_text("What the video looks like so far")).to_be_visible()
    other = opened(server.url)  # another window, without the address
    expect(other.locator("#job-list li")).to_have_count(1)
    page.close()
    expect(other.locator("#job-list img")).to_have_js_property("naturalWidth", SIDE)  # while there is a preview
    server.executor.go_on.set()
    until_done(other)


def test_a_video_of_another_client_appears_and_one_that_it_deletes_goes(running: Start, opened: Open) -> None:
    server = running(makes)
    with server.client() as client:
        ids = [client.post("/v1/videos", json={"prompt": f"circle {i}"}).json()["id"] for i in range(3)]
        server.until(lambda: {server.state(id) for id in ids} == {"completed"})
        page = opened(server.url, may_be_refused=True)  # a picture of what was just deleted
        expect(page.locator("#gallery-list li")).to_have_count(3)
        client.delete(f"/v1/videos/{ids[1]}")
        client.post("/v1/videos", json={"prompt": "circle 3"})
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#gallery-list .prompt")).to_have_text(["circle 3", "circle 2", "circle 0"])


def test_the_whole_way_goes_by_keys_alone(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    expect(page.get_by_role("button", name="Make video")).to_be_visible()
    keys = page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(40):
            keys.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(selector)

    tab_to("#field-prompt")
    keys.type(PROMPT)
    tab_to("input[name=preset]")
    keys.press("ArrowRight")
    tab_to("summary")
    keys.press("Enter")
    tab_to("#field-seed")
    keys.type("7")
    tab_to("button.main")
    keys.press("Enter")
    until_done(page)
    expect(shown(page)).to_contain_text("seed 7")
    expect(page.locator("button.main:focus")).to_have_count(1)  # what ends does not take the focus
    tab_to("#gallery-list a")
    keys.press("ArrowRight")
    expect(page.locator("#gallery-list canvas")).to_be_visible()
    keys.press("Enter")
    expect(page.locator("#shown-heading")).to_be_focused()
    tab_to("#gallery-list button")
    keys.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Keep it")).to_be_focused()
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.locator("#gallery-list button")).to_be_focused()
    keys.press("Enter")
    keys.press("Shift+Tab")
    keys.press("Enter")
    expect(page.locator("#gallery-list li")).to_have_count(0)
    expect(page.locator("#gallery-heading")).to_be_focused()


def test_a_question_that_is_asked_again_at_once_is_answered(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    ask(page)
    until_done(page)
    page.evaluate(
        """() => {
          const bin = document.querySelector("#gallery-list button");
          const dialog = document.getElementById("confirm");
          bin.click();
          dialog.close("no"); // tells of it only after the next click
          bin.click();
        }"""
    )
    page.wait_for_timeout(200)
    page.locator("#confirm-yes").click()
    expect(page.locator("#gallery-list li")).to_have_count(0)


def test_control_and_enter_send_the_form(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    page.get_by_label("What should the video show?").fill(PROMPT)
    page.keyboard.press("Control+Enter")
    until_done(page)
    expect(page.locator("#gallery-list .prompt")).to_have_text([PROMPT])


def test_less_motion_plays_nothing_by_itself(running: Start, opened: Open) -> None:
    page = opened(running(makes).url, reduced_motion="reduce")
    ask(page)
    until_done(page)
    assert video_width(page) == SIDE
    expect(page.locator("#shown video")).to_have_js_property("paused", True)


def test_a_gif_is_shown_as_a_picture(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    page.get_by_text("More options").click()
    page.get_by_label("File").select_option("gif")
    ask(page)
    picture = shown(page).get_by_alt_text(PROMPT)
    picture.wait_for()
    expect(picture).to_have_js_property("naturalWidth", SIDE)
