"""The page at `/`: the files of `ffrt/serve/page`, read once. A name is looked up among them and goes to no disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, Request, Response

from ffrt.serve.errors import Refused

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
START = "index.html"


@dataclass(frozen=True)
class PageFile:
    """A file as it is sent, and the tag that says whether a browser has it."""

    content: bytes
    kind: str
    etag: str


def files() -> dict[str, PageFile]:
    """All files of the page by their names."""
    found = {}
    for path in resources.files("ffrt.serve").joinpath("page").iterdir():
        kind = TYPES.get(path.name[path.name.rfind(".") :])
        if kind is not None:
            content = path.read_bytes()
            found[path.name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


def page() -> APIRouter:
    """The routes of the page, which need no key and which `/openapi.json` does not name."""
    router = APIRouter(include_in_schema=False)
    known = files()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def start(request: Request) -> Response:
        return _answer(known[START], request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def part(name: str, request: Request) -> Response:
        file = known.get(name)
        if file is None or name == START:
            raise Refused(404, "not_found", f"the page has no file {name!r:.80}")
        return _answer(file, request)

    return router


def _answer(file: PageFile, request: Request) -> Response:
    """The file, or 304 for a browser that has it: each is asked for again, so that a new version is seen at once."""
    headers = {"etag": file.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers={**headers, "content-type": file.kind})
