"""`python -m docs.serving_page`: make the pictures of the page of `ffrt serve`, with the demo bundle and chromium.

`docs/serving-page.webp` is a wide window while a video is made, `docs/serving-page-dark.webp` the dark scheme with one
that is done, and `docs/serving-page-phone.webp` a phone in both.
"""

import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ffrt.output.whole_file import whole_file
from tests.serve.processes import ROOT, serving

DONE = (
    "a yellow triangle moving up on a teal background",
    "a small white circle moving left on a black background",
    "a large purple square shrinking on a brown background",
    "a blue circle moving down on a grey background",
    "a green square moving left on a black background",
    "a yellow circle growing on a grey background",
)
UNDER_WAY = ("a red circle moving right on a black background", "a white triangle moving down on a teal background")
WIDE, PHONE = {"width": 1280, "height": 1180}, {"width": 390, "height": 844}
GAP_PX = 24
PATIENCE_MS = 600_000


def opened(browser: Browser, url: str, viewport: dict[str, int], scheme: str) -> Page:
    """A window on the page, when its pictures are there."""
    page = browser.new_page(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.locator("#form").wait_for()
    page.wait_for_load_state("networkidle" if scheme == "dark" else "load")
    return page


def ask(page: Page, prompt: str, preset: str) -> None:
    """Queue a video."""
    page.get_by_label("What should the video show?").fill(prompt)
    page.locator("label", has=page.locator(f"input[name=preset][value={preset}]")).click()
    page.get_by_role("button", name="Make video").click()
    page.locator("#job-list li", has_text=prompt).wait_for()


def seek(page: Page) -> None:
    """Show the video in its middle, when the browser has all of it and shows no sign of loading any more."""
    player = page.locator("#shown video")
    player.evaluate("one => { one.preload = 'auto'; one.currentTime = 3; }")
    expect(player).to_have_js_property("readyState", 4)
    expect(player).to_have_js_property("seeking", False)
    page.wait_for_timeout(1000)


def shot(page: Page) -> Image.Image:
    """What the window shows."""
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(picture: Image.Image, name: str) -> None:
    """Write a picture of the documentation."""
    with whole_file(Path(__file__).parent / name) as part:
        picture.save(part, "WEBP", quality=82, method=6)


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height beside each other."""
    width = sum(one.width for one in pictures) + GAP_PX * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, pictures[0].height), (255, 255, 255))
    left = 0
    for one in pictures:
        sheet.paste(one, (left, 0))
        left += one.width + GAP_PX
    return sheet


def pictures(browser: Browser, url: str) -> None:
    """Make videos and write the pictures."""
    page = opened(browser, url, WIDE, "light")
    for prompt in DONE:
        ask(page, prompt, "fast")
    page.locator("#jobs").wait_for(state="hidden")
    for prompt in UNDER_WAY:
        ask(page, prompt, "quality")
    page.locator("#job-list a").first.click()
    page.locator("#shown .stage", has_text="step 30 of 50").wait_for()
    page.mouse.move(0, 0)
    page.locator("#shown-heading").blur()
    save(shot(page), "serving-page.webp")
    phone = opened(browser, url, PHONE, "light")
    phone.locator("#job-list a").first.click()
    phone.locator("#shown .stage", has_text="step").wait_for()
    phone.locator("#shown").evaluate("one => scrollTo(0, one.offsetTop - 12)")
    under_way = shot(phone)
    page.locator("#jobs").wait_for(state="hidden")
    page.close()
    dark = opened(browser, url, WIDE, "dark")
    dark.locator("#gallery-list a", has=dark.get_by_alt_text(DONE[0])).click()
    seek(dark)
    dark.mouse.move(0, 0)
    dark.get_by_role("link", name=DONE[-1]).focus()
    for _ in range(8):
        dark.keyboard.press("ArrowRight")
    dark.locator("#gallery-list canvas:visible").wait_for()
    dark.evaluate("scrollTo(0, 0)")
    save(shot(dark), "serving-page-dark.webp")
    phone_dark = opened(browser, url, PHONE, "dark")
    seek(phone_dark)
    save(beside(under_way, shot(phone_dark)), "serving-page-phone.webp")


def main() -> None:
    """Serve the demo from an empty folder and look at it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(ROOT / "graphs" / "demo", Path(folder, "data")) as server,
        sync_playwright() as started,
        started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]) as browser,
    ):
        pictures(browser, server.url)


if __name__ == "__main__":
    main()
