"""Logging in and out on the page of a server that asks for keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ffrt.serve.keys import add_key, remove_key
from ffrt.serve.limits import Limits
from ffrt.serve.options import ServeOptions
from tests.serve.fakes import Running
from tests.serve.page.scripts import SIDE, makes
from tests.serve.page.steps import PROMPT, ask, shown, until_done, video_width

pytestmark = pytest.mark.slow
expect = pytest.importorskip("playwright.sync_api").expect
Open = Callable[..., Any]


@pytest.fixture
def keyed(running: Callable[..., Running], tmp_path: Path) -> tuple[Running, str]:
    """A server with a key, and that key."""
    token = add_key(tmp_path / "keys", "alice")
    options = ServeOptions(keys=tmp_path / "keys", limits=Limits(disk_floor=0))
    return running(makes, options=options), token


def log_in(page: Any, token: str) -> None:
    page.get_by_label("API key").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_a_key_logs_in_makes_a_video_and_lies_nowhere(keyed: tuple[Running, str], opened: Open) -> None:
    server, token = keyed
    page = opened(server.url, may_be_refused=True)
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.get_by_label("What should the video show?")).to_have_count(0)
    for wrong in ("ffrt_wrong", "schlüssel", ""):
        log_in(page, wrong)
        expect(page.locator("#key-error")).to_have_text("The server does not know this key.")
        expect(page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
    log_in(page, token)
    expect(page.locator("#who")).to_contain_text("alice")
    ask(page)
    until_done(page)
    assert video_width(page) == SIDE
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert token not in page.content() and token not in page.url
    page.reload()
    expect(shown(page)).to_contain_text(PROMPT)
    expect(page.locator("#who")).to_contain_text("alice")


def test_logging_out_leaves_nothing_to_see(keyed: tuple[Running, str], opened: Open) -> None:
    server, token = keyed
    page = opened(server.url, may_be_refused=True)
    log_in(page, token)
    ask(page)
    until_done(page)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.url == f"{server.url}/"
    assert PROMPT not in page.content()
    page.go_back()
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.locator("#shown")).to_be_hidden()


def test_a_session_that_has_ended_is_told_and_the_form_is_kept(
    keyed: tuple[Running, str], opened: Open, tmp_path: Path
) -> None:
    server, token = keyed
    page = opened(server.url, may_be_refused=True)
    tried: list[str] = []
    page.on("request", lambda one: tried.append(one.url) if one.method == "POST" and "session" in one.url else None)
    log_in(page, token)
    page.get_by_label("What should the video show?").fill("circle 2")
    remove_key(tmp_path / "keys", "alice")
    new = add_key(tmp_path / "keys", "alice")
    server.keys.reload()
    page.get_by_role("button", name="Make video").click()
    expect(page.locator("#log-in-why")).to_have_text("Your session has ended. Log in again to go on.")
    log_in(page, token)
    expect(page.locator("#key-error")).to_be_visible()
    log_in(page, new)
    expect(page.get_by_label("What should the video show?")).to_have_value("circle 2")
    assert len(tried) == 3, "each key is sent once"
    page.get_by_role("button", name="Make video").click()
    until_done(page)
