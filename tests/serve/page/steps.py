"""What a person does on the page."""

from __future__ import annotations

from typing import Any

PROMPT = "a red circle moving right"


def ask(page: Any, prompt: str = PROMPT) -> None:
    """Type a sentence and send it."""
    page.get_by_label("What should the video show?").fill(prompt)
    page.get_by_role("button", name="Make video").click()


def shown(page: Any) -> Any:
    """The section of the video that is shown."""
    return page.locator("#shown")


def until_done(page: Any) -> None:
    """Wait for the player of the video that is shown."""
    shown(page).locator("video").wait_for()


def video_width(page: Any) -> int:
    """How wide the browser sees the video that is shown, once it has read it."""
    return page.locator("#shown video").evaluate(
        "v => v.readyState > 0 ? v.videoWidth : new Promise(r => v.onloadedmetadata = () => r(v.videoWidth))"
    )
