"""What fastv-serve's page looks like: pictures of it in a browser, desktop and phone, light and dark.

    python benchmarks/page_screenshots.py demo/out/two.fastv docs/serving

The bundle is one of the demo model. A Chromium must be installed, and playwright, which the extra `dev` brings.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from fastv_runtime.files import write_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
IMAGES = Path(__file__).parent.parent / "demo" / "images"
TALL, DESKTOP = ({"viewport": {"width": 1200, "height": height}} for height in (1150, 760))
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
COLORS = 256
"""Of a picture's palette: the pages are flat, but for the images on them."""


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """The address of a server of its own."""
    options = ["--model-name", "demo", "--port", "0", "--threads", "1", "--json"]
    command = [sys.executable, "-m", "fastv_runtime.cli.serve", str(bundle), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            started = server.stdout.readline()
            if not started:
                raise SystemExit("the server did not start")
            yield json.loads(started)["url"]
        finally:
            server.terminate()


def ask(page: Page, text: str, image: str | None = None) -> None:
    if image is not None:
        page.locator("#files").set_input_files(IMAGES / image)
        page.get_by_role("button", name="Remove").wait_for()
    turns = page.locator(".turn").count()
    page.get_by_role("textbox", name="Question").fill(text)
    page.get_by_role("button", name="Ask", exact=True).click()
    page.locator(".turn").nth(turns).wait_for()
    finish(page)


def finish(page: Page) -> None:
    page.locator(".turn[aria-busy=true]").wait_for(state="detached")


def two_questions(page: Page) -> None:
    ask(page, "Which shape is cyan?", "scene4.png")
    ask(page, "How many numbers are there?")
    page.evaluate("window.scrollTo(0, 0)")


def two_fractions(page: Page) -> None:
    ask(page, "In which part of the picture is the blue star?", "scene2.png")
    page.get_by_role("slider", name="Keep").fill("0.08")
    page.get_by_role("button", name="Ask again").click()
    finish(page)


def numbers(page: Page) -> None:
    two_fractions(page)
    page.evaluate("window.scrollBy(0, 320)")


def one_question(page: Page) -> None:
    ask(page, "Tell me about the white object.", "scene1.png")


SHOWN: dict[str, tuple[dict[str, Any], Callable[[Page], None]]] = {
    "desktop-light": (TALL, two_questions),
    "desktop-dark": (DESKTOP, two_fractions),
    "phone-light": (PHONE, one_question),
    "phone-dark": (PHONE, numbers),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        parser.error(f"no browser: none of {', '.join(BROWSERS)} is installed")
    args.folder.mkdir(parents=True, exist_ok=True)
    with served(args.bundle) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, (device, act) in SHOWN.items():
            options = {**device, "color_scheme": name.partition("-")[2]}
            with browser.new_context(**options) as context:
                page = context.new_page()
                page.goto(address)
                page.get_by_role("slider", name="Keep").wait_for()
                ask(page, "What color is the star?", "scene2.png")  # the first answer of all is a slow one
                page.get_by_role("button", name="Start over").click()
                act(page)
                page.evaluate("document.activeElement.blur()")
                page.mouse.move(0, 0)
                picture = Image.open(io.BytesIO(page.screenshot(animations="disabled")))
            data = io.BytesIO()
            picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
            write_atomically(args.folder / f"{name}.png", data.getvalue())
            print(f"{name}: {picture.width} x {picture.height}, {len(data.getvalue()) // 1000} kB")
        browser.close()


if __name__ == "__main__":
    main()
