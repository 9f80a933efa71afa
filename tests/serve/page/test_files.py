"""The files of the page, as they come over HTTP."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources

import pytest

from tests.serve.fakes import Running

Start = Callable[..., Running]
NAMES = sorted(path.name for path in resources.files("ffrt.serve").joinpath("page").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_every_file_has_its_kind_and_a_tag_by_which_a_browser_keeps_it(running: Start, name: str) -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    path = "/" if name == "index.html" else f"/page/{name}"
    with running().client() as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == kinds[name.rsplit(".", 1)[1]]
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(path).headers["etag"] == answer.headers["etag"]
        assert client.post(path).status_code == 405


@pytest.mark.parametrize(
    "name",
    ["", "nothing.js", "index.html", "../page.py", "..%2fkeys.py", "%2e%2e/keys.py", "main.js%00", "MAIN.JS"],
)
def test_what_is_no_file_of_the_page_is_not_found(running: Start, name: str) -> None:
    with running().client(follow_redirects=True) as client:
        assert client.get(f"/page/{name}").status_code == 404


def test_the_policy_is_strict_and_the_page_has_nothing_that_it_forbids(running: Start) -> None:
    with running().client() as client:
        page = client.get("/")
        texts = [page.text, *(client.get(f"/page/{name}").text for name in NAMES if name != "index.html")]
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy and "unsafe" not in policy
    assert re.findall(r"<style|<script(?! type=\"module\" src=)|\son\w+=|\sstyle=", page.text) == []
    for text in texts:
        assert re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text) == []
        assert set(re.findall(r"https?://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_files_are_short_enough_to_be_read() -> None:
    for path in resources.files("ffrt.serve").joinpath("page").iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 300 and max(map(len, lines)) <= 120, path.name


def test_the_page_needs_no_key_and_the_schema_does_not_name_it(running: Start) -> None:
    with running().client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if path.startswith(("/page", "/session")) or path == "/"]


def test_the_card_says_what_holds_without_options(running: Start) -> None:
    with running().client() as client:
        card = client.get("/v1/models").json()["data"][0]
        video = client.post("/v1/videos", json={"prompt": "a"}).json()
        few = client.post("/v1/videos", json={"prompt": "a", "preset": "fast"}).json()
    assert video["fps"] == card["default_fps"]
    for preset, made in ((card["presets"][0], video), ("fast", few)):
        assert {name: made[name] for name in card["defaults"][preset]} == card["defaults"][preset]
