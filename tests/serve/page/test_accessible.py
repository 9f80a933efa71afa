"""No violation that axe finds, in every state of the page, in both colour schemes, on a desktop and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt.serve.keys import add_key
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from tests.serve.fakes import Running, fails
from tests.serve.page.scripts import makes, pauses
from tests.serve.page.steps import ask, shown, until_done

pytestmark = pytest.mark.slow
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = pytest.importorskip("playwright.sync_api").expect
Start = Callable[..., Running]
Open = Callable[..., Any]
LONG = "averyveryverylongwordthatnobodywouldtypebutsomebodydoes" * 3 + " and " + "a lot more words " * 30
SCREENS = {
    f"{name} {scheme}": {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    for name, width, height in (("desktop", 1280, 900), ("phone", 390, 844))
    for scheme in ("light", "dark")
}


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SCREENS[request.param]


def check(page: Any) -> None:
    """axe finds nothing, and nothing is wider than the screen."""
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    wide, screen_ = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide <= screen_


def test_every_state_of_the_way(running: Start, opened: Open, screen: dict[str, Any]) -> None:
    server = running(pauses)
    page = opened(server.url, may_be_refused=True, **screen)
    expect(shown(page)).to_contain_text("Your video appears here.")
    check(page)
    page.get_by_text("More options").click()
    page.get_by_label("Steps", exact=True).fill("1000")
    ask(page, LONG)
    expect(page.locator("#num_inference_steps-error")).to_be_visible()
    check(page)
    page.get_by_label("Steps", exact=True).fill("")
    ask(page, LONG)
    expect(shown(page).locator(".stage")).to_contain_text("Making keyframes")
    ask(page, "circle 2")
    expect(shown(page)).to_contain_text("It waits for its turn.")
    check(page)
    server.executor.go_on.set()
    until_done(page)
    expect(page.locator("#gallery-list li")).to_have_count(2)
    check(page)
    page.locator("#gallery-list a").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#gallery-list canvas").first).to_be_visible()
    check(page)
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check(page)


def test_what_failed_and_what_was_lost(running: Start, opened: Open, screen: dict[str, Any]) -> None:
    server = running(fails("internal_error", False))
    page = opened(server.url, may_be_refused=True, **screen)
    ask(page, LONG)
    expect(shown(page)).to_contain_text("It went wrong")
    page.route("**/v1/**", lambda route: route.abort())
    ask(page)
    expect(page.get_by_role("alert")).to_be_visible()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#connection")).to_be_visible()
    check(page)


def test_logging_in(running: Start, opened: Open, screen: dict[str, Any], tmp_path: Path) -> None:
    add_key(tmp_path / "keys", "alice")
    server = running(makes, options=ServeOptions(keys=tmp_path / "keys", limits=Limits(disk_floor=0)))
    page = opened(server.url, may_be_refused=True, **screen)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#key-error")).to_be_visible()
    check(page)


def test_a_screen_reader_is_told_of_stages_and_not_of_steps(running: Start, opened: Open) -> None:
    server = running(pauses)
    page = opened(server.url)
    page.evaluate(
        "() => { window.told = []; const line = document.querySelector('[role=status]');"
        "new MutationObserver(() => told.push(line.textContent)).observe(line, {childList: true}) }"
    )
    ask(page, "circle")
    expect(page.locator("#status")).to_have_text("circle: Making keyframes")
    server.executor.go_on.set()
    until_done(page)
    expect(page.locator("#status")).to_have_text("circle: Done")
    told = page.evaluate("told")
    assert told[0] == "Queued: circle" and len(told) == len(set(told)) <= 7
    assert "step" not in " ".join(told)


def test_words_can_be_twice_as_large(running: Start, opened: Open) -> None:
    page = opened(running(makes).url, viewport={"width": 640, "height": 450})  # 1280 at 200 %
    ask(page, LONG)
    until_done(page)
    check(page)
