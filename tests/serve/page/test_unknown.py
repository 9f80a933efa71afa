"""Videos that the page does not know: named in the address, deleted, or forgotten when they are shown no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.fakes import Running
from tests.serve.page.scripts import makes, pauses
from tests.serve.page.steps import ask, shown
from tests.serve.page.test_state import made

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]
GONE = "It may have been deleted."
WATCH = """addEventListener('DOMContentLoaded', () => new MutationObserver(() => {
    if (document.body.textContent.includes('It may have been deleted')) window.saidGone = true;
}).observe(document.body, {childList: true, subtree: true, characterData: true}))"""
FULL = {"error": {"message": "the disk is full", "type": "server_error", "param": None, "code": "disk_full"}}


def test_a_lost_connection_is_no_deleted_video_and_it_is_asked_for_again(running: Start, opened: Open) -> None:
    server = running(makes, queue=64, queue_per_key=64, per_minute=1000)
    oldest, *_ = made(server, *[f"circle {i}" for i in range(26)])
    page = opened(server.url, may_be_refused=True)
    page.add_init_script(WATCH)
    page.route(f"**/v1/videos/{oldest}", lambda route: route.abort())
    page.goto(f"{server.url}/#v={oldest}")
    page.reload()
    expect(page.locator("#connection")).to_have_text("Connection lost. Trying again…")
    expect(shown(page)).to_contain_text("The video is looked for.")
    page.unroute(f"**/v1/videos/{oldest}")
    expect(shown(page).locator(".prompt")).to_have_text("circle 0")
    expect(page.locator("#connection")).to_be_hidden()
    assert not page.evaluate("window.saidGone === true")


def test_a_linked_video_is_shown_though_the_list_fails(running: Start, opened: Open) -> None:
    server = running(makes)
    (id,) = made(server, "circle 0")
    page = opened(server.url, may_be_refused=True)
    page.route("**/v1/videos?*", lambda route: route.abort())
    page.goto(f"{server.url}/#v={id}")
    page.reload()
    expect(shown(page).locator(".prompt")).to_have_text("circle 0")
    expect(page.locator("#connection")).to_have_text("Connection lost. Trying again…")


def test_a_linked_older_video_is_never_said_to_be_gone(running: Start, opened: Open) -> None:
    server = running(makes, queue=64, queue_per_key=64, per_minute=1000)
    oldest, *_ = made(server, *[f"circle {i}" for i in range(26)])
    page = opened(server.url)
    page.add_init_script(WATCH)
    page.goto(f"{server.url}/#v={oldest}")
    page.reload()
    expect(shown(page).locator(".prompt")).to_have_text("circle 0")
    assert not page.evaluate("window.saidGone === true")


def test_a_video_that_is_deleted_elsewhere_is_said_to_be_gone(running: Start, opened: Open) -> None:
    server = running(makes)
    (id,) = made(server, "circle 0")
    page = opened(f"{server.url}/#v={id}", may_be_refused=True)
    expect(shown(page).locator(".prompt")).to_have_text("circle 0")
    with server.client() as client:
        client.delete(f"/v1/videos/{id}")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(shown(page)).to_contain_text(GONE)


def test_what_is_no_longer_shown_is_forgotten(running: Start, opened: Open) -> None:
    page = opened(running(makes).url)
    sizes = page.evaluate(
        """async () => {
            const { Videos } = await import('/page/videos.js');
            const { Live } = await import('/page/live.js');
            const { Jobs } = await import('/page/jobs.js');
            const { Viewer } = await import('/page/viewer.js');
            const videos = new Videos(), live = new Live(videos);
            const jobs = new Jobs(videos, () => {}, () => {});
            const viewer = new Viewer(videos, {onRefused: () => {}});
            const facts = {
                state: 'queued', prompt: 'a circle', stage: null, step: null, steps: null, queue_position: 1,
                progress: 0, eta_s: null, size: '64x64', duration_s: 1, fps: 8, num_inference_steps: 4,
                sampler: 'euler', seed: '1', guidance_scale: 1, bytes: null,
                negative_prompt: null, expires_at: null, warnings: [], error: null,
            };
            for (let i = 0; i < 5; i++) {
                const id = `video_${String(i).padStart(32, '0')}`;
                videos.add({ ...facts, id });
                viewer.show(id);
                live.refusedUntil.set(id, Date.now() - 1);
                videos.preview(id, 'page/favicon.svg');
                videos.remove(id);
                videos.put({ ...facts, id }); // a late word
            }
            for (let i = 5; i < 8; i++) videos.found({ ...facts, id: `video_${i}`, state: 'cancelled' });
            live.choose();
            return [live.refusedUntil, videos.gone ?? [], jobs.stages, viewer.fresh, videos.previews, videos.known]
                .map((kept) => [...kept].length);
        }"""
    )
    assert sizes == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("button", "said"),
    [("Cancel", "the video goes on."), ("Delete", "nothing was deleted."), (None, "nothing was queued")],
)
def test_a_full_disk_says_what_was_not_done(running: Start, opened: Open, button: str | None, said: str) -> None:
    page = opened(running(pauses if button == "Cancel" else makes).url, may_be_refused=True)
    if button is not None:
        ask(page)
    page.route(
        "**/v1/videos**",
        lambda route: route.fulfill(status=507, json=FULL) if route.request.method != "GET" else route.continue_(),
    )
    page.route(
        "**/v1/videos/**",
        lambda route: route.fulfill(status=507, json=FULL) if route.request.method != "GET" else route.continue_(),
    )
    if button is None:
        ask(page)
    else:
        shown(page).get_by_role("button", name=button, exact=True).click()
    if button == "Delete":
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(f"The disk of the server is full, so {said}")
    assert ("queued" in alert.inner_text()) == (button is None)
