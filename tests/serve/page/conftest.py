"""A real browser on the page, which watches for what no page should do."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("httpx") is None:
    collect_ignore_glob = ["test_*.py"]

ENDED = re.compile(r"/v1/videos/[^/]+/preview$")
"""The address of a picture that is gone as soon as a video is done, maybe while it is asked for."""
REFUSED = re.compile(r"Failed to load resource: (the server responded with a status of [45]\d\d|net::ERR_)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's chromium, or playwright's own; a test without either is skipped. Its event loop ends with the module."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as started:
        try:
            opened = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except api.Error as error:
            pytest.skip(f"there is no chromium: apt-get install chromium ({str(error)[:200]})")
        yield opened
        opened.close()


@dataclass
class Watch:
    """What a page did: errors in its console, and requests to other servers."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    may_be_refused: bool = False

    def logged(self, kind: str, text: str, url: str) -> None:
        """A line of the console, about an address."""
        gone = text.endswith("404 (Not Found)") and ENDED.search(urlsplit(url).path)
        if kind == "error" and not gone:
            self.errors.append(text)

    def check(self) -> None:
        """Nothing went wrong but what the test asked for: a browser logs an answer of 400 and up by itself."""
        errors = [one for one in self.errors if not (self.may_be_refused and REFUSED.match(one))]
        assert (errors, self.foreign) == ([], [])


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens an address: `opened(url, may_be_refused=True, **options of the context)`; a Page.

    When the test ends, the page has thrown nothing, the policy was not violated, and no other server was asked.
    """
    contexts, watches = [], []

    def open_(url: str, *, may_be_refused: bool = False, context: Any = None, **options: Any) -> Any:
        watch = Watch(may_be_refused=may_be_refused)
        own = urlsplit(url)[:2]
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
            context.set_default_timeout(20_000)
            contexts.append(context)
        page = context.new_page()
        page.on("console", lambda one: watch.logged(one.type, one.text, one.location["url"]))
        page.on("pageerror", lambda error: watch.errors.append(str(error)))

        def requested(request: Any) -> None:
            there = urlsplit(request.url)
            if there.scheme not in ("blob", "data") and there[:2] != own:
                watch.foreign.append(request.url)

        page.on("request", requested)
        watches.append(watch)
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    for watch in watches:
        watch.check()


@pytest.fixture(autouse=True)
def patience() -> None:
    """A busy machine is no fault."""
    with suppress(ImportError):
        from playwright.sync_api import expect

        expect.set_options(timeout=20_000)
