"""What goes wrong and how the page says it: wrong fields, full servers, lost connections, hostile prompts."""

from __future__ import annotations

import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest

from ffrt import Bundle
from tests.serve.fakes import Running, fails
from tests.serve.page.scripts import makes, pauses
from tests.serve.page.steps import PROMPT, ask, shown, until_done
from tests.serve.processes import ServerProcess

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg/onload=alert(3)>{{7*7}} javascript:alert(4) \u202e"
)


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("Steps", "1000", "Expected at most 100, got 1000"),
        ("Steps", "0", "greater than or equal to 1"),
        ("Guidance", "-1", "greater than or equal to 0"),
        ("Seed", "9999999999999999999", "less than or equal to 9223372036854775807"),
        ("Seed", "seven", "Expected digits only."),
        ("Width in pixels", "33", "multiple"),
        ("Height in pixels", "9984", "pixels"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field(
    running: Start, opened: Open, label: str, value: str, said: str
) -> None:
    page = opened(running(makes).url, may_be_refused=True)
    page.get_by_text("More options").click()
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    page.get_by_text("More options").click()  # closed again: what is wrong opens it
    ask(page)
    expect(field).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".field", has=field).locator(".error")).to_contain_text(said)
    if not label.endswith("pixels"):
        expect(field).to_be_focused()
        expect(field).to_have_accessible_description(re.compile(said))
    field.fill("")
    ask(page)
    until_done(page)
    expect(page.locator(".error:visible")).to_have_count(0)


def test_an_empty_prompt_is_not_sent(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("#prompt-error")).to_have_text("Type what the video should show.")
    expect(page.get_by_label("What should the video show?")).to_be_focused()


def test_a_control_character_is_told_by_the_prompt(running: Start, opened: Open) -> None:
    page = opened(running(makes).url, may_be_refused=True)
    ask(page, "a\x07circle")
    expect(page.locator("#prompt-error")).to_contain_text("control characters")


def test_full_queues_rates_and_disks_are_told_in_plain_words(
    running: Start, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = running(pauses, queue=1, per_minute=4, disk_floor=1000)
    page = opened(server.url, may_be_refused=True)
    alert = page.get_by_role("alert")
    ask(page)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    ask(page, "circle 1")
    expect(page.locator("#job-list li")).to_have_count(2)
    ask(page, "circle 2")
    expect(alert).to_have_text("The queue is full. Try again when a video is done, or cancel one.")
    page.get_by_role("button", name="Cancel: circle 1").click()
    expect(page.locator("#job-list li")).to_have_count(1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10))
    ask(page, "circle 3")
    expect(alert).to_contain_text("The disk of the server is full")
    ask(page, "circle 4")
    expect(alert).to_contain_text("too many requests in a short time. Try again in")
    server.service.ending.set()
    ask(page, "circle 5")
    expect(alert).to_contain_text("about to restart")


@pytest.mark.parametrize(("code", "retryable"), [("internal_error", False), ("invalid_reference", False)])
def test_a_video_that_was_not_made_says_why(running: Start, opened: Open, code: str, retryable: bool) -> None:
    page = opened(running(fails(code, retryable)).url)
    ask(page)
    expect(shown(page)).to_contain_text("It went wrong")
    expect(page.locator("#gallery-list")).to_contain_text("Not made")
    expect(page.get_by_role("link", name="Download")).to_have_count(0)
    expect(page.get_by_role("button", name="Again with another seed")).to_be_visible()


def test_a_hostile_prompt_is_text_and_nothing_else(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    ask(page, HOSTILE)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    expect(page.locator("#job-list .prompt")).to_have_text(HOSTILE)
    server.executor.go_on.set()
    until_done(page)
    expect(shown(page).locator(".prompt")).to_have_text(HOSTILE)
    expect(page.locator("#gallery-list .prompt")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.locator("#confirm-text")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Keep it").click()
    page.reload()
    expect(page.get_by_label("What should the video show?")).to_have_value(HOSTILE)
    assert dialogs == []
    foreign = "[onerror], [onload], body script, main script, svg:not(.icon), img[src=x]"
    assert page.locator(foreign).count() == 0


def test_a_server_that_goes_and_comes_back_is_told_and_its_job_goes_on(
    opened: Open, tiny: Bundle, tmp_path: Any
) -> None:
    flags = ["--max-steps", "1000"]
    server = ServerProcess(tiny.folder, tmp_path / "data", tmp_path / "log", *flags)
    try:
        server.until_ready()
        page = opened(server.url, may_be_refused=True)
        page.get_by_text("More options").click()
        page.get_by_label("Steps", exact=True).fill("1000")
        page.locator("label", has=page.locator("input[name=fps][value='30']")).click()
        ask(page)
        expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
        server.kill()
        line = page.locator("#connection")
        expect(line).to_have_text("Connection lost. Trying again…")
        ask(page, "circle 2")
        expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
        port = server.url.rsplit(":", 1)[1]
        server = ServerProcess(tiny.folder, tmp_path / "data", tmp_path / "log", *flags, "--port", port)
        expect(line).to_be_hidden(timeout=60_000)
        expect(page.locator("#status")).not_to_have_text("")
        expect(shown(page).locator("video")).to_be_visible(timeout=120_000)
        page.get_by_role("button", name="Make video").click()
        expect(page.locator("#job-list")).to_contain_text("circle 2")
        page.close()
    finally:
        server.kill()


def test_a_server_that_drains_says_so_until_it_is_back(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url, may_be_refused=True)
    ask(page)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    with server.client() as client:
        (video,) = client.get("/v1/videos").json()["data"]
    server.service.ending.set()
    server.service.live.tell(video["id"])
    expect(page.locator("#connection")).to_have_text("The server is restarting. What waits is kept.")
    with page.expect_response("**/session") as asked:
        pass
    assert asked.value.json()["ending"]
    expect(page.locator("#connection")).to_be_visible()  # it answers, and ends nevertheless
    server.service.ending.clear()
    expect(page.locator("#connection")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Connected again.")
    server.executor.go_on.set()
    until_done(page)


def test_a_lost_answer_makes_no_second_video(running: Start, opened: Open) -> None:
    server = running(makes)
    page = opened(server.url, may_be_refused=True)
    lost = []

    def lose(route: Any) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/videos", lose)
    ask(page)
    expect(page.get_by_role("alert")).to_contain_text("nothing is made twice")
    page.get_by_role("button", name="Make video").click()
    until_done(page)
    with server.client() as client:
        assert (lost, len(client.get("/v1/videos").json()["data"])) == ([200], 1)


def test_streams_that_are_refused_leave_the_list_to_tell(running: Start, opened: Open) -> None:
    server = running(pauses, streams_per_key=0)
    page = opened(server.url, may_be_refused=True)
    ask(page, PROMPT)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    server.executor.go_on.set()
    until_done(page)
